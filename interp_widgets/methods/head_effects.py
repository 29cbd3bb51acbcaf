"""What every head and every MLP is worth for one answer: exact ablations, all of them, from the state on screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from interp_widgets.methods.head_sweep import Progress, Sweep
from interp_widgets.methods.head_table import HeadEffects, over_draws, over_examples
from interp_widgets.model.costing import ASK
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import AblateMode, Intervention
from interp_widgets.model.positions import Positions, PositionSpec
from interp_widgets.model.question import Asked, Question
from interp_widgets.model.reference import Reference
from interp_widgets.model.rows import Cancelled
from interp_widgets.model.values import draws as draws_of

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

__all__ = ["HeadEffects", "head_effects"]
MOST_DRAWS = 64


def head_effects(
    live: LiveModel,
    question: Question | Asked,
    interventions: Sequence[Intervention] = (),
    mode: AblateMode = "mean",
    reference: Reference | str | Sequence[str] | None = None,
    *,
    mlps: bool = True,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    first: tuple[int, int] | None = None,
    proceed: Callable[[float], bool] | None = None,
    positions: PositionSpec | Positions = "all",
    draws: int = 1,
) -> HeadEffects:
    """The effect of every head and MLP on the answer, each ablated alone, everywhere in the prompt or at `positions`.

    Args:
        live: the model.
        question: one example, or a set of them (the mean over examples is given, ranks and tokens are the first's).
        interventions: what is on now and stays on.
        mode: `"mean"`, `"zero"` or `"resample"`.
        reference: the prompts that a mean or resample ablation takes its values from; None: the model's own.
        mlps: whether the MLPs are swept too.
        progress: called with what is there so far and the share done, after every chunk, the last layers first.
        cancelled: asked between blocks.
        first: the `(layer, head)` to compute before all others (head −1 is the MLP).
        proceed: asked once, with the estimated seconds, when the sweep will take longer than 10 s; when it says no, what is
            there so far is returned.
        positions: where each part is ablated; a mean is pooled over the same positions of the reference.
        draws: resample from as many prompts of the reference that line up with the question (fewer where there are fewer),
            one at a time; effects are the mean over them, `spread` says how far they lie apart.

    Raises:
        InterventionError: for a reference that cannot be used, or a number of draws below 1 or above 64.
        FeatureOffError: when the model has no heads. CancelledError: when cancelled.
        ModelChangedError: when the model changed under the sweep.

    Example:
        >>> table = head_effects(live, session.question)  # doctest: +SKIP
        >>> table.effects.shape  # doctest: +SKIP
        (4, 8)
    """
    live.need("heads")
    if type(draws) is not int or not 1 <= draws <= MOST_DRAWS:
        raise InterventionError(f"A resample ablation takes 1 to {MOST_DRAWS} draws, not {draws!r}.")
    asked = question.examples if isinstance(question, Question) else (question,)
    sources = [_sources(live, example, mode, Reference.of(reference), draws) for example in asked]
    total = sum(len(each) for each in sources)
    start = time.perf_counter()
    go_on = proceed and (lambda seconds: seconds <= ASK or proceed(seconds))
    examples: list[HeadEffects] = []
    done = 0
    for example, references in zip(asked, sources, strict=True):
        drawn: list[HeadEffects] = []
        for source in references:

            def report(partial: HeadEffects, share: float, drawn: list[HeadEffects] = drawn, done: int = done) -> None:
                if progress is not None:
                    progress(over_examples([*examples, over_draws([*drawn, partial])]), (done + share) / total)

            sweep = Sweep(live, example, interventions, mode, source, cancelled, mlps, Positions.of(positions))
            drawn.append(sweep.run(report, first, go_on if done == 0 else None, total))
            done += 1
            if sweep.declined:
                return over_examples([*examples, over_draws(drawn)])
        examples.append(over_draws(drawn))
    return replace(over_examples(examples), seconds=time.perf_counter() - start)


def _sources(
    live: LiveModel, asked: Asked, mode: AblateMode, reference: Reference | None, most: int
) -> list[Reference | None]:
    """The reference of every sweep of an example: one, but for several draws."""
    used = reference or live.reference
    if mode != "resample" or most == 1 or used is None:
        return [reference]
    return [*draws_of(live, used, asked.tokens, most)]
