"""What the sliders draw: curves, where text breaks, and a map, each kept while all that it depends on is as it was."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from interp_widgets.methods.coherence import SAMPLES, TOKENS, Coherence, coherence
from interp_widgets.methods.continuations import seconds_for
from interp_widgets.methods.dose_response import STRENGTHS, DoseResponse, beside, dose_response
from interp_widgets.methods.steering import place_name, residual_norm
from interp_widgets.methods.strength_map import StrengthMap, strength_map
from interp_widgets.model.interventions import Intervention, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.wire import Json

Cancelled = Callable[[], bool]
Proceed = Callable[[float], bool]


@dataclass(frozen=True)
class Aim:
    """One vector as it is set now, at strength 1, and all that its curve depends on.

    Attributes:
        steers: one for every layer of its range.
        around: what is on, this push in its place among it when it is on too.
        weights: the fingerprint of the model.
        site: where it acts, in a name.
        residual: the mean residual norm where the vector was made; None where it acts elsewhere.
    """

    name: str
    steers: tuple[Steer, ...]
    examples: tuple[Asked, ...]
    around: tuple[Intervention, ...]
    weights: Hashable
    site: str
    residual: float | None = None

    @property
    def key(self) -> Hashable:
        """Equal keys, equal curves."""
        asked = tuple((a.tokens, a.position, a.metric) for a in self.examples)
        there = beside(self.around, *self.steers)
        there += [steer for steer in self.steers if steer not in there]  # off or never moved: they would act last
        return self.steers, asked, tuple(there), self.weights

    @property
    def push(self) -> Steer | tuple[Steer, ...]:
        """What is tried at every strength."""
        return self.steers[0] if len(self.steers) == 1 else self.steers

    @property
    def others(self) -> list[Intervention]:
        """What is on beside it."""
        return [i for i in beside(self.around, *self.steers) if not any(i is steer for steer in self.steers)]


def aims(session: Session, snapshot: Snapshot) -> list[Aim]:
    """Every vector of the session, as it is set."""
    assert snapshot.question is not None
    weights = session.model.fingerprint()
    found: list[Aim] = []
    for name, vector in session.vectors.items():
        steers = tuple(steer.at(1.0) for steer, _ in session.steering(name))
        here = vector.residual if steers[0].site == vector.site else None
        where = place_name(session.model, [steer.site for steer in steers])
        found.append(Aim(name, steers, snapshot.question.examples, snapshot.interventions, weights, where, here))
    return found


@dataclass
class Curves:
    """What was measured for each vector, with the key that it was measured under."""

    curves: dict[str, tuple[Hashable, Json]] = field(default_factory=dict[str, tuple[Hashable, Json]])
    texts: dict[str, tuple[Hashable, Json]] = field(default_factory=dict[str, tuple[Hashable, Json]])
    map: tuple[Hashable, Json] | None = None

    def told(self, wanted: Sequence[Aim]) -> Json:
        """What there is, as the browser is told it; what belongs to another state is `old`."""
        out: Json = {}
        for aim in wanted:
            key, curve = self.curves.get(aim.name, (None, None))
            if curve is None:
                continue
            text_key, text = self.texts.get(aim.name, (None, {}))
            out[aim.name] = {**curve, **(text if text_key == aim.key else {}), "old": key != aim.key}
        return out

    def measure(
        self, live: LiveModel, aim: Aim, tell: Callable[[], None], proceed: Proceed, cancelled: Cancelled
    ) -> bool:
        """The curve of one vector, where it is not there; whether its random vectors were run too."""
        key, curve = self.curves.get(aim.name, (None, None))
        if key == aim.key and curve is not None and (curve["whole"] or not proceed(curve["seconds"])):
            return bool(curve["whole"])
        first_of = aim.steers[0]
        stream = first_of.vector.shape == (live.anatomy.d_model,)
        residual = aim.residual or (residual_norm(live, first_of.site) if stream else None)
        refused: list[float] = []

        def may(seconds: float) -> bool:
            seconds *= len(aim.examples)
            allowed = proceed(seconds)
            refused.extend([] if allowed else [seconds])
            return allowed

        def keep(found: Sequence[DoseResponse], *, whole: bool) -> None:
            told = _curve(_mean(found), aim, residual) | {"whole": whole, "seconds": max(refused, default=0.0)}
            self.curves[aim.name] = (aim.key, told)
            tell()

        first = aim.examples[0]
        done = [
            dose_response(
                live, asked, aim.push, interventions=aim.around, cancelled=cancelled,
                progress=(lambda own: keep([own], whole=False)) if asked is first and len(aim.examples) == 1 else None,
                proceed=may,
            )
            for asked in aim.examples
        ]  # fmt: skip
        keep(done, whole=not refused)
        return not refused

    def break_up(self, live: LiveModel, aim: Aim, proceed: Proceed, cancelled: Cancelled) -> bool:
        """Where text breaks, of the first prompt, where that is not known; False when it would take long and may not."""
        if self.texts.get(aim.name, (None,))[0] == aim.key:
            return True
        asked = aim.examples[0]
        if not proceed(seconds_for(live, asked, SAMPLES + 2 * len(STRENGTHS), TOKENS, cancelled)):
            return False
        found = coherence(live, asked, aim.push, interventions=aim.around, cancelled=cancelled)
        self.texts[aim.name] = (aim.key, _broken(found))
        return True

    def chart(self, live: LiveModel, aim: Aim, tell: Callable[[float], None], cancelled: Cancelled) -> None:
        """The layer × strength map of one vector, layer by layer; of a set of prompts, of the first."""
        if self.map is not None and self.map[0] == aim.key and self.map[1]["done"]:
            return

        def keep(found: StrengthMap, share: float) -> None:
            self.map = (aim.key, _map(aim, found, done=share >= 1.0))
            tell(share)

        strength_map(live, aim.examples[0], aim.steers[0], interventions=aim.others, progress=keep, cancelled=cancelled)


def _mean(found: Sequence[DoseResponse]) -> DoseResponse:
    """The mean over the prompts of a set; a random vector is the same one for all of them."""
    first = found[0]
    if len(found) == 1:
        return first
    names = ("metric", "kl", "random_metric", "random_kl")
    n = min(len(one.random_metric) for one in found)
    means = {
        name: np.mean([getattr(one, name)[:n] if "random" in name else getattr(one, name) for one in found], axis=0)
        for name in names
    }
    return replace(
        first, **means, label=f"{first.label}, mean over {len(found)} prompts",
        baseline=float(np.mean([one.baseline for one in found])),
        reason=first.reason if all(one.reason for one in found) else "",
    )  # fmt: skip


def _curve(response: DoseResponse, aim: Aim, residual: float | None) -> Json:
    arrays = ("strengths", "metric", "kl", "random_low", "random_high")
    told: Json = {name: np.asarray(getattr(response, name), dtype=np.float32) for name in arrays}
    about = {"label": response.label, "reason": response.reason, "randoms": len(response.random_metric)}
    return told | about | {"site": aim.site, "residual": residual}


def _broken(found: Coherence) -> Json:
    return {
        "breaks": found.breaks.astype(np.uint8),
        "criterion": found.criterion,
        "loss": np.asarray(found.loss, dtype=np.float32),
        "repeats": np.asarray(found.repeats, dtype=np.float32),
        "texts": list(found.texts),
    }


def _map(aim: Aim, found: StrengthMap, *, done: bool) -> Json:
    return {
        "vector": aim.name,
        "layers": list(found.layers),
        "strengths": np.asarray(found.strengths, dtype=np.float32),
        "metric": np.asarray(found.metric, dtype=np.float32),
        "kl": np.asarray(found.kl, dtype=np.float32),
        "baseline": found.baseline,
        "label": found.label,
        "done": done,
    }
