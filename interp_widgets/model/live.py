"""LiveModel: one per module. The module, its tokenizer and anatomy, the hooks, the lock, and what runs on them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Unpack, overload

import torch
from torch import nn

from interp_widgets.model.anatomy import Anatomy, find_anatomy
from interp_widgets.model.cache import ByteCache
from interp_widgets.model.compile import compile_program, receipts_of
from interp_widgets.model.errors import CancelledError, ClosedError, FeatureOffError, ModelChangedError, PromptError
from interp_widgets.model.fingerprint import Fingerprint, WeightProbe
from interp_widgets.model.gate import Gate, Program
from interp_widgets.model.generate import generate
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.patterns import install, remove, wraps
from interp_widgets.model.probe import embedding, vocabulary
from interp_widgets.model.question import Asked, Prompt, Token, Tokenizer, refuse_tokenizer
from interp_widgets.model.reading import Reading, read_answer
from interp_widgets.model.readout import Readout
from interp_widgets.model.receipts import Receipt
from interp_widgets.model.reference import Reference
from interp_widgets.model.report import Report
from interp_widgets.model.run import Batch, Caller, Run, batch_of, forward
from interp_widgets.model.sites import Site
from interp_widgets.model.unwrap import dropout_of, refuse_structure, unwrap
from interp_widgets.model.values import goes_by_tokens

if TYPE_CHECKING:
    from interp_widgets.model.ending import Options
    from interp_widgets.model.written import GenerationRun

_REGISTRY: dict[int, weakref.ref[LiveModel]] = {}
_REGISTRY_LOCK = threading.Lock()
_RUN_BYTES = 256 << 20
_CHANGED = "The model's weights were changed or moved while it ran, so there is no answer of any one model; ask again."


def _after_fork() -> None:
    # The thread that held a lock is not in the child, and would never release it there.
    global _REGISTRY_LOCK  # noqa: PLW0603
    _REGISTRY_LOCK = threading.Lock()  # pyright: ignore[reportConstantRedefinition]
    for ref in list(_REGISTRY.values()):
        live = ref()
        if live is not None:
            live.lock = threading.RLock()
            live.cache = ByteCache(live.cache.budget)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

FEW_ROWS = 4  # from more on, a block takes so long that one asks inside it whether to stop


class LiveModel:
    """The user's own module, opened: stock `transformers`, never wrapped, re-weighted or left changed.

    Use `open_model`, which gives the same `LiveModel` for the same module.

    Attributes:
        module: the module that was passed.
        tokenizer: the tokenizer that was passed.
        anatomy: where its parts are.
        report: the checks on attach.
        reference: the prompts that mean ablation uses when nothing else is named.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Any, *, name: str, reference: Reference | None, cache_bytes: int
    ) -> None:
        root, _ = unwrap(module)
        refuse_structure(root)
        refuse_tokenizer(tokenizer, vocabulary(embedding(root)))
        self.module = module
        self.tokenizer = tokenizer
        self.name = name
        self.anatomy: Anatomy = find_anatomy(module)
        self.reference = reference
        self.lock = threading.RLock()
        self.cache = ByteCache(cache_bytes)
        self.tokens = Tokenizer(tokenizer, self.anatomy.vocab, context_length(self.anatomy.root))
        self.unk_is_bos = getattr(tokenizer, "unk_token_id", None) in (None, getattr(tokenizer, "bos_token_id", None))
        self.gate = Gate(self.anatomy)
        self.caller = Caller(self.anatomy)
        self.readout = Readout(self.anatomy)
        self.dims: dict[str, int] = {}
        self.spans: dict[str, tuple[int, ...]] = {}
        self._probe = WeightProbe(self.anatomy)
        self._salt = 0
        self._users = 0
        self.attention_implementation = attention_implementation(self.anatomy)
        self.report: Report = Report(())

    # ---- lifetime -------------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """One more session uses this model; the first one installs the hooks."""
        with self.lock:
            self._users += 1
            if self._users == 1:
                self.gate.install()
                if self.patterns_wrapped:
                    install(self.attention_implementation)

    def release(self) -> None:
        """One session less; with the last one the hooks go and the cache is freed."""
        with self.lock:
            if self._users == 0:
                return
            self._users -= 1
            if self._users == 0:
                self.gate.remove()
                if self.patterns_wrapped:
                    remove(self.attention_implementation)
                self.cache.clear()

    @property
    def users(self) -> int:
        """How many sessions hold the model."""
        return self._users

    def still(self, tokenizer: Any) -> bool:
        """Whether it is in use, for this tokenizer, and the model is built as it was when it was opened."""
        with self.lock:
            try:
                self.gate.check()
            except ModelChangedError:
                return False
            return self._users > 0 and same_tokens(self.tokenizer, tokenizer)

    @property
    def patterns_wrapped(self) -> bool:
        """Whether attention goes through the registry, so that patterns can be read and written there."""
        return wraps(self.attention_implementation)

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are rotated before attention sees them."""
        return any("rotary" in type(m).__name__.lower() for m in self.anatomy.root.modules())

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        weight = getattr(self.anatomy.embed, "weight", None)
        if isinstance(weight, torch.Tensor) and not weight.is_meta:
            return weight.device
        hook = getattr(self.anatomy.embed, "_hf_hook", None)
        return torch.device(getattr(hook, "execution_device", None) or "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next((p.dtype for p in self.anatomy.root.parameters() if p.is_floating_point()), torch.float32)

    def fingerprint(self) -> Fingerprint:
        """The key of everything cached: weights, foreign hooks, mode."""
        return (*self._probe.read(), self._salt)

    @contextmanager
    def unchanged(self, since: Fingerprint | None = None) -> Generator[Fingerprint]:
        """Refuse what the block computed when the weights changed meanwhile, in another thread or in own code; yields their key.

        Args:
            since: the key that they must still have, when it is older than the block.

        Raises:
            ModelChangedError: in the place of a number that two models made, and of an error that came of it.
        """
        key = since or self._probe.weights()  # what changed before the block is still changed behind it
        try:
            yield key
        except CancelledError:
            raise
        except Exception as error:
            if self._probe.weights() == key:
                raise
            raise ModelChangedError(_CHANGED) from error
        if self._probe.weights() != key:
            raise ModelChangedError(_CHANGED)

    def refresh(self) -> None:
        """Forget what is cached, after a change that the key cannot see."""
        self._salt += 1
        self.cache.clear()

    def ready(self) -> None:
        """Called inside the lock before every forward: hooks are there, modules are the ones that were found.

        Raises:
            ClosedError: when no session holds the model.
            ModelChangedError: when a module was replaced.
        """
        if self._users == 0:
            raise ClosedError(f"The model {self.name!r} has been closed; open it again with iw.open(model, tokenizer).")
        refuse_dropout(self.anatomy.root)
        self.gate.check()
        self.gate.install()
        self._follow_attention()

    def _follow_attention(self) -> None:
        """The user may have chosen another attention implementation since; the key of what is cached has it too."""
        now = attention_implementation(self.anatomy)
        if now != self.attention_implementation:
            if self.patterns_wrapped:
                remove(self.attention_implementation)
            self.attention_implementation = now
            if self.patterns_wrapped:
                install(now)

    # ---- running --------------------------------------------------------------------------------------------------

    @overload
    def run(  # pyright: ignore[reportOverlappingOverload]  (an empty sequence fits both)
        self, prompt: str | Sequence[int], interventions: Sequence[Intervention] = (), read: Sequence[str | Site] = ()
    ) -> Run: ...
    @overload
    def run(
        self,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        interventions: Sequence[Intervention] = (),
        read: Sequence[str | Site] = (),
    ) -> list[Run]: ...
    def run(self, prompt: Any, interventions: Sequence[Intervention] = (), read: Sequence[str | Site] = ()) -> Any:
        """One forward under `interventions`; a list of prompts gives a list of runs, each exact.

        Args:
            prompt: a text, token ids, chat messages, or a list of texts or of id lists.
            interventions: applied in order; at one site the later sees what the earlier left.
            read: sites to read, after the interventions; `run["L1H3"]`.

        Raises:
            PromptError, SiteError, InterventionError, FeatureOffError, ModelChangedError, ClosedError: each in a sentence.

        Example:
            >>> run = live.run("The cat", [Ablate("L0H1", mode="zero")])  # doctest: +SKIP
            >>> run.receipts[0].state  # doctest: +SKIP
            'acted'
        """
        if _is_many(prompt):
            return self.runs(prompt, interventions, read)
        return self.runs([prompt], interventions, read)[0]

    def runs(
        self,
        prompts: Sequence[Prompt],
        interventions: Sequence[Intervention] = (),
        read: Sequence[str | Site] = (),
        *,
        logits: bool = True,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Run]:
        """The runs of several prompts, in batches that fit the memory budget."""
        if not prompts:
            raise PromptError("There is no prompt to run; pass at least one.")
        encoded = [self.tokens.encode(p) for p in prompts]
        sites = [Site.parse(s) for s in read]
        out: list[Run] = []
        together = _chunks(
            encoded, self.anatomy.vocab if logits or not self.caller.keeps else self.anatomy.d_model * 16
        )
        alone = any(goes_by_tokens(self, i) for i in interventions)
        for chunk in [[one] for one in encoded] if alone else together:
            out += self._run_batch(chunk, interventions, sites, logits, cancelled)
        return out

    def _run_batch(
        self,
        prompts: Sequence[tuple[Token, ...]],
        interventions: Sequence[Intervention],
        sites: Sequence[Site],
        logits: bool,
        cancelled: Callable[[], bool] | None,
    ) -> list[Run]:
        with self.lock, self.unchanged():
            self.ready()
            batch = batch_of(prompts, self.device)
            compiled = compile_program(self, batch, interventions, sites, prompts, cancelled)
            keep = None if logits else [batch.ids.shape[1] - 1]
            full, _ = forward(self.caller, self.anatomy, batch, compiled.program, keep)
        return [
            Run(
                prompt,
                full[r, : len(prompt)] if logits else full[r],
                receipts_of(compiled, self.anatomy, batch, r),
                {site: compiled.captured(site, r, len(prompt)) for site in sites},
            )
            for r, prompt in enumerate(prompts)
        ]

    def answer(
        self, asked: Asked, interventions: Sequence[Intervention] = (), cancelled: Callable[[], bool] | None = None
    ) -> Reading:
        """The logits at the read position, always by the same one-row path; see `reading.py`."""
        return read_answer(self, asked, interventions, cancelled)

    def generate(
        self,
        prompt: Prompt,
        interventions: Sequence[Intervention] = (),
        max_new_tokens: int = 50,
        use_cache: bool = True,
        **options: Unpack[Options],
    ) -> GenerationRun:
        """Generate one token at a time under `interventions`; see `interp_widgets.model.generate.generate`.

        Example:
            >>> "".join(t.text for t in live.generate("The cat", max_new_tokens=5))  # doctest: +SKIP
        """
        return generate(self, prompt, interventions, max_new_tokens, use_cache, **options)

    def program(self, cancelled: Callable[[], bool] | None = None, rows: int = 1) -> Program:
        """An empty program for this model, for a run of so many rows."""
        blocks = frozenset(layer.module for layer in self.anatomy.layers)
        return Program(cancelled=cancelled, inside=rows > FEW_ROWS, blocks=blocks, lock=self.lock)

    def batch(self, tokens: Sequence[Token]) -> Batch:
        """One prompt as a batch of one row."""
        return batch_of([tuple(tokens)], self.device)

    def need(self, feature: str) -> None:
        """Raise when a check on attach switched `feature` off.

        Raises:
            FeatureOffError: with the check's reason.
        """
        reason = self.report.off.get(feature)
        if reason is not None:
            raise FeatureOffError(f"{feature} is off for {self.name!r}: {reason}")

    def __repr__(self) -> str:
        a = self.anatomy
        return f"LiveModel({self.name!r}, {len(a.layers)} layers, d_model={a.d_model}, {str(self.dtype).removeprefix('torch.')})"

    def receipts(self, prompt: Prompt, interventions: Sequence[Intervention]) -> tuple[Receipt, ...]:
        """Only the receipts of a run."""
        return self.runs([prompt], interventions, logits=False)[0].receipts


def open_model(
    module: nn.Module,
    tokenizer: Any,
    *,
    name: str | None = None,
    reference: Reference | None = None,
    cache_bytes: int = 256 << 20,
) -> LiveModel:
    """The `LiveModel` of `module`: the same one while it is open, and verified when it is new.

    Raises:
        ModelRefusedError: for a structural reason, before any hook.
    """
    from interp_widgets.model.verify import verify

    with _REGISTRY_LOCK:
        known = _REGISTRY.get(id(module))
        live = known() if known is not None else None
        if live is not None and live.module is module and live.still(tokenizer):
            live.acquire()
            return live
        live = LiveModel(
            module, tokenizer, name=name or model_name(module), reference=reference, cache_bytes=cache_bytes
        )
        live.acquire()
        try:
            live.report = verify(live)
        except BaseException:
            live.release()
            raise
        key = id(module)
        _REGISTRY[key] = weakref.ref(live, lambda ref: _REGISTRY.pop(key, None) if _REGISTRY.get(key) is ref else None)
        return live


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers make the same tokens: the same one, or one that was loaded again."""
    if one is other:
        return True
    texts = [getattr(getattr(tokenizer, "backend_tokenizer", None), "to_str", None) for tokenizer in (one, other)]
    if type(one) is not type(other) or not all(texts):
        return False
    return texts[0]() == texts[1]() and one.special_tokens_map == other.special_tokens_map  # pyright: ignore[reportOptionalCall]


def model_name(module: nn.Module) -> str:
    """What the model calls itself."""
    config = getattr(module, "config", None)
    return str(getattr(config, "_name_or_path", "") or type(module).__name__)


def attention_implementation(anatomy: Anatomy) -> str:
    """The attention implementation in use, by the registry's name: the attention's own, which parts of one model may differ in."""
    modules = [layer.attention.module for layer in anatomy.layers if layer.attention is not None]
    configs = [getattr(module, "config", None) for module in (*modules, anatomy.root)]
    names = [getattr(config, "_attn_implementation", None) for config in configs]
    return str(next((name for name in names if name), "eager"))


def context_length(root: nn.Module) -> int | None:
    """How many positions the model knows, if its configuration says so."""
    config = getattr(root, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    value = next(
        (v for n in ("max_position_embeddings", "n_positions", "max_seq_len") if (v := getattr(text, n, None))), None
    )
    return int(value) if isinstance(value, int) and value > 0 else None


def refuse_dropout(root: nn.Module) -> None:
    """Refuse a model in training mode with dropout: two runs of it differ.

    Raises:
        ModelRefusedError: naming the dropout.
    """
    from interp_widgets.model.errors import ModelRefusedError

    if not root.training and not any(m.training for m in root.children()):
        return
    for path, m in root.named_modules():
        if drop := dropout_of(m):
            raise ModelRefusedError(
                f"The model is in training mode with dropout ({path or 'the model'}: {drop}), so no two runs agree; call "
                "model.eval() first."
            )


def _is_many(prompt: Any) -> bool:
    return isinstance(prompt, (list, tuple)) and len(prompt) > 0 and isinstance(prompt[0], (str, list, tuple))


def _chunks(prompts: Sequence[tuple[Token, ...]], per_token: int) -> list[list[tuple[Token, ...]]]:
    chunks: list[list[tuple[Token, ...]]] = [[]]
    for prompt in prompts:
        width = max([len(prompt), *(len(p) for p in chunks[-1])])
        if chunks[-1] and width * (len(chunks[-1]) + 1) * per_token * 4 > _RUN_BYTES:
            chunks.append([])
        chunks[-1].append(prompt)
    return chunks
