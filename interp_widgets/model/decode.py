"""Decoding: rows of text under interventions, one forward per step, with the model's own cache where it has one.

With a cache every position is fed, and edited, exactly once; without one the whole text is fed each time and the edits are
made anew at the same positions. Gate, lock and modes are taken and released inside each step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from interp_widgets.model.blame import not_finite
from interp_widgets.model.compile import compile_steps, place_step
from interp_widgets.model.errors import GenerationError
from interp_widgets.model.fingerprint import Fingerprint
from interp_widgets.model.gate import Program, activate
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.positions import Positions, Row
from interp_widgets.model.probe import probe_ids
from interp_widgets.model.question import Token
from interp_widgets.model.receipts import Receipt, Tally
from interp_widgets.model.residual import rounding
from interp_widgets.model.run import eager, force_eager, is_compiled, logits_of, modes, row_of
from interp_widgets.model.sites import LOCAL
from interp_widgets.model.steps import Frame, Step, receipt
from interp_widgets.model.values import goes_by_tokens

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

_NOT_A_CACHE = frozenset(
    {"logits", "loss", "hidden_states", "attentions", "last_hidden_state", "encoder_last_hidden_state"}
)


@dataclass
class Line:
    """One row: its tokens so far, how many of them are the prompt, what is done to it, whether it goes on."""

    tokens: list[Token]
    n_prompt: int
    interventions: tuple[Intervention, ...] = ()
    going: bool = True
    steps: list[Step] = field(default_factory=list[Step])

    seen: Row | None = None

    def row(self) -> Row:
        """What positions are resolved against; it grows with the text."""
        old = self.seen
        new = self.tokens if old is None else self.tokens[len(old) :]
        if old is None or new:
            grown = row_of(new, self.n_prompt)
            self.seen = (
                grown
                if old is None
                else Row(old.ids + grown.ids, old.texts + grown.texts, old.special + grown.special, self.n_prompt)
            )
        assert self.seen is not None
        return self.seen


class Decoder:
    """Rows decoded together.

    Args:
        lines: the rows; rows with equal interventions and length share their steps.
        use_cache: feed each token once; rows of different lengths are then padded on the left.
        cancelled: asked before every block.

    Example:
        >>> decoder = Decoder(live, [Line(list(live.tokens.encode("The cat")), 2)])  # doctest: +SKIP
        >>> decoder.step().shape  # doctest: +SKIP
        torch.Size([1, 512])
    """

    def __init__(
        self,
        live: LiveModel,
        lines: Sequence[Line],
        use_cache: bool = True,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.live = live
        self.lines = list(lines)
        self.use_cache = use_cache
        self._names = frozenset(inspect.signature(live.anatomy.root.forward).parameters)
        self._wanted = self._names | ({"attention_mask", "use_cache"} if "kwargs" in self._names else set())
        self._compiled = is_compiled(live.anatomy.root)
        self._cache: dict[str, Any] = {}
        self._weights: Fingerprint = ()
        self._fed = 0
        width = max(len(line.tokens) for line in self.lines)
        self._pads = [width - len(line.tokens) for line in self.lines] if use_cache else [0] * len(self.lines)
        self._program: Program = live.program(cancelled, len(self.lines))
        self._steps = self._compile()

    def _compile(self) -> list[Step]:
        shared: dict[tuple[tuple[Intervention, ...], int, tuple[int, ...]], list[int]] = {}
        for r, line in enumerate(self.lines):
            own = any(goes_by_tokens(self.live, item) for item in line.interventions)
            prompt = tuple(t.id for t in line.tokens[: line.n_prompt]) if own else ()
            shared.setdefault((line.interventions, line.n_prompt, prompt), []).append(r)
        every: list[Step] = []
        for (interventions, n_prompt, _), rows in shared.items():
            for item in interventions:
                check_growing(item.positions)
            steps = compile_steps(self.live, interventions, self.lines[rows[0]].tokens[:n_prompt])
            for step in steps:
                step.rows = None if len(rows) == len(self.lines) else tuple(rows)
                place_step(self.live, self._program, step, lambda: len(self.lines))
            for r in rows:
                self.lines[r].steps = steps
            every += steps
        return every

    def check(self, logits: torch.Tensor) -> None:
        """Refuse logits that are not numbers; −inf at some ids is a model's way to rule them out.

        Raises:
            GenerationError: naming the first block whose output is not finite.
        """
        good = torch.isfinite(logits.amax(-1)).reshape(len(self.lines), -1).all(-1)
        if not bool(good.all()):
            raise GenerationError(self._blame(good))

    def step(self, every: bool = False, check: bool = True) -> torch.Tensor:
        """The model's own logits, float32, at the last token of every row `[row, vocab]`; `every`: of every column.

        Raises:
            GenerationError: when logits are not numbers, naming the first block that made them.
            ModelChangedError: when the model is not the one that the cache is of, or changed under the step.
        """
        live = self.live
        with live.lock, live.unchanged(self._weights if self._cache else None) as self._weights:
            live.ready()
            ids, frame = self._input()
            for step in self._steps:
                if not self.use_cache:
                    step.tally = Tally()
                step.enter(frame)
            kwargs = self._arguments(ids, frame, every)
            root = live.anatomy.root
            with modes(live.device), force_eager(root) if self._compiled else nullcontext(), activate(self._program):
                output = eager(root)(input_ids=ids, **kwargs)
                logits = self._taken(logits_of(output), every).float()
            self._fed = frame.offset + frame.width
            if self.use_cache:
                self._cache = cache_of(output, self._names)
        if check:
            self.check(logits)
        return logits

    @property
    def cached(self) -> bool:
        """Whether the model gave a cache back."""
        return bool(self._cache)

    def append(self, tokens: Sequence[Token | None]) -> None:
        """Add each row's next token; None ends the row."""
        for line, token in zip(self.lines, tokens, strict=True):
            line.going = line.going and token is not None
            if token is not None and line.going:
                line.tokens.append(token)

    def receipts(self, row: int) -> tuple[Receipt, ...]:
        """What every intervention on `row` has done so far."""
        line = self.lines[row]
        return tuple(receipt(step, self._reach(step, line), generating=True) for step in line.steps)

    def _reach(self, step: Step, line: Line) -> str | None:
        at = np.flatnonzero(step.intervention.positions.mask(line.row()))
        last = len(self.live.anatomy.layers) - 1
        local = step.site.part in LOCAL
        if step.site.layer == last and local and at.size and at.max() < line.n_prompt - 1:
            return "in the last block only positions that predict a token matter, from the last prompt position on"
        return None

    # ---- one forward ----------------------------------------------------------------------------------------------

    def _input(self) -> tuple[torch.Tensor, Frame]:
        width = max(len(line.tokens) + pad for line, pad in zip(self.lines, self._pads, strict=True))
        start = self._fed if self.use_cache else 0
        columns = [self._column(line, pad, start, width) for line, pad in zip(self.lines, self._pads, strict=True)]
        rows = [line.row() for line in self.lines] if self._steps else []
        return torch.tensor(columns, device=self.live.device), Frame(rows, width - start, start, self._pads)

    def _column(self, line: Line, pad: int, start: int, width: int) -> list[int]:
        """The ids of columns `start` to `width` of a row; padding repeats its last token."""
        filler = line.tokens[-1].id
        ids = [filler] * max(0, pad - start) + [t.id for t in line.tokens[max(0, start - pad) :]]
        return ids + [filler] * (width - start - len(ids))

    def _arguments(self, ids: torch.Tensor, frame: Frame, every: bool) -> dict[str, Any]:
        end = frame.offset + frame.width
        possible: dict[str, Any] = {
            "use_cache": self.use_cache,
            "logits_to_keep": 1 if not every and self._flush else 0,
            # always given: without it some models suspect padding, and say so on the screen
            "attention_mask": torch.ones(len(self.lines), end, dtype=torch.long, device=ids.device),
            **self._cache,
        }
        if any(self._pads):
            pads = torch.tensor(self._pads, device=ids.device)[:, None]
            columns = torch.arange(end, device=ids.device)
            possible["attention_mask"] = (columns >= pads).long()
            possible["position_ids"] = (columns - pads).clamp_min(0)[:, frame.offset :]
        elif not self._flush:
            lengths = torch.tensor([len(line.tokens) for line in self.lines], device=ids.device)[:, None]
            possible["attention_mask"] = (torch.arange(end, device=ids.device) < lengths).long()
        return {name: value for name, value in possible.items() if name in self._wanted}

    @property
    def _flush(self) -> bool:
        """Whether every row ends in the last column."""
        return self.use_cache or len({len(line.tokens) for line in self.lines}) == 1

    def _taken(self, logits: torch.Tensor, every: bool) -> torch.Tensor:
        if every:
            return logits
        if self._flush:
            return logits[:, -1]
        at = torch.tensor([len(line.tokens) - 1 for line in self.lines], device=logits.device)
        return logits[torch.arange(len(self.lines), device=logits.device), at]

    def _blame(self, good: torch.Tensor) -> str:
        """The sentence for logits that are not numbers, of the first row that has them."""
        line = self.lines[int(good.long().argmin())]
        n = len(line.tokens) - line.n_prompt + 1
        return not_finite(
            self.live, f"The logits of generated token {n} are", line.tokens, line.interventions, line.n_prompt
        )


def cache_of(output: Any, names: frozenset[str]) -> dict[str, Any]:
    """What a model returned that it can be given back: its cache, whatever it is called."""
    if not hasattr(output, "keys"):
        return {}
    found = dict(cast("dict[str, Any]", output))
    return {k: v for k, v in found.items() if k in names and k not in _NOT_A_CACHE and v is not None}


def check_growing(positions: Positions) -> None:
    """Refuse a rule that counts from the end of generated text, which is not known while it grows.

    Raises:
        GenerationError: naming the rule.
    """
    ends = [n for n in (positions.start, positions.stop) if n is not None and n < 0]
    if positions.kind == "generated" and ends:
        raise GenerationError(
            f"Positions {positions} count from the end of the text, which is not known while it is generated; "
            'count from its start, as in "gen[:8]".'
        )


@dataclass(frozen=True)
class Decoding:
    """Which ways of decoding were shown equal to the plain forward on this model; a reason where one was not."""

    no_cache: str = ""
    no_padding: str = ""
    nbytes: int = 0


def decoding(live: LiveModel) -> Decoding:
    """Check the model's cache, and left padding with it, against the plain forward; once per model.

    Three tokens are decoded after a prompt, alone and beside a shorter prompt, and their logits compared with those of one
    forward over the whole text.
    """
    key = ("decoding", live.dtype, live.report.foreign)
    kept = live.cache.get(key)
    if not isinstance(kept, Decoding):
        kept = _decoding(live)
        live.cache.put(key, kept)
    return kept


def _decoding(live: LiveModel) -> Decoding:
    ids = [int(i) for i in probe_ids(live.anatomy.root).flatten()[:8]]
    texts = [[Token(i, "x") for i in ids], [Token(i, "x") for i in ids[2:]]]
    reason = _differs(live, texts[:1])
    return Decoding(reason, reason or _differs(live, texts))


def _differs(live: LiveModel, texts: Sequence[list[Token]], n: int = 3) -> str:
    """Why these texts cannot be decoded with a cache, side by side; empty when they can."""
    eps = rounding(live.dtype) if live.dtype.is_floating_point else 1e-6
    try:
        whole = [Decoder(live, [Line(list(t), len(t))], use_cache=False).step(every=True)[0] for t in texts]
        decoder = Decoder(live, [Line(t[:-n], len(t) - n) for t in texts])
        for k in range(n + 1):
            logits = decoder.step()
            if not decoder.cached:
                return f"{type(live.anatomy.root).__name__} gives no cache back"
            for r, text in enumerate(texts):
                right = whole[r][len(text) - n - 1 + k]
                error = float((logits[r] - right).abs().max() / right.abs().max().clamp_min(1e-30))
                if error > max(8 * eps, 3e-5):
                    return f"decoding with it differs from the plain forward by {error:.1e} (relative)"
            decoder.append([t[len(t) - n + k] if k < n else None for t in texts])
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
