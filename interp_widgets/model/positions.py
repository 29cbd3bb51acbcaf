"""Which positions an intervention acts on, resolved against one row of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from interp_widgets.model.errors import InterventionError

Mask = npt.NDArray[np.bool_]
# Patterns, compiled when first used: that is most of what importing this file would cost.
_GENERATED = r"gen(?:erated)?\[(-?\d*)(?:(:)(-?\d*))?\]\Z"
_PROMPT = r"prompt\[(-?\d*)(?:(:)(-?\d*))?\]\Z"
_WHOLE = r"\s*(-?\d{1,9}|None|)\s*"
_SLICES = (rf"{_WHOLE}:{_WHOLE}(?::{_WHOLE})?\Z", rf"slice\({_WHOLE},{_WHOLE}(?:,{_WHOLE})?\)\Z")
_NUMBERS = r"\[?\s*-?\d{1,9}(?:[\s,]+-?\d{1,9})*\s*\]?\Z"
_SPELLED = r"(?s)(?:(?:iw\.)?tokens\()?([\"'])(.+)\1\)?\Z"


@dataclass(frozen=True)
class Row:
    """One row of a batch: its tokens so far, how many of them are the prompt, and which are special.

    Args:
        ids: token ids without padding.
        texts: the text of each token.
        special: True for special and chat-template tokens.
        n_prompt: the first `n_prompt` tokens are the prompt, the rest was generated.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    special: tuple[bool, ...]
    n_prompt: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Tokens:
    """Every position whose token, or run of tokens, spells `text`: `iw.tokens(" Mary")`."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise InterventionError("tokens('') names no position; give the text of a token, such as ' Mary'.")


PositionSpec = str | int | slice | Sequence[int] | Tokens


def tokens(text: str) -> Tokens:
    """Positions by what stands there.

    Example:
        >>> Positions.of(tokens(" Mary")).label
        'tokens(" Mary")'
    """
    return Tokens(text)


@dataclass(frozen=True)
class Positions:
    """A set of positions, by rule.

    `"all"` is every position that is not padding; `"content"` leaves out special and template tokens and position 0;
    `"prompt"` and `"generated"` split a run at the boundary: the first generated token is predicted *at the last prompt
    position*, so `"generated"` cannot change it. Numbers count from the prompt's start, negative ones from its end;
    `"gen[:8]"` and `"prompt[-1]"` slice one of the two parts; `tokens(" Mary")` goes by text.

    Raises:
        InterventionError: for a rule that cannot be read.

    Example:
        >>> row = Row((0, 5, 6), ("<bos>", " a", " b"), (True, False, False), 3)
        >>> Positions.of("content").mask(row).tolist()
        [False, True, True]
        >>> Positions.of(-1).mask(row).tolist()
        [False, False, True]
    """

    kind: str
    start: int | None = None
    stop: int | None = None
    step: int | None = None
    at: tuple[int, ...] = ()
    text: str = ""
    label: str = field(default="", compare=False)

    @classmethod
    def of(cls, spec: PositionSpec | Positions) -> Positions:
        """Read what a user may write."""
        if isinstance(spec, Positions):
            return spec
        if isinstance(spec, Tokens):
            return cls("text", text=spec.text, label=f'tokens("{spec.text}")')
        if isinstance(spec, str):
            return _from_text(spec)
        if isinstance(spec, slice):
            return cls("slice", spec.start, spec.stop, spec.step, label=_slice_label(spec))
        numbers = _numbers(spec)
        if numbers is not None:
            return cls(
                "at", at=numbers, label=str(numbers[0]) if isinstance(spec, (int, np.integer)) else str(list(numbers))
            )
        raise InterventionError(
            f'Positions {spec!r} cannot be read. Write "all", "content", "prompt", "generated", "prompt[-1]", "gen[:8]", '
            'a number, a list of numbers, a slice, or iw.tokens(" Mary").'
        )

    def mask(self, row: Row) -> Mask:
        """True where the rule holds, for every token of `row`, `[pos]`.

        Raises:
            InterventionError: when a number lies outside the prompt.
        """
        n, prompt = len(row), row.n_prompt
        mask = np.zeros(n, dtype=bool)
        if self.kind in ("all", "content"):
            mask[:] = True
            if self.kind == "content":
                mask &= ~np.asarray(row.special, dtype=bool)
                mask[:1] = False
        elif self.kind == "prompt":
            mask[:prompt][self._slice] = True
        elif self.kind == "generated":
            mask[prompt:][self._slice] = True
        elif self.kind == "slice":
            mask[:prompt][self._slice] = True
        elif self.kind == "text":
            mask |= _spelled(row, self.text)
        else:
            for i in self.at:
                if not -prompt <= i < prompt:
                    raise InterventionError(
                        f"Position {i} does not exist: the prompt has {prompt} tokens (0 to {prompt - 1}, or -1 to -{prompt})."
                    )
                mask[i if i >= 0 else prompt + i] = True
        return mask

    def holds(self, row: Row, position: int) -> bool:
        """Whether the rule holds at one generated position: `mask(row)[position]`, without looking at the prompt again."""
        at = position - row.n_prompt
        if at < 0 or self.kind == "text":
            return bool(self.mask(row)[position])
        if self.kind == "content":
            return not row.special[position]
        if self.kind == "generated":
            return at in range(*self._slice.indices(len(row) - row.n_prompt))
        return self.kind == "all"

    @property
    def _slice(self) -> slice:
        return slice(self.start, self.stop, self.step)

    def __str__(self) -> str:
        return self.label or self.kind

    @property
    def code(self) -> str:
        """Python that builds the same rule."""
        if self.kind == "text":
            return f"iw.tokens({self.text!r})"
        if self.kind == "slice":
            return _slice_label(self._slice)
        if self.kind == "at":
            return str(self.at[0]) if len(self.at) == 1 else str(list(self.at))
        return repr(self.label)


def _numbers(spec: object) -> tuple[int, ...] | None:
    """Whole numbers, each once; None for anything else."""
    items: Any = [spec] if isinstance(spec, (int, np.integer)) else spec
    if not isinstance(items, (list, tuple, range, np.ndarray)) or not len(items):
        return None
    if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in items):
        return None
    return tuple(dict.fromkeys(int(i) for i in items))


def _from_text(spec: str) -> Positions:
    if spec in ("all", "content", "prompt", "generated"):
        return Positions(spec, label=spec)
    for kind, pattern in (("generated", _GENERATED), ("prompt", _PROMPT)):
        match = re.match(pattern, spec)
        if match and (match[1] or match[2]):
            start = int(match[1]) if match[1] else None
            if match[2]:
                return Positions(kind, start, int(match[3]) if match[3] else None, label=spec)
            assert start is not None
            return Positions(kind, start, start + 1 if start != -1 else None, label=spec)
    read = _from_label(spec)
    if read is None:
        raise InterventionError(
            f'Positions {spec!r} cannot be read. Write "all", "content", "prompt", "generated", "prompt[-1]", "gen[:8]", a '
            "number, numbers with commas, a slice such as 3:7, or the text of a token in quotes."
        )
    return Positions.of(read)


def _from_label(spec: str) -> slice | list[int] | int | Tokens | None:
    """What a rule's own label says, or what a person types for it: `-1`, `[3, 5]`, `slice(3, 7)`, `3:7`, `tokens(" Mary")`, `" Mary"`."""
    for pattern in _SLICES:
        match = re.match(pattern, spec)
        if match:
            start, stop, step = (None if part in ("", "None", None) else int(part) for part in match.groups())
            return None if step == 0 else slice(start, stop, step)
    if re.match(_NUMBERS, spec):
        numbers = [int(n) for n in re.findall(r"-?\d+", spec)]
        return numbers if spec.startswith("[") or len(numbers) > 1 else numbers[0]
    match = re.match(_SPELLED, spec)
    return Tokens(match[2]) if match else None


def _slice_label(s: slice) -> str:
    parts = [s.start, s.stop] if s.step is None else [s.start, s.stop, s.step]
    return f"slice({', '.join(str(p) for p in parts)})"


def _spelled(row: Row, text: str) -> Mask:
    """Runs of tokens whose texts join to `text`.

    A run that ends in generated text acts on its last token only: the ones before it were fed before it was spelled, and
    what was fed stays as it is, with a cache and without.
    """
    mask = np.zeros(len(row), dtype=bool)
    for start in range(len(row)):
        joined = ""
        for stop in range(start, len(row)):
            joined += row.texts[stop]
            if joined == text:
                mask[start if stop < row.n_prompt else stop : stop + 1] = True
            if not text.startswith(joined):
                break
    return mask
