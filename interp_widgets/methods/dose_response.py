"""Dose and response: the answer at every strength of a vector, beside random vectors of the same norm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.continuations import whole_texts, written
from interp_widgets.methods.steering import SteeringVector, is_centred_model, visible_norm
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Intervention, Steer, finite_strength
from interp_widgets.model.question import Asked
from interp_widgets.model.rows import TOP_K, Cancelled, FloatArray, Rows, base_of, rows_of
from interp_widgets.model.run import row_of
from interp_widgets.model.sites import Site
from interp_widgets.model.steps import Step, op_of, reach_of
from interp_widgets.model.track import track

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Push = SteeringVector | Steer | Sequence[Steer]
STRENGTHS: tuple[float, ...] = tuple(round(0.2 * n, 1) for n in range(-10, 11))
RANDOMS = 8
TEXT_TOKENS = 16
ASK = 10.0  # seconds above which what nobody asked for asks first


@dataclass(frozen=True)
class DoseResponse:
    """The answer at every strength, all from one batch; 0 is the state without this vector, not computed anew.

    Attributes:
        steer: what was tried, at strength 1; of one vector at several layers, the first.
        strengths: `[strength]`, increasing.
        metric: `[strength]`, the question's metric.
        kl: `[strength]`, nats, of the answer without this vector to the answer at that strength.
        top, probability: `[strength, k]`, the most probable tokens' ids and their probabilities.
        random_metric, random_kl: `[random, strength]`, the same for random vectors of equal norm (`[0, strength]`: none were run).
        baseline: the metric without this vector.
        label: what the metric is called.
        reason: why every number is the same, when the vector cannot reach the answer; empty otherwise.
        breaks: `[strength]`, whether text at that strength is outside the plain samples' range; None until `coherence` has run.
    """

    steer: Steer
    strengths: FloatArray
    metric: FloatArray
    kl: FloatArray
    top: npt.NDArray[np.int64]
    probability: FloatArray
    random_metric: FloatArray
    random_kl: FloatArray
    baseline: float
    label: str
    reason: str = ""
    breaks: npt.NDArray[np.bool_] | None = None

    @property
    def random_low(self) -> FloatArray:
        """`[strength]`, the lowest metric among the random vectors; NaN where there are none."""
        return self._band(np.min)

    @property
    def random_high(self) -> FloatArray:
        """`[strength]`, the highest."""
        return self._band(np.max)

    def _band(self, pick: Any) -> FloatArray:
        if not len(self.random_metric):
            return np.full_like(self.metric, np.nan)
        return pick(self.random_metric, axis=0)

    def at(self, strength: float) -> float:
        """The metric at one of the strengths.

        Raises:
            InterventionError: for a strength that was not run: nothing is read off between two points.
        """
        found = np.flatnonzero(np.isclose(self.strengths, strength, rtol=0, atol=1e-6))
        if not len(found):
            raise InterventionError(
                f"Strength {strength:g} was not run; there are {', '.join(f'{s:g}' for s in self.strengths)}."
            )
        return float(self.metric[found[0]])

    def to_pandas(self) -> Any:
        """One row per strength. Needs pandas."""
        import pandas as pd

        table = {"strength": self.strengths, "metric": self.metric, "kl": self.kl}
        table |= {"random_low": self.random_low, "random_high": self.random_high}
        return pd.DataFrame(table if self.breaks is None else {**table, "breaks": self.breaks})


def dose_response(
    live: LiveModel,
    asked: Asked,
    vector: Push,
    strengths: Sequence[float] | None = None,
    interventions: Sequence[Intervention] = (),
    *,
    site: str | Site | None = None,
    positions: Any = None,
    randoms: int = RANDOMS,
    seed: int = 0,
    progress: Callable[[DoseResponse], None] | None = None,
    proceed: Callable[[float], bool] | None = None,
    cancelled: Cancelled | None = None,
) -> DoseResponse:
    """The answer at every strength, and what random vectors of equal norm do to it: blocks after the site, in one batch.

    A vector that acts on `"generated"` positions only cannot move the prompt's answer; then the metric and the KL are
    means over 16 tokens of greedy text at every strength, and the label says so.

    Args:
        vector: a `SteeringVector`, a `Steer` (with its mode and positions; its own strength does not matter), or several that
            move together, as `across` gives them; those are run as whole forwards.
        strengths: −2 to 2 in 21 steps unless given.
        interventions: what is on and stays on. When the same push is among them, the curve is about it, in its place;
            else the vector acts after them.
        site: where, if not where the vector was made.
        positions: as in `Steer`, if not `"content"`.
        randoms: how many random vectors of equal norm; 0 for none.
        seed: of the random vectors, from a generator of their own.
        progress: called with the vector's own curve, before the random ones are run.
        proceed: asked, with the estimated seconds, when the random vectors will take longer than 10 s; when it says no, the
            curve comes without them.
        cancelled: asked between blocks.

    Raises:
        InterventionError: for a strength that is not a finite number, or when the answer is not finite at one of them.
        CancelledError, ModelChangedError: as their names say.

    Example:
        >>> curve = dose_response(live, session.question.first, mood)  # doctest: +SKIP
        >>> curve.metric.shape  # doctest: +SKIP
        (21,)
    """
    steers = as_steers(vector, site, positions)
    doses = doses_of(STRENGTHS if strengths is None else strengths)
    if type(randoms) is not int or not 0 <= randoms <= 1000:
        raise InterventionError(f"randoms is a whole number from 0 to 1000, not {randoms!r}.")
    around = beside(interventions, *steers)
    late = all(steer.positions.kind == "generated" for steer in steers)
    measure = _of_text if late else _of_answer if len(steers) == 1 else _of_many
    if randoms and (progress is not None or proceed is not None):
        start = time.perf_counter()
        own = measure(live, asked, steers, doses, around, 0, seed, cancelled)
        seconds = (time.perf_counter() - start) * randoms
        if progress is not None:
            progress(own)
        if proceed is not None and seconds > ASK and not proceed(seconds):
            return own
    return measure(live, asked, steers, doses, around, randoms, seed, cancelled)


def _of_answer(
    live: LiveModel,
    asked: Asked,
    steers: Sequence[Steer],
    doses: Sequence[float],
    around: Sequence[Intervention],
    randoms: int,
    seed: int,
    cancelled: Cancelled | None,
) -> DoseResponse:
    """The metric and the KL of the prompt's answer, from one batched run of the blocks after the site."""
    (steer,) = steers
    norm, centred = visible_length(live, steer), _hides_ones(live, steer)
    found = track(
        live, asked, around, steer, doses, controls=randoms, seed=seed, norm=norm, centred=centred, cancelled=cancelled
    )
    rows = found.rows
    without = [other for other in around if other is not steer]
    now = float(asked.metric.of(live.answer(asked, without, cancelled).logits[None])[0])
    reason, label = reach(live, asked, steer), asked.metric.label
    return DoseResponse(
        steer, found.strengths, rows.metric, rows.kl, rows.top, rows.probability, found.controls, found.control_kl,
        now, label, reason,
    )  # fmt: skip


def _of_many(
    live: LiveModel,
    asked: Asked,
    steers: Sequence[Steer],
    doses: Sequence[float],
    around: Sequence[Intervention],
    randoms: int,
    seed: int,
    cancelled: Cancelled | None,
) -> DoseResponse:
    """The same for one vector at several places: every strength is a row of whole forwards, with its own edits."""
    plain = [i for i in around if not any(i is steer for steer in steers)]
    base = base_of(live, asked, plain, cancelled)
    edits = _edits(live, around, steers, doses, randoms, seed)
    still = [c == 0.0 and all(steer.mode != "clamp" for steer in steers) for _ in range(randoms + 1) for c in doses]
    moving = [edit for edit, rests in zip(edits, still, strict=True) if not rests]
    found = iter([
        rows.one(i)
        for _, logits in whole_texts(live, asked, [()] * len(moving), moving, cancelled)
        for rows in [rows_of(base, logits[:, asked.position].float(), cancelled)]
        for i in range(len(logits))
    ])  # fmt: skip
    rest = replace(rows_of(base, base.logits), kl=np.zeros(1, np.float32))
    rows = Rows.join([rest if rests else next(found) for rests in still])
    n = len(doses)
    reasons = [reach(live, asked, steer) for steer in steers]
    return DoseResponse(
        steers[0], np.array(doses, np.float32), rows.metric[:n], rows.kl[:n], rows.top[:n], rows.probability[:n],
        rows.metric[n:].reshape(randoms, n), rows.kl[n:].reshape(randoms, n), float(rest.metric[0]),
        asked.metric.label, reasons[0] if all(reasons) else "",
    )  # fmt: skip


def doses_of(strengths: Sequence[float]) -> list[float]:
    """Strengths in order, each once.

    Raises:
        InterventionError: when there is none, or one is not a finite number.
    """
    doses = sorted({finite_strength(s) for s in strengths})
    if not doses:
        raise InterventionError("There is no strength to try; pass at least one number.")
    return doses


def beside(interventions: Sequence[Intervention], *steers: Steer) -> list[Intervention]:
    """What is on, with each of `steers` itself in the place of this very push, at whatever strength that is on."""

    def own(i: Intervention) -> Intervention:
        return next((s for s in steers if i.at(1.0) == s), i) if isinstance(i, Steer) else i

    return [own(i) for i in interventions]


def visible_length(live: LiveModel, steer: Steer) -> float:
    """The norm of a push as far as the model can see it."""
    return visible_norm(steer.vector.values, _hides_ones(live, steer))


def _hides_ones(live: LiveModel, steer: Steer) -> bool:
    """Whether what reads a push does not see its component along ones."""
    stream = steer.vector.shape == (live.anatomy.d_model,) and steer.site.part not in ("z", "neurons")
    return stream and is_centred_model(live)


# ---- a vector that acts on generated text only -----------------------------------------------------------------------


def _of_text(
    live: LiveModel,
    asked: Asked,
    steers: Sequence[Steer],
    doses: Sequence[float],
    around: Sequence[Intervention],
    randoms: int,
    seed: int,
    cancelled: Cancelled | None,
) -> DoseResponse:
    """The metric and the KL, as means over greedy text at every strength: the prompt's own answer cannot move."""
    edits = _edits(live, around, steers, doses, randoms, seed)
    plain = [i for i in around if not any(i is steer for steer in steers)]
    metric, kl, top, share = text_means(live, asked, edits, plain, cancelled)
    n = len(doses)
    zero = doses.index(0.0) if 0.0 in doses else None
    baseline = metric[zero] if zero is not None else text_means(live, asked, [plain], plain, cancelled)[0][0]
    return DoseResponse(
        steers[0], np.array(doses, np.float32), metric[:n], kl[:n], top[:n], share[:n],
        metric[n:].reshape(randoms, n), kl[n:].reshape(randoms, n), float(baseline),
        f"{asked.metric.label}, mean over {TEXT_TOKENS} generated tokens",
    )  # fmt: skip


def _edits(
    live: LiveModel,
    around: Sequence[Intervention],
    steers: Sequence[Steer],
    doses: Sequence[float],
    randoms: int,
    seed: int,
) -> list[list[Intervention]]:
    """What is on in every row: the vector at every strength, then random ones of its norm."""
    first = steers[0].vector.values
    drawn = np.random.default_rng(seed).standard_normal((randoms, *first.shape))
    drawn -= drawn.mean(-1, keepdims=True) if _hides_ones(live, steers[0]) else 0.0
    sizes = np.linalg.norm(drawn.reshape(randoms, first.size), axis=-1).reshape(-1, *[1] * first.ndim)
    others = (drawn * (visible_length(live, steers[0]) / sizes)).astype(np.float32)
    return [pushed_beside(around, steers, values, c) for values in (None, *others) for c in doses]


def pushed_beside(
    around: Sequence[Intervention], steers: Sequence[Steer], values: FloatArray | None, strength: float
) -> list[Intervention]:
    """What is on, with `steers` at a strength (and with other numbers) in their places, or after the rest."""

    def push(steer: Steer) -> Steer:
        vector = steer.vector if values is None else values
        return Steer(steer.site, vector, strength, steer.mode, steer.positions, steer.name, steer.origin)

    placed = [next((push(s) for s in steers if i is s), i) for i in around]
    return [*placed, *(push(s) for s in steers if not any(i is s for i in around))]


def text_means(
    live: LiveModel,
    asked: Asked,
    edits: Sequence[Sequence[Intervention]],
    plain: Sequence[Intervention],
    cancelled: Cancelled | None,
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64], FloatArray]:
    """Per row of edits: the mean metric and the mean KL over its greedy text, and the top tokens at the text's end.

    The KL is from the answers without the push to those with it, at every token of the same text.
    """
    texts = [[t.id for t in row.tokens] for row in written(live, asked, edits, TEXT_TOKENS, None, cancelled)]
    n, count = len(asked.ids), len(texts)
    metric, kl = np.zeros(count, np.float32), np.zeros(count, np.float32)
    top, share = np.zeros((count, TOP_K), np.int64), np.zeros((count, TOP_K), np.float32)
    pushed_rows = whole_texts(live, asked, texts, edits, cancelled)
    plain_rows = whole_texts(live, asked, texts, [plain] * count, cancelled)
    for (rows, with_push), (_, without) in zip(pushed_rows, plain_rows, strict=True):
        for at, r in enumerate(rows):
            span = slice(n - 1, n - 1 + len(texts[r]))
            now, before = with_push[at, span].float(), without[at, span].float().log_softmax(-1)
            metric[r] = float(asked.metric.of(now, cancelled).mean())
            kl[r] = max(0.0, float((before.exp() * (before - now.log_softmax(-1))).sum(-1).mean()))
            best = now[-1].softmax(-1).topk(min(TOP_K, now.shape[-1]))
            top[r, : len(best.indices)], share[r, : len(best.values)] = best.indices.cpu(), best.values.cpu()
    return metric, kl, top, share


# ---- a vector as an intervention -------------------------------------------------------------------------------------


def as_steers(vector: Push, site: str | Site | None = None, positions: Any = None) -> tuple[Steer, ...]:
    """A vector as interventions of strength 1: one, or one for each place.

    Raises:
        InterventionError: for anything else.
    """
    several = isinstance(vector, (list, tuple)) and bool(vector) and all(isinstance(one, Steer) for one in vector)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not several:
        return (as_steer(vector, site, positions),)  # pyright: ignore[reportArgumentType]  # anything else is refused there
    if site is not None:
        raise InterventionError("Several pushes have a site each; leave site out.")
    return tuple(as_steer(one, None, positions) for one in vector)  # pyright: ignore[reportGeneralTypeIssues]


def as_steer(vector: SteeringVector | Steer, site: str | Site | None = None, positions: Any = None) -> Steer:
    """A vector as an intervention of strength 1.

    Raises:
        InterventionError: for anything else.
    """
    if isinstance(vector, Steer):
        return vector.placed(site, positions=positions).at(1.0)
    if isinstance(vector, SteeringVector):  # pyright: ignore[reportUnnecessaryIsInstance]
        return Steer(
            vector.site if site is None else site, vector, 1.0, positions="content" if positions is None else positions
        )
    raise InterventionError(f"A dose-response curve needs a SteeringVector or a Steer, not {type(vector).__name__}.")


def reach(live: LiveModel, asked: Asked, steer: Steer) -> str:
    """Why the answer cannot move, or nothing."""
    row = row_of(asked.tokens, len(asked.tokens))
    if not steer.positions.mask(row).any():
        if steer.positions.kind == "generated":
            return "it acts on generated positions only, and the prompt's answer is read"
        return f"no position matches {steer.positions}"
    return reach_of(Step(steer, steer.site, op_of(steer)), live.anatomy, row, asked.position) or ""
