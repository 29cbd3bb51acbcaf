"""The user's own forward under interventions, in one context only."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from interp_widgets.model.compile import Compiled, compile_steps, place_step
from interp_widgets.model.errors import FeatureOffError
from interp_widgets.model.gate import Args, Kwargs, activate, switch
from interp_widgets.model.handed import STREAM, given_at, handed_on
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.positions import Row
from interp_widgets.model.question import Token
from interp_widgets.model.receipts import Receipt, Tally
from interp_widgets.model.steps import Frame, Step, receipt

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@contextmanager
def applied(
    live: LiveModel, interventions: Sequence[Intervention], tokens: Sequence[Token]
) -> Generator[list[Receipt]]:
    """Put `interventions` in force for calls of the module made in this context; yields the list that receives receipts.

    An edit of the stream is made in what the block before gives, wherever that is the very tensor that is read next, so that
    `output_hidden_states` and hooks of other libraries record what the model went on with.

    Raises:
        FeatureOffError: for a model compiled in place, whose own call would not see the interventions.
    """
    from interp_widgets.model.run import is_compiled

    with live.lock:
        live.ready()
    if (live.module is not live.anatomy.root and hasattr(live.module, "_orig_mod")) or is_compiled(live.anatomy.root):
        raise FeatureOffError(
            "This model is compiled, and hooks inside a compiled call do nothing; call the module that was compiled "
            "(model._orig_mod) in applied(), or use session.model.run(...)."
        )
    receipts: list[Receipt] = []
    shares = _Shares(live, compile_steps(live, interventions, tokens))
    try:
        with activate(shares.here().compiled.program):
            yield receipts
    finally:
        receipts[:] = shares.end()


class _Shares:
    """One program for each thread that runs in a copy of this context: two at once must not share rows and tallies.

    A new thread does not inherit a context; one that is given a copy of it (`contextvars.copy_context().run`,
    `asyncio.to_thread`) comes here with its first forward.
    """

    def __init__(self, live: LiveModel, steps: Sequence[Step]) -> None:
        self.live = live
        self.steps = steps
        self.handed = handed_on(live) if any(step.site.part in STREAM for step in steps) else {}
        self.each: dict[int, _Follower] = {}
        self.over = False

    def here(self) -> _Follower:
        """That of this thread, made when it first comes."""
        me = threading.get_ident()
        if me not in self.each:
            self.each[me] = self._made()
        return self.each[me]

    def _made(self) -> _Follower:
        live = self.live
        compiled = Compiled(live.program(), [replace(step, tally=Tally()) for step in self.steps])
        compiled.program.lock = live.lock if self.over else None  # the user's own call does not hold it
        follow = _Follower(live, compiled, self)
        compiled.program.on_before(live.anatomy.root, follow)
        for step in compiled.steps:
            place_step(live, compiled.program, step, lambda: len(follow.rows), given_at(self.handed, step.site))
        return follow

    def end(self) -> list[Receipt]:
        """Make every program inert; what all threads did together."""
        self.over = True
        each = list(self.each.values())
        for follow in each:
            follow.compiled.program.lock = self.live.lock
        for n, step in enumerate(self.steps):
            step.tally = Tally.of([follow.compiled.steps[n].tally for follow in each])
        generating = any(follow.calls > 1 for follow in each)
        return [receipt(step, None, generating=generating) for step in self.steps]


class _Follower:
    """Keeps the rows of the user's own call up to date: prompt first, then one token at a time with a cache."""

    def __init__(self, live: LiveModel, compiled: Compiled, shares: _Shares) -> None:
        self.live = live
        self.compiled = compiled
        self.shares = shares
        self.rows: list[Row] = []
        self.pads: list[int] = []
        self.seen = 0
        self.calls = 0

    def __call__(self, args: Args, kwargs: Kwargs) -> None:
        mine = self.shares.here()
        if mine is not self:
            switch(mine.compiled.program)
            mine(args, kwargs)
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, torch.Tensor):
            embeds = kwargs.get("inputs_embeds")
            if not isinstance(embeds, torch.Tensor):
                return
            ids = torch.zeros(embeds.shape[:2], dtype=torch.long)
        past = _past_length(kwargs.get("past_key_values"))
        if past == 0:
            self._start(ids, kwargs.get("attention_mask"))
        else:
            self.rows = [self._longer(row, new) for row, new in zip(self.rows, ids.tolist(), strict=True)]
        self.calls += 1
        self.compiled.enter(Frame(self.rows, ids.shape[1], past, self.pads))

    def _start(self, ids: torch.Tensor, mask: Any) -> None:
        self.rows, self.pads = [], []
        for r, row in enumerate(ids.tolist()):
            keep = (
                mask[r, : len(row)].tolist() if isinstance(mask, torch.Tensor) and mask.dim() == 2 else [1] * len(row)
            )
            pad = next((i for i, k in enumerate(keep) if k), 0)
            tokens = [self.live.tokens.token(i) for i, k in zip(row, keep, strict=True) if k]
            self.pads.append(pad)
            self.rows.append(self._row(tokens, len(tokens)))

    def _row(self, tokens: Sequence[Token], n_prompt: int) -> Row:
        return Row(
            tuple(t.id for t in tokens),
            tuple(t.text for t in tokens),
            tuple(t.kind == "special" for t in tokens),
            n_prompt,
        )

    def _longer(self, row: Row, new: list[int]) -> Row:
        more = [self.live.tokens.token(i) for i in new]
        return Row(
            row.ids + tuple(new),
            row.texts + tuple(t.text for t in more),
            row.special + tuple(t.kind == "special" for t in more),
            row.n_prompt,
        )


def _past_length(past: Any) -> int:
    if past is None:
        return 0
    length = getattr(past, "get_seq_length", None)
    if callable(length):
        return int(length())  # pyright: ignore[reportArgumentType]
    return int(past[0][0].shape[-2])
