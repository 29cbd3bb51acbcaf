"""Which tokens made the model say that: methods side by side, each with its check beside its claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict

import torch

from interp_widgets.methods.baselines import Baseline, BaselineSpec, find_baseline, neutral
from interp_widgets.methods.direct_tokens import DirectTokens, direct_by_source
from interp_widgets.methods.explained import Cancelled, Progress, explained
from interp_widgets.methods.gradients import Path, Scores, first_step, gradient_x_input, integrated_gradients, small
from interp_widgets.methods.lrp import cp_lrp
from interp_widgets.methods.occlusion import occlusion, occlusion_packed
from interp_widgets.methods.request import METHODS, Method, check_request
from interp_widgets.methods.row_memory import MEMORY
from interp_widgets.methods.words import remainder, said, signed
from interp_widgets.model.errors import PromptError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Question, Token

__all__ = ["METHODS", "Attribution", "Method", "attribute", "converged"]


class _Limits(TypedDict):
    memory: int
    progress: Progress | None
    cancelled: Cancelled | None


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each token was worth for one number, and the check beside the claim. Positive = toward the target.

    Attributes:
        tokens: the prompt.
        scores: `[pos]`, in the metric's units (logits).
        metric: at the input.
        total: what the scores are compared with: metric − baseline_metric.
        error: sum of scores − total. An arithmetic check where `complete`, else only how far the sum is from the total.
        baseline: what tokens were compared with; `"none"` for gradient × input, LRP and direct attribution.
        baseline_metric: the metric there (0 for `"none"`).
        method: one of `METHODS`; steps: its nodes, 0 where it has none.
        explains: `"plain run"` or `"edited run"`.
        complete: whether the method promises that its scores sum to the total.
        note: what a reader has to know, a sentence or empty.
        floor: how far the metric itself may move by rounding (in batches of another shape); the line counts it in.
    """

    tokens: tuple[Token, ...]
    scores: Scores
    metric: float
    total: float
    error: float
    baseline: str
    baseline_metric: float
    method: str
    steps: int
    explains: Literal["plain run", "edited run"]
    complete: bool
    note: str = ""
    floor: float = 0.0

    @property
    def sum(self) -> float:
        """The sum of all scores."""
        return float(self.scores.sum())

    @property
    def line(self) -> str:
        """The honest line under the tokens."""
        parts = [f"explains the {self.explains}"]
        if self.baseline != "none":
            parts.append(f"baseline {self.baseline} ({said(self.baseline_metric)})")
        if self.complete:
            parts.append(f"sums to {said(self.sum)} ± {remainder(abs(self.error) + self.floor)} (arithmetic check)")
        else:
            whole = "the answer is" if self.baseline == "none" else "all of them together cost"
            parts.append(f"sums to {said(self.sum)} where {whole} {said(self.total)} (no promise)")
        return " · ".join(parts) + (f" · {self.note}" if self.note else "")

    def to_pandas(self) -> Any:
        """One row per token: position, token, id, score."""
        import pandas as pd

        rows = [(i, t.text, t.id, float(s)) for i, (t, s) in enumerate(zip(self.tokens, self.scores, strict=True))]
        return pd.DataFrame(rows, columns=["position", "token", "id", "score"])


def attribute(
    live: LiveModel,
    question: Asked | Question,
    interventions: Sequence[Intervention] = (),
    method: str = "integrated_gradients",
    steps: int = 32,
    baseline: BaselineSpec = "auto",
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> Attribution:
    """What each token of the prompt was worth for the metric, under `interventions`.

    Args:
        live: the model.
        question: what was asked; of a prompt set, its first example.
        interventions: what is on; the edited model is explained.
        method: `"integrated_gradients"`, `"gradient_x_input"`, `"occlusion"`, `"lrp"` or
            `"direct"`; formula, cost and source stand with each function.
        steps: nodes of integrated gradients.
        baseline: see `find_baseline`; `"auto"` is the mean embedding, and for occlusion what `neutral` says.
        memory: bytes that one batch may hold.
        progress: called with the part done, 0 to 1.
        cancelled: asked before every block; stops with `CancelledError`.

    Raises:
        PromptError: for a prompt of one token, a target that is the foil, a baseline that does not fit.
        FeatureOffError: where no gradient exists; occlusion still works there.
        InterpError: for a method or a number of steps that makes no sense.
        ModelChangedError: when the weights changed meanwhile.

    Example:
        >>> a = attribute(live, session.question)  # doctest: +SKIP
        >>> abs(a.scores.sum() - a.total) <= abs(a.error) + 1e-9  # doctest: +SKIP
        True
    """
    check_request(method, steps)
    asked = question.first if isinstance(question, Question) else question
    if len(asked.tokens) < 2:
        raise PromptError(
            "The prompt is a single token, so there is nothing to divide the answer among; write a few more words."
        )
    limits: _Limits = {"memory": memory, "progress": progress, "cancelled": cancelled}
    with live.unchanged():
        return _attribute(live, asked, interventions, method, steps, baseline, limits)


def _attribute(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention],
    method: str,
    steps: int,
    baseline: BaselineSpec,
    limits: _Limits,
) -> Attribution:
    cancelled = limits["cancelled"]
    what = explained(live, asked, interventions)
    explains: Literal["plain run", "edited run"] = "edited run" if what.edited else "plain run"
    if method == "direct":
        return _direct(direct_by_source(live, asked, interventions, cancelled), asked.position)
    if method in ("gradient_x_input", "lrp"):
        scores, metric = (gradient_x_input if method == "gradient_x_input" else cp_lrp)(what, cancelled)
        error = float(scores.sum()) - metric
        return Attribution(
            asked.tokens, scores, metric, metric, error, "none", 0.0, method, 0, explains, complete=False
        )
    free = isinstance(baseline, str) and baseline == "auto"
    chosen = find_baseline(live, asked, neutral(live) if free and method == "occlusion" else baseline)
    if method == "occlusion":
        path, note = occlusion_packed(what, asked, chosen, **limits) or occlusion(what, chosen, **limits), ""
        steps = 0
    else:

        def integrate(start: Baseline, nodes: int) -> Path:
            return integrated_gradients(what, start, nodes, **limits)

        path, chosen, steps, note = _converging(live, asked, chosen, steps, integrate, partial(first_step, what))
    return Attribution(
        tokens=asked.tokens,
        scores=path.scores,
        metric=path.metric,
        total=path.total,
        error=path.error,
        baseline=chosen.name,
        baseline_metric=path.baseline_metric,
        method=method,
        steps=steps,
        explains=explains,
        complete=method == "integrated_gradients",
        note=note,
        floor=rounding(live),
    )


def _direct(parts: DirectTokens, position: int) -> Attribution:
    """What heads carried from each position, and the embedding at its own; MLPs and biases belong to no token."""
    scores = parts.by_token
    scores[position] += parts.embedding
    biases = parts.attention_biases.sum() + parts.constant
    edits = f", edits {signed(parts.edits.sum())}" if parts.edits.any() else ""
    return Attribution(
        tokens=parts.tokens,
        scores=scores,
        metric=parts.metric,
        total=parts.metric,
        error=float(scores.sum()) - parts.metric,
        baseline="none",
        baseline_metric=0.0,
        method="direct",
        steps=0,
        explains=parts.explains,
        complete=False,
        note=f"{parts.label}; MLPs wrote {signed(parts.mlps.sum())}, biases {signed(biases)}{edits}",
    )


def rounding(live: LiveModel) -> float:
    """How far a metric may move by rounding alone; 0 in half precision, where the remainder is rounding itself."""
    return 2 * live.report.floor if torch.finfo(live.dtype).bits >= 32 else 0.0


# ---- a baseline that converges -------------------------------------------------------------------------------------


def converged(live: LiveModel, path: Path) -> bool:
    """Whether the remainder is small beside the numbers that it is the remainder of."""
    return small(live, path.error, path.metric, path.baseline_metric)


def _converging(
    live: LiveModel,
    asked: Asked,
    chosen: Baseline,
    steps: int,
    integrate: Callable[[Baseline, int], Path],
    jump: Callable[[Baseline, int], float],
) -> tuple[Path, Baseline, int, str]:
    """Integrate; a zero baseline that cannot converge is replaced and named, a slow line gets twice as many steps."""
    note = ""
    if chosen.name == "zero" and abs(step := jump(chosen, steps)) > 0.1:
        chosen = find_baseline(live, asked, "mean")
        note = (
            f"the zero baseline does not converge on this model (the metric goes {step:+.0%} of the way before "
            f"the first of {steps} steps), so the {chosen.name} was taken instead"
        )
    path = integrate(chosen, steps)
    if converged(live, path):
        return path, chosen, steps, note
    finer = integrate(chosen, 2 * steps)
    said = [note] if note else []
    if converged(live, finer):
        said.append(f"{steps} steps left {signed(path.error, '.2g')}, so {2 * steps} were taken")
    else:
        jumps = any(layer.mlp is not None and layer.mlp.neurons is None for layer in live.anatomy.layers)
        why = " (experts are switched on the way, and no number of steps sees a jump)" if jumps else ""
        said.append(f"{2 * steps} steps leave {signed(finer.error, '.2g')}{why}: take more, or another baseline")
    return finer, chosen, 2 * steps, "; ".join(said)
