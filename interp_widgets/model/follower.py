"""Follows the user's own calls in a context: which tokens each goes on with, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from interp_widgets.model.compile import Compiled
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.gate import Args, Kwargs, switch
from interp_widgets.model.places import hidden_of
from interp_widgets.model.positions import Row
from interp_widgets.model.question import Token
from interp_widgets.model.refused_calls import CACHE, DRAFTS, EMBEDS, HOLES, PART, SOURCES, refuse_call
from interp_widgets.model.run import row_of
from interp_widgets.model.steps import Frame
from interp_widgets.model.texts import Text, Texts, cache_in, is_cache, past_length, prompt_columns

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


class Follower:
    """Keeps the rows of the user's own calls up to date, in one thread: prompt first, then what a cache goes on with."""

    def __init__(
        self,
        live: LiveModel,
        compiled: Compiled,
        here: Callable[[], Follower],
        asked: Sequence[Sequence[Token]] = (),
    ) -> None:
        self.live = live
        self.compiled = compiled
        self.here = here
        self.asked = asked
        self.n_rows = 0
        self.calls = 0
        self._texts = Texts()
        self._text: Text | None = None
        self._prompt = 0
        self._entered = False  # a call of the whole model has begun, and its first block is not reached yet
        self._ids: torch.Tensor | None = None

    def watch(self) -> None:
        """Be told of the calls, before any step is."""
        program, anatomy = self.compiled.program, self.live.anatomy
        program.on_before(anatomy.root, self._call)
        program.on_after(anatomy.embed, self._embedded)
        program.on_before(anatomy.layers[0].module, self._first_block)
        program.on_after(anatomy.layers[-1].module, self._last_block)

    # ---- what is called ---------------------------------------------------------------------------------------------

    def _call(self, args: Args, kwargs: Kwargs) -> None:
        if self._elsewhere() is not None:
            self.here()._call(args, kwargs)  # noqa: SLF001
            return
        refuse_call(self.live.anatomy.root)
        ids = kwargs.get("input_ids", args[0] if args else None)
        embeds = kwargs.get("inputs_embeds")
        given = ids if isinstance(ids, torch.Tensor) else embeds if isinstance(embeds, torch.Tensor) else None
        self._entered, self._ids = given is not None, None
        if given is None:
            return  # under another name: known when they are embedded
        self.calls += 1
        cache = next((kwargs[k] for k in ("past_key_values", "cache_params") if kwargs.get(k) is not None), None)
        cache = cache_in(args[1:]) if cache is None else cache
        self._go_on(given, cache, kwargs.get("attention_mask"))

    def _embedded(self, args: Args, kwargs: Kwargs, _output: Any) -> None:
        mine = self._elsewhere() or self
        if not mine._entered:  # noqa: SLF001
            ids = args[0] if args else next(iter(kwargs.values()), None)
            mine._ids = ids if isinstance(ids, torch.Tensor) and ids.dim() == 2 else None  # noqa: SLF001
            mine._lose(PART, len(mine._ids) if mine._ids is not None else 1)  # noqa: SLF001

    def _first_block(self, args: Args, kwargs: Kwargs) -> None:
        other = self._elsewhere()
        if other is not None:
            other._first_block(args, kwargs)  # noqa: SLF001
            return
        cache = cache_in((*args, *kwargs.values()))
        entered, self._entered = self._entered, False
        if not entered:
            self._trunk(args, kwargs, cache)
        for step in self.compiled.steps:
            if step.edge:
                step.refuse_lost()
        if cache is not None and self._text is not None:
            self._texts.keep(cache, self._text)

    def _last_block(self, args: Args, kwargs: Kwargs, _output: Any) -> None:
        mine = self._elsewhere() or self
        cache = cache_in((*args, *kwargs.values()))
        if cache is not None and mine.n_rows > 1:
            mine._texts.filled(cache)  # noqa: SLF001

    def _trunk(self, args: Args, kwargs: Kwargs, cache: Any) -> None:
        """The blocks are called past the model's own call (`model.forward`, `model.model`, an adapter's wrapper)."""
        refuse_call(self.live.anatomy.root)
        ids, self._ids = self._ids, None
        x = hidden_of(args, kwargs)[0]
        masks = [v for v in args[1:] if isinstance(v, torch.Tensor) and v.dim() == 4]
        masks += [v for k, v in kwargs.items() if "mask" in k and isinstance(v, torch.Tensor) and v.dim() in (2, 4)]
        if ids is None or x.dim() != 3 or x.shape[:2] != ids.shape or any(_hides(m) for m in masks):
            self._lose(PART, x.shape[0] if x.dim() == 3 else 1)
            return
        self.calls += 1
        self._go_on(ids, cache, None)

    def _elsewhere(self) -> Follower | None:
        """The follower of this thread, when this is another's: a context was copied. The thread goes on under its own."""
        mine = self.here()
        if mine is self:
            return None
        switch(mine.compiled.program)
        return mine

    # ---- which tokens -----------------------------------------------------------------------------------------------

    def _go_on(self, given: torch.Tensor, cache: Any, mask: Any) -> None:
        """Get the steps ready for a call of `given`, ids `[row, pos]` or embeddings `[row, pos, d]`."""
        rows, width = int(given.shape[0]), int(given.shape[1])
        before = self._before(cache)
        if before is None or (before.rows and len(before.rows) != rows):
            self._lose(CACHE, rows)
            return
        prompt, self._prompt = prompt_columns(width, before, self._prompt)
        if prompt is None:
            self._lose(DRAFTS, rows)
            return
        unknown = given.is_floating_point()
        new = [[None] * width] * rows if unknown else [self._tokens(ids) for ids in given.tolist()]
        text = before.longer(new, _kept(mask, rows, width, before.width), prompt)
        self._text = text = self._as_asked(text, before) if prompt else text
        self.n_rows = rows
        if prompt and before.rows and not before.generated:
            self._refuse_other_end(before, text)
        self.compiled.enter(Frame(text.rows, width, before.width, text.pads, text.columns if text.holed else None))
        self._check(unknown, text)

    def _before(self, cache: Any) -> Text | None:
        """The text in front of a call; a cache that is a bare tuple of tensors can only be that of the last call."""
        if cache is None or is_cache(cache):
            return self._texts.before(cache)
        return self._text if self._text is not None and self._text.width == past_length(cache) else None

    def _tokens(self, ids: Sequence[int]) -> list[Token | None]:
        return [self.live.tokens.token(i) for i in ids]

    def _as_asked(self, text: Text, before: Text) -> Text:
        """The text with what is known of the tokens of a question, in the rows whose prompt begins as it or is its beginning.

        Its beginning too, for it may come in several calls; what goes on otherwise is known by its ids alone.
        """
        rows = list(text.rows)
        for r, row in enumerate(rows):
            asked, n = self._begun(row)
            told = self._begun(before.rows[r])[1] if before.rows else 0
            known = row_of([*asked[:n], *(self.live.tokens.token(i) for i in row.ids[n:told])], 0)
            if (end := len(known)) > 0:
                texts, special = known.texts + row.texts[end:], known.special + row.special[end:]
                rows[r] = replace(row, texts=texts, special=special)
        return replace(text, rows=tuple(rows))

    def _begun(self, row: Row) -> tuple[Sequence[Token], int]:
        """The question that the prompt of a row begins as, and how many tokens they share."""
        prompt, shared = row.ids[: row.n_prompt], list[tuple[int, Sequence[Token]]]()
        for asked in self.asked:
            n = min(len(prompt), len(asked))
            if all(token.id == i for token, i in zip(asked, prompt, strict=False)):
                shared.append((n, asked))
        n, asked = max(shared, key=lambda one: one[0], default=(0, ()))
        return asked, n

    def _check(self, unknown: bool, text: Text) -> None:
        for step in self.compiled.steps:
            if unknown and step.intervention.positions.kind == "text":
                step.lose(EMBEDS)
            if step.aligned and text.holed:
                step.lose(HOLES)
            elif step.aligned and any(text.pads) and (step.site.part == "pattern" or step.edge):
                step.lose(SOURCES)

    def _refuse_other_end(self, before: Text, after: Text) -> None:
        """A prompt that goes on in a second call: what was edited must be what is edited when it comes in one."""
        for step in self.compiled.steps:
            rule = step.intervention.positions
            for old, new in zip(before.rows, after.rows, strict=True):
                if (rule.mask(old) != rule.mask(new)[: len(old)]).any():
                    raise InterventionError(
                        f"{step.intervention.label} acts at {rule}, which depends on how the prompt goes on, and the prompt comes in "
                        "several calls: feed it in one (in generate, without prefill_chunk_size)."
                    )

    def _lose(self, why: str, rows: int) -> None:
        """Nothing is known of the tokens of this call: a step that goes by them refuses to act, others go on."""
        self._text, self.n_rows = None, rows
        for step in self.compiled.steps:
            step.lose(why)


def _kept(mask: Any, rows: int, width: int, past: int) -> list[list[int]]:
    """1 for each new column of each row, 0 where the mask hides it."""
    if isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] >= past + width:
        return (mask[:, past : past + width] != 0).long().tolist()
    return [[1] * width] * rows


def _hides(mask: torch.Tensor) -> bool:
    """Whether a block's own mask, `[row, head, dest, src]` or `[row, pos]`, may hide more than later tokens."""
    if mask.dim() == 2:
        return not bool(mask.all())
    last = mask[:, 0, -1]
    return not bool((last if last.dtype == torch.bool else last == 0).all())
