"""One recorded forward: what every module was given and gave, and where a softmax over positions was taken."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp_widgets.model.errors import ModelRefusedError
from interp_widgets.model.modes import modes

ROWS, LENGTH = 2, 11  # a prime number of tokens: no width, head count or expert count is mistaken for it


@dataclass
class Call:
    """One call of one module, which was called `times` times in all; `start` and `end` are ticks of one clock."""

    name: str
    module: nn.Module
    parent: int
    start: int
    end: int = -1
    given: Tensor | None = None
    key: int | str = 0
    gave: Tensor | None = None
    index: int | None = None
    times: int = 1

    def inside(self, other: Call) -> bool:
        """Whether this call ran during `other`."""
        return other.start < self.start and self.end < other.end


@dataclass
class Softmax:
    """A softmax over positions taken while `call` was the innermost module: `heads [batch, pos, head, d_head]`."""

    call: int
    tick: int
    n_heads: int
    n_kv_heads: int | None
    heads: Tensor | None
    values: Tensor | None = None


@dataclass
class Recording:
    """Everything that one forward showed."""

    ids: Tensor
    logits: Tensor
    calls: list[Call] = field(default_factory=list[Call])
    softmaxes: list[Softmax] = field(default_factory=list[Softmax])


def probe_ids(root: nn.Module) -> Tensor:
    """Ordinary token ids `[2, 11]`; the rows differ in their last token only, so that they also show causality."""
    embed = embedding(root)
    rows = vocabulary(embed)
    device = next((p.device for p in embed.parameters() if not p.is_meta), torch.device("cpu"))
    if any(p.is_meta for p in embed.parameters()):
        hook = getattr(embed, "_hf_hook", None)
        device = torch.device(getattr(hook, "execution_device", None) or "cpu")
    special = _special_ids(getattr(root, "config", None))
    plain = [i for i in range(rows // 8, rows) if i not in special] or list(range(rows))
    step = max(1, len(plain) // (2 * LENGTH))
    ids = torch.tensor([plain[(i * step) % len(plain)] for i in range(LENGTH + 1)], device=device)
    return torch.stack([ids[:LENGTH], torch.cat([ids[: LENGTH - 1], ids[LENGTH:]])])


def _special_ids(config: Any) -> set[int]:
    """Ids that the configuration, or a nested one, names as special."""
    found: set[int] = set()
    stack: list[Any] = [config.to_dict()] if hasattr(config, "to_dict") else []
    while stack:
        for key, value in stack.pop().items():
            if isinstance(value, dict):
                stack.append(value)
            elif isinstance(key, str) and ("token_id" in key or key.endswith("token_index")):
                found.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
    return found


def embedding(root: nn.Module) -> nn.Module:
    """The token embedding, or a refusal."""
    getter = getattr(root, "get_input_embeddings", None)
    # Transformers' own base class raises where a family has not said it; the structure tells then.
    with contextlib.suppress(NotImplementedError, AttributeError):
        found = getter() if callable(getter) else None
        if isinstance(found, nn.Module) and vocabulary(found):
            return found
    first = next((m for m in root.modules() if isinstance(m, nn.Embedding)), None)
    if first is None:
        message = (
            f"{type(root).__name__} has no token embedding: only language models that read token ids can be opened."
        )
        raise ModelRefusedError(message)
    return first


def vocabulary(embed: nn.Module) -> int:
    """The number of rows of a token embedding, wrapped or not; 0 when it is none."""
    return _size(embed, "num_embeddings", 0)


def embedding_width(embed: nn.Module) -> int:
    """How wide a token's embedding is, wrapped or not, which need not be the stream's width; 0 when that is not known."""
    return _size(embed, "embedding_dim", 1)


def _size(embed: nn.Module, name: str, axis: int) -> int:
    for module in (embed, *embed.modules()):
        size = getattr(module, name, None)
        if isinstance(size, int):
            return size
    shape = getattr(getattr(embed, "weight", None), "shape", ())
    return int(shape[axis]) if len(shape) == 2 else 0


@contextlib.contextmanager
def quiet(root: nn.Module) -> Generator[None]:
    """No gradients, no compiled code, no modes of the caller's, and the random state as it was."""
    kinds = sorted({p.device.type for p in root.parameters() if not p.is_meta} | {"cpu"})
    cuda = sorted({p.device.index or 0 for p in root.parameters() if p.device.type == "cuda"})
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(modes(torch.device(kind)))
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(eagerly(root))
        yield


@contextlib.contextmanager
def eagerly(root: nn.Module) -> Generator[None]:
    """Run what `torch.compile` or `module.compile()` wrapped as plain Python, so that hooks fire."""
    if not compiled_parts(root):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def compiled_parts(root: nn.Module) -> list[str]:
    """The names of the modules that were compiled, in place or by a wrapper."""
    return [
        name or "the model"
        for name, module in root.named_modules()
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
    ]


def plain_forward(root: nn.Module, ids: Tensor) -> Any:
    """The model's own forward on `ids`, without a cache where it can be told so."""
    keywords: dict[str, Any] = {}
    parameters = inspect.signature(root.forward).parameters
    if "use_cache" in parameters or hasattr(getattr(root, "config", None), "use_cache"):
        keywords["use_cache"] = False
    if "use_cache" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        keywords.pop("use_cache", None)
    args, named = ids_argument(root, ids)
    with naming_return_dict(root):
        return root(*args, **named, **keywords)


def ids_argument(root: nn.Module, ids: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and named arguments that hand over `ids`: by position where the forward has another name for them."""
    parameters = inspect.signature(root.forward).parameters
    kinds = [p.kind for p in parameters.values()]
    anything = inspect.Parameter.VAR_KEYWORD in kinds and kinds[0] in (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    )
    return ((), {"input_ids": ids}) if "input_ids" in parameters or anything else ((ids,), {})


@contextlib.contextmanager
def naming_return_dict(root: nn.Module) -> Generator[None]:
    """Name the setting where a forward fails on outputs that are tuples: transformers' own inner models then do.

    Raises:
        ModelRefusedError: in the place of an error about a tuple.
    """
    try:
        yield
    except (AttributeError, TypeError) as error:
        if "tuple" not in str(error) or getattr(getattr(root, "config", None), "return_dict", True):
            raise
        message = (
            f"{type(root).__name__} fails on its own outputs ({error}), as its config.return_dict is False: "
            "set model.config.return_dict = True."
        )
        raise ModelRefusedError(message) from error


def logits_of(output: Any) -> Tensor | None:
    """The logits `[batch, pos, vocab]` of a model's output, or None."""
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, tuple) and output:
        logits = output[0]
    if isinstance(output, Tensor):
        logits = output
    return logits if isinstance(logits, Tensor) and logits.dim() == 3 else None


def record(root: nn.Module, ids: Tensor, silence: str | None = None) -> Recording:
    """Run one forward with temporary hooks on every module; they are gone when this returns or raises.

    `silence` names an attention module whose first head takes nothing from the values in this forward. A forward of another
    thread is none of it: the hooks are on the module, and so on that thread's calls too.
    """
    recording = Recording(ids=ids, logits=ids)
    stack: list[int] = []
    handles: list[Any] = []
    tick = _Clock()
    try:
        for name, module in root.named_modules():
            handles.append(module.register_forward_pre_hook(_enter(recording, stack, tick, name), with_kwargs=True))
            handles.append(module.register_forward_hook(_leave(recording, stack, tick)))
        with _Watch(recording, stack, tick, silence):
            logits = logits_of(plain_forward(root, ids))
    finally:
        for handle in handles:
            handle.remove()
    if logits is None:
        message = f"{type(root).__name__} gave no logits per token: open the causal language model, with its lm_head."
        raise ModelRefusedError(message)
    recording.logits = _kept(logits)
    counts = Counter(id(call.module) for call in recording.calls)
    for call in recording.calls:
        call.times = counts[id(call.module)]
    return recording


class _Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def _enter(recording: Recording, stack: list[int], tick: Callable[[], int], name: str) -> Callable[..., None]:
    me = threading.get_ident()

    # Without keywords it is called when another thread's forward comes between torch's two notes of a hook.
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if threading.get_ident() != me:
            return
        call = Call(name=name, module=module, parent=stack[-1] if stack else -1, start=tick())
        for key, value in (*enumerate(args), *(kwargs or {}).items()):
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2:
                call.given, call.key = _kept(value), key
                break
        stack.append(len(recording.calls))
        recording.calls.append(call)

    return hook


def _leave(recording: Recording, stack: list[int], tick: Callable[[], int]) -> Callable[..., None]:
    me = threading.get_ident()

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != me:
            return
        call = recording.calls[stack.pop()]
        call.end = tick()
        if isinstance(output, Tensor):
            call.gave = _kept(output) if output.is_floating_point() else None
        elif type(output) in (tuple, list):
            for index, value in enumerate(output):
                if isinstance(value, Tensor) and value.is_floating_point():
                    call.gave, call.index = _kept(value), index
                    break

    return hook


def _kept(value: Tensor) -> Tensor:
    """A copy on the CPU: what follows may write into the original."""
    return value.detach().to("cpu", copy=True)


class _Watch(TorchFunctionMode):
    """Notes each softmax over positions, and the product with the values that follows it."""

    def __init__(self, recording: Recording, stack: list[int], tick: Callable[[], int], silence: str | None) -> None:
        super().__init__()
        self.recording, self.stack, self.tick, self.silence = recording, stack, tick, silence
        self.pending: Softmax | None = None
        self.shape: torch.Size | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._fused(result, args[2] if len(args) > 2 else (kwargs or {})["value"])
        if name in ("softmax", "_softmax") and isinstance(result, Tensor):
            self._weights(result)
        elif name in ("matmul", "__matmul__", "bmm", "einsum") and self.pending is not None:
            return self._values(result, args)
        return result

    def _note(self, n_heads: int, n_kv: int | None, heads: Tensor | None) -> Softmax:
        call = self.stack[-1] if self.stack else -1
        found = Softmax(call=call, tick=self.tick(), n_heads=n_heads, n_kv_heads=n_kv, heads=heads)
        self.recording.softmaxes.append(found)
        return found

    def _silenced(self, result: Tensor, shape: tuple[int, ...], found: Softmax) -> Tensor:
        """The product `[batch, head, pos, d_head]` without its first head, if this is the module to be silent."""
        if self.silence is None or self.recording.calls[found.call].name != self.silence:
            return result
        result = result.clone()
        result.view(shape)[:, 0] = 0.0
        return result

    def _fused(self, out: Tensor, values: Tensor) -> Tensor:
        if out.dim() != 4 or out.shape[2] != LENGTH:
            return out
        n_kv = values.shape[1] if values.shape[1] != out.shape[1] else None
        found = self._note(out.shape[1], n_kv, _kept(out.transpose(1, 2)))
        found.values = _kept(values) if n_kv is None else None
        return self._silenced(out.contiguous(), tuple(out.shape), found) if self.silence else out

    def _weights(self, weights: Tensor) -> None:
        shape = weights.shape
        if len(shape) >= 3 and shape[-2] == LENGTH and shape[-1] >= LENGTH:
            heads = shape[1] if len(shape) == 4 and shape[0] == ROWS else shape[:-2].numel() // ROWS
            if heads:
                self.pending, self.shape = self._note(heads, None, None), shape

    def _values(self, result: Any, args: tuple[Any, ...]) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor)]
        found = self.pending
        if not tensors or found is None or self.shape is None or not isinstance(result, Tensor):
            return result
        left, n_heads = tensors[0], found.n_heads
        rows = left.shape[:-1].numel() == self.shape[:-1].numel()
        if not rows or left.shape[-2:-1] != self.shape[-2:-1] or left.shape[-1] > self.shape[-1] or result.dim() < 3:
            return result
        shape = (ROWS, n_heads, LENGTH, result.numel() // (ROWS * n_heads * LENGTH))
        found.heads = _kept(result.reshape(shape).transpose(1, 2))
        if len(tensors) == 2 and tensors[1].shape[:-2].numel() == ROWS * n_heads:
            found.values = _kept(tensors[1].reshape(ROWS, n_heads, *tensors[1].shape[-2:]))
        self.pending = None
        return self._silenced(result.contiguous(), shape, found) if self.silence else result
