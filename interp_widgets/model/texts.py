"""The text that a call of the user's own goes on with: its tokens, the columns they stand in, and the cache that holds it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from interp_widgets.model.positions import Row
from interp_widgets.model.run import row_of

if TYPE_CHECKING:
    from interp_widgets.model.question import Token

_GENERATION = "transformers.generation.utils"
_FEEDING = frozenset(("_prefill", "_assisted_decoding", "_sample", "_beam_search"))
# What calls a model beside the text that is generated, as guidance by a negative prompt does.
_BESIDE = frozenset(("transformers.generation.logits_process", "transformers.generation.stopping_criteria"))
_UNKNOWN = "\0"  # the text of a token that is known by its embedding alone: no rule spells it


@dataclass(frozen=True)
class Text:
    """What the rows of a call hold so far.

    Attributes:
        rows: the tokens of each row, without what its mask hides.
        columns: the column that each token stands in.
        width: columns so far, hidden ones included.
    """

    rows: tuple[Row, ...] = ()
    columns: tuple[tuple[int, ...], ...] = ()
    width: int = 0

    @property
    def pads(self) -> list[int]:
        """The first column of each row."""
        return [columns[0] if columns else 0 for columns in self.columns]

    @property
    def holed(self) -> bool:
        """Whether hidden columns stand between the tokens of a row."""
        return any(c and c[-1] - c[0] + 1 != len(c) for c in self.columns)

    def of_rows(self, order: Sequence[int]) -> Text:
        """The texts of these rows, in this order."""
        return Text(tuple(self.rows[r] for r in order), tuple(self.columns[r] for r in order), self.width)

    @property
    def generated(self) -> bool:
        """Whether any row goes on after its prompt."""
        return any(len(row) > row.n_prompt for row in self.rows)

    def cut(self, width: int) -> Text:
        """The first `width` columns: a cache that was cropped holds no more."""
        if width == self.width:
            return self
        kept = [sum(c < width for c in columns) for columns in self.columns]
        rows = tuple(_first(row, n) for row, n in zip(self.rows, kept, strict=True))
        return Text(rows, tuple(c[:n] for c, n in zip(self.columns, kept, strict=True)), width)

    def longer(self, new: Sequence[Sequence[Token | None]], keep: Sequence[Sequence[int]], prompt: int) -> Text:
        """The text with new columns; the first `prompt` of them belong to the prompt.

        Args:
            new: the token in every new column of each row, None for one that is not known.
            keep: 0 where the mask hides a column.
        """
        rows, columns = list(self.rows) or [Row((), (), (), 0)] * len(new), list(self.columns) or [()] * len(new)
        for r, (tokens, kept) in enumerate(zip(new, keep, strict=True)):
            at = [n for n, k in enumerate(kept) if k]
            more = _row([tokens[n] for n in at])
            old = rows[r]
            n_prompt = len(old) + sum(n < prompt for n in at) if prompt else old.n_prompt
            rows[r] = Row(old.ids + more.ids, old.texts + more.texts, old.special + more.special, n_prompt)
            columns[r] = columns[r] + tuple(self.width + n for n in at)
        return Text(tuple(rows), tuple(columns), self.width + len(new[0]))


def _first(row: Row, n: int) -> Row:
    return Row(row.ids[:n], row.texts[:n], row.special[:n], min(row.n_prompt, n))


def _row(tokens: Sequence[Token | None]) -> Row:
    if all(t is not None for t in tokens):
        return row_of([t for t in tokens if t is not None], len(tokens))
    n = len(tokens)
    return Row((-1,) * n, (_UNKNOWN,) * n, (False,) * n, n)


class Texts:
    """The text that each cache holds, as long as the cache lives."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Any, Text] = WeakKeyDictionary()
        self._told: WeakKeyDictionary[Any, torch.Tensor] = WeakKeyDictionary()

    def keep(self, cache: Any, text: Text) -> None:
        """Remember what `cache` holds after the call that goes on now."""
        self._of[cache] = text

    def filled(self, cache: Any) -> None:
        """Remember by what the rows of `cache` are told apart, after a call of several."""
        told = _told_apart(cache)
        if told is not None and cache in self._of:
            self._told[cache] = told

    def before(self, cache: Any) -> Text | None:
        """The text in front of a call with `cache`; None where nothing is known of what it holds."""
        length = 0 if cache is None else past_length(cache)
        if length == 0:
            return Text()
        known = self._of.get(cache) if is_cache(cache) else None
        if known is not None and (length is None or known.width >= length):
            known = known if length is None else known.cut(length)
            order = _order(self._told.get(cache), cache)
            return None if order is None else known if order is _AS_IT_WAS else known.of_rows(order)
        if length is None:
            return None
        copied = (
            text
            for other, text in list(self._of.items())
            if text.width >= length and other is not cache and _same(other, cache, length)
        )
        found = next(copied, None)
        return None if found is None else found.cut(length)


def is_cache(value: Any) -> bool:
    """Whether `value` is a cache of transformers' kind."""
    return callable(getattr(value, "get_seq_length", None))


def cache_in(values: Sequence[Any]) -> Any:
    """The cache among the arguments of a call, or None."""
    return next((v for v in values if is_cache(v)), None)


def past_length(cache: Any) -> int | None:
    """How many columns `cache` holds; None where it cannot say (a recurrent state counts nothing)."""
    if not is_cache(cache):
        return int(cache[0][0].shape[-2])
    try:
        return int(cache.get_seq_length())
    except ValueError:
        return None if cache.has_previous_state() else 0


def _same(one: Any, other: Any, n: int) -> bool:
    """Whether the first `n` keys of two caches are equal, in all layers: one is a copy of the other."""
    layers: list[tuple[Any, Any]] = list(zip(getattr(one, "layers", ()), getattr(other, "layers", ()), strict=False))
    keys = [(getattr(a, "keys", None), getattr(b, "keys", None)) for a, b in layers]
    return bool(keys) and all(
        isinstance(a, torch.Tensor)
        and isinstance(b, torch.Tensor)
        and a.dim() == b.dim() == 4
        and min(a.shape[-2], b.shape[-2]) >= n
        and torch.equal(a[..., :n, :], b[..., :n, :])
        for a, b in keys
    )


_AS_IT_WAS: Sequence[int] = ()


def _told_apart(cache: Any) -> torch.Tensor | None:
    """What tells the rows of `cache` apart, `[row, …]`: the keys of its last layer, or a recurrent layer's state."""
    for layer in reversed(getattr(cache, "layers", ())):
        states = (getattr(layer, "recurrent_states", None) or {}).values()
        for value in (getattr(layer, "keys", None), *states):
            if isinstance(value, torch.Tensor) and value.dim() > 1 and value.numel():
                return value
    return None


def _order(told: torch.Tensor | None, cache: Any) -> Sequence[int] | None:
    """Which row each row of `cache` was when it was `told`; None where that cannot be seen.

    A beam search, or code of the user's, puts a cache's rows in another order, repeats them or leaves some out.
    """
    if any(getattr(layer, "_pending_beam_idx", None) is not None for layer in getattr(cache, "layers", ())):
        return None  # a quantized cache, which changes the order when it is next read
    now = _told_apart(cache)
    if told is None or now is None or now is told:
        return _AS_IT_WAS  # whatever changes the order makes new tensors
    if told.dim() == now.dim() == 4:
        width = min(told.shape[-2], now.shape[-2])
        told, now = told[..., :width, :], now[..., :width, :]
    rows = [_found(row, told.to(now.device), first=r) for r, row in enumerate(now)]
    return None if any(r is None for r in rows) else [r for r in rows if r is not None]


def _found(row: torch.Tensor, among: torch.Tensor, first: int) -> int | None:
    """Which of the rows of `among` is `row`, `first` before the others."""
    order = sorted(range(len(among)), key=lambda r: r != first)
    return next((r for r in order if torch.equal(among[r], row)), None)


def prompt_columns(width: int, past: Text, prompt: int) -> tuple[int | None, int]:
    """How many of the `width` new columns belong to the prompt, None where that cannot be known; and `prompt`, or the new one.

    Inside `generate` the function that feeds the prompt says so, and the one that drafts tokens says how many it drafts.
    Elsewhere one token after others is a generated one, and a longer call belongs to the prompt.

    Args:
        prompt: the columns of the last prompt that `generate` fed, for calls that feed the whole text anew.
    """
    elsewhere = width if width > 1 or past.width == 0 else 0
    frame = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        name, module, here = frame.f_code.co_name, frame.f_globals.get("__name__"), frame.f_locals
        if module in _BESIDE:
            guidance: Any = getattr(here.get("self"), "unconditional_context", None)
            anew = isinstance(guidance, dict) and not guidance.get("use_cache", True)  # pyright: ignore[reportUnknownMemberType]
            return (None if anew else elsewhere), prompt
        if name in _FEEDING and module == _GENERATION:
            if name == "_prefill":
                return width, width
            if name == "_assisted_decoding":
                drafts, first = here.get("candidate_length"), here.get("is_first_iteration")
                if drafts is None or first is None:
                    return None, prompt
                return (width - int(drafts) if first else 0), prompt
            return (min(width, prompt) if past.width == 0 and prompt else elsewhere), prompt
        frame = frame.f_back
    return elsewhere, prompt
