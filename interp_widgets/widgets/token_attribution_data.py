"""What TokenAttribution shows, as the browser is told it; the shapes are those of docs/protocol.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.agreement import agreement
from interp_widgets.methods.answers import AnswerAttribution
from interp_widgets.methods.attribution import METHODS, Attribution, rounding
from interp_widgets.methods.deletion import Curve, Evidence
from interp_widgets.methods.deletion_steps import Steps, area_at
from interp_widgets.methods.direct_tokens import DirectTokens
from interp_widgets.methods.spans import SpanSpec, span_scores
from interp_widgets.methods.words import remainder
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Token
from interp_widgets.model.written import GeneratedToken
from interp_widgets.widgets.wire import Json, token_of

GROUPS = ("word", "sentence", "line")
CARRIERS = 6  # heads that are named for each token
ALTERNATIVES = 5
_HALF = 50_000  # numbers above which a table travels in half precision


def attribution_of(result: Attribution) -> Json:
    """An attribution."""
    return {
        "method": result.method,
        "tokens": [token_of(t) for t in result.tokens],
        "scores": np.asarray(result.scores, dtype=np.float32),
        "total": result.total,
        "error": result.error,
        "baseline": {"name": result.baseline, "metric": result.baseline_metric},
        "explains": result.explains,
        "line": result.line,
        "methods": list(METHODS),
    }


def groups_of(live: LiveModel, asked: Asked) -> Json:
    """Which word, sentence and line each token belongs to: `[pos]`, counted from 0."""
    return {by: group_of(live, asked, by)[0] for by in GROUPS}


def group_of(live: LiveModel, asked: Asked, by: SpanSpec) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The number of each token's span `[pos]`, and the numbers of the spans that were asked for (not those between).

    Raises:
        PromptError: for an expression that cannot be read, or never matches.
    """
    index: npt.NDArray[np.int32] = np.zeros(len(asked.tokens), np.int32)
    chosen: list[int] = []
    for number, span in enumerate(span_scores(live, asked, np.zeros(len(asked.tokens)), by)):
        index[list(span.positions)] = number
        if span.chosen:
            chosen.append(number)
    return index, np.array(chosen, np.int32)


def deletion_of(method: str, steps: Steps, random: Sequence[tuple[Curve, Curve]], wait: float | None) -> Json:
    """The curves of a ranking and of random orders, and the real answer at every step.

    Args:
        method: whose ranking it is.
        steps: the ranking's own curves.
        random: deletion and insertion of every random order so far.
        wait: seconds that one more order takes, where there are fewer than there should be.
    """
    data: Json = {
        "method": method,
        "order": np.array(steps.order, np.int32),
        "counts": np.array(steps.tokens_gone, np.int32),
        "units": np.array(steps.counts, np.int32),
        "unit": steps.unit,
        "tokens": [token_of(t) for t in steps.tokens],
        "probabilities": steps.probabilities,
        "baseline": steps.baseline,
        "orders": len(random),
        "wait": wait,
    }
    for name, own, drawn in (
        ("deletion", steps.deletion, [down for down, _ in random]),
        ("insertion", steps.insertion, [up for _, up in random]),
    ):
        areas = [area_at(steps.counts, curve) for curve in drawn]
        data[name] = {
            "own": own.astype(np.float32),
            "low": np.min(drawn, 0).astype(np.float32) if drawn else None,
            "high": np.max(drawn, 0).astype(np.float32) if drawn else None,
            "area": area_at(steps.counts, own),
            "random_area": float(np.mean(areas)) if areas else None,
            "random_spread": float(np.std(areas)) if areas else None,
        }
    return data


def compare_of(
    found: Mapping[str, Attribution],
    evidence: Mapping[str, Evidence],
    off: Mapping[str, str],
    waiting: Mapping[str, float],
) -> Json:
    """Methods side by side with their checks and rank correlation, those that are off with the reason, and those that take long."""
    names = [name for name in METHODS if name in found]
    scores = {name: found[name].scores for name in names}
    return {
        "methods": names,
        "scores": np.array([scores[name] for name in names], np.float32),
        "lines": [
            " · ".join([found[name].line, *([evidence[name].line] if name in evidence else [])]) for name in names
        ],
        "checks": np.array([_check(evidence.get(name)) for name in names], np.float32),
        "correlations": agreement(scores).correlations.astype(np.float32) if len(names) > 1 else None,
        "off": [{"method": name, "reason": reason} for name, reason in off.items()],
        "waiting": [{"method": name, "seconds": seconds} for name, seconds in waiting.items()],
    }


def _check(found: Evidence | None) -> tuple[float, float, float]:
    """How many tokens were replaced, what that cost, and what as many random ones cost; NaN where nothing was measured."""
    return (np.nan, np.nan, np.nan) if found is None else (found.k, found.cost, found.random_cost)


def carriers_of(parts: DirectTokens) -> Json:
    """For each token the heads that carried most from it straight to the answer, what all others did, and each layer."""
    table = parts.sources.reshape(-1, len(parts.tokens))
    most = np.argsort(-np.abs(table), axis=0, kind="stable")[:CARRIERS].T
    values = np.take_along_axis(table.T, most, axis=1)
    heads = parts.sources.shape[1]
    return {
        "layers": (most // heads).astype(np.int32),
        "heads": (most % heads).astype(np.int32),
        "values": values.astype(np.float32),
        "sums": parts.by_token.astype(np.float32),
        "layer_sums": parts.sources.sum(1).T.astype(np.float32),
        "count": len(table),
        "note": parts.label,
    }


def answer_of(table: AnswerAttribution, written: Sequence[GeneratedToken], live: LiveModel) -> Json:
    """A whole answer: `scores [output, input]`, and the tokens that each output might have been."""
    complete = table.method == "integrated_gradients"
    baseline = [] if table.baseline == "none" else [f"baseline {table.baseline}"]
    gap = float(np.abs(table.errors).max(initial=0.0)) + rounding(live)
    sums = (
        f"every row sums to its log-probability ± {remainder(gap)} (arithmetic check)"
        if complete
        else "rows have no sum"
    )
    return {
        "method": table.method,
        "inputs": [token_of(t) for t in table.inputs],
        "outputs": [token_of(t) for t in table.outputs],
        "n_prompt": table.n_prompt,
        "scores": table.scores.astype(np.float16 if table.scores.size > _HALF else np.float32),
        "metrics": table.metrics.astype(np.float32),
        "tops": [[_likely(live, i, p) for i, p in token.top[:ALTERNATIVES]] for token in written],
        "line": " · ".join([f"explains the {table.explains}", *baseline, "log-probabilities", sums]),
    }


def instead_of(output: int, token: Token, method: str, scores: npt.NDArray[np.float64], metric: float) -> Json:
    """The row of a token that an output might have been."""
    return {
        "output": output,
        "method": method,
        **token_of(token),
        "scores": scores.astype(np.float32),
        "metric": metric,
    }


def _likely(live: LiveModel, token: int, probability: float) -> Any:
    return token_of(live.tokens.token(token)) | {"probability": probability}
