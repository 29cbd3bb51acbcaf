"""The user's own forward under interventions, in one context only."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from interp_widgets.model.compile import Compiled, compile_steps, place_step
from interp_widgets.model.errors import FeatureOffError, InterventionError
from interp_widgets.model.follower import Follower
from interp_widgets.model.gate import activate, active
from interp_widgets.model.handed import STREAM, given_at, handed_on
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.question import Token
from interp_widgets.model.receipts import Receipt, Tally
from interp_widgets.model.steps import Step, receipt

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@contextmanager
def applied(
    live: LiveModel,
    interventions: Sequence[Intervention],
    tokens: Sequence[Token],
    asked: Sequence[Sequence[Token]] = (),
) -> Generator[list[Receipt]]:
    """Put `interventions` in force for calls of the module made in this context; yields the list that receives receipts.

    An edit of the stream is made in what the block before gives, wherever that is the very tensor that is read next, so that
    `output_hidden_states` and hooks of other libraries record what the model went on with. Which tokens a call goes on with is
    known from its cache, where that was filled in this context, and from `generate`, which says what is prompt.

    Args:
        tokens: the prompt that values by position are made for.
        asked: prompts whose tokens are more than their ids say: of a chat, which of them are the template's. A call that begins
            as one of them is edited as it is.

    Raises:
        FeatureOffError: for a model compiled in place, whose own call would not see the interventions; in the block, for a call that
            would not be edited as asked (gradient checkpointing, transforms of torch.func).
        InterventionError: in the block, for a call whose tokens are not known, by an intervention that goes by them.
    """
    from interp_widgets.model.run import is_compiled

    with live.lock:
        live.ready()
    if (live.module is not live.anatomy.root and hasattr(live.module, "_orig_mod")) or is_compiled(live.anatomy.root):
        raise FeatureOffError(
            "This model is compiled, and hooks inside a compiled call do nothing; call the module that was compiled "
            "(model._orig_mod) in applied(), or use session.model.run(...)."
        )
    around = active()
    if around is not None and not around.blocks & {layer.module for layer in live.anatomy.layers}:
        raise InterventionError(
            "The interventions on another model are in force here, and only one model's can be at a time: it would run as it is. "
            "Give each model a block of its own, around its own calls."
        )
    receipts: list[Receipt] = []
    shares = _Shares(live, compile_steps(live, interventions, tokens), asked)
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

    def __init__(self, live: LiveModel, steps: Sequence[Step], asked: Sequence[Sequence[Token]]) -> None:
        self.live = live
        self.steps = steps
        self.asked = asked
        self.handed = handed_on(live) if any(step.site.part in STREAM for step in steps) else {}
        self.each: dict[int, Follower] = {}
        self.over = False

    def here(self) -> Follower:
        """That of this thread, made when it first comes."""
        me = threading.get_ident()
        if me not in self.each:
            self.each[me] = self._made()
        return self.each[me]

    def _made(self) -> Follower:
        live = self.live
        compiled = Compiled(live.program(), [replace(step, tally=Tally()) for step in self.steps])
        compiled.program.lock = live.lock if self.over else None  # the user's own call does not hold it
        follow = Follower(live, compiled, self.here, self.asked)
        follow.watch()
        for step in compiled.steps:
            place_step(live, compiled.program, step, lambda: follow.n_rows, given_at(self.handed, step.site))
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
