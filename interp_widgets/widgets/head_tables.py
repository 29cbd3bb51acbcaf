"""What HeadAblation tells the browser: effects, direct effects, scores and cards as plain data and arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.direct import DirectEffects
from interp_widgets.methods.head_card import HeadCard, Written
from interp_widgets.methods.head_table import READINGS, HeadEffects
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Question
from interp_widgets.model.reference import Reference
from interp_widgets.session import Snapshot
from interp_widgets.widgets.wire import Json, token_of

Array = npt.NDArray[np.float32]
EACH = 600_000  # bytes of the arrays that hold every example; beyond, only the mean is sent
PROMPTS, PROMPT = 1000, 160  # how many prompts of a set are named, and how much of each


# What a score is, beside the cells.
SCORES = {
    "previous-token": "mean attention from each position to the one before (Olsson et al. 2022)",
    "duplicate-token": "mean attention to earlier occurrences of the same token; empty where none comes twice",
    "induction": "mean attention to what followed an earlier occurrence (Olsson et al. 2022); empty where none comes twice",
    "copying": "Σ attention · what the source's value does to its own token's logit, over the mean logit; purple suppresses",
}


def reference_words(snapshot: Snapshot, mode: str | None = None) -> str:
    """What stands beside the numbers: the reference's name, size, and how it is taken; of the session's mode, or of `mode`."""
    return words_of(snapshot.reference, mode or snapshot.mode)


def words_of(reference: Reference | None, how: str) -> str:
    """The same of one reference."""
    if reference is None or how == "zero":
        return ""
    if how == "resample":
        counted = "" if reference.name.startswith(f"{reference.n} ") else f"{reference.n} prompts, "
        one = f"“{shortened(reference.prompts[0])}”, " if reference.n == 1 else counted
        return f"{reference.name} ({one}position by position)"
    prompts = f"{reference.n} prompt{'s' if reference.n > 1 else ''}"
    return (
        f"{reference.name} ({prompts}, {'by position' if reference.by_position else 'pooled'}, {reference.digest[:6]})"
    )


def shortened(text: str, most: int = 60) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else f"{text[: most - 2]} …"


def effects_of(live: LiveModel, result: HeadEffects, reference: str) -> Json:
    """Head effects as the browser is told them."""
    data: Json = {
        "mode": result.mode,
        "baseline": result.baseline,
        "baseline_rank": result.baseline_rank,
        "baseline_chance": result.baseline_chance,
        "floor": result.floor,
        "reference": reference,
        "examples": result.n,
        "ranks": np.asarray(result.ranks, dtype=np.int32),
        "mlp_ranks": np.asarray(result.mlp_ranks, dtype=np.int32),
        "top": [[[live.tokens.token(int(i)).text for i in head if i >= 0] for head in layer] for layer in result.top],
    }
    for name in ("effects", "mlp", "metrics", "mlp_metrics", "kl", "mlp_kl", "chances", "mlp_chances"):
        data[name] = np.asarray(getattr(result, name), dtype=np.float32)
    for reading in READINGS:
        data[f"{reading}_effects"], data[f"mlp_{reading}_effects"] = result.lost(reading)
    if result.n_draws > 1:
        data |= {"spread": result.spread, "draws": result.n_draws}
    data |= _each(result)
    data["restored"] = [[layer, head, float(rows.metric[0])] for (layer, head), rows in result.restored.items()]
    return data


def _each(result: HeadEffects) -> Json:
    """The effects of every example of a prompt set, `[example, layer, head]`, on each reading."""
    if result.n == 1 or result.each.size * 4 * 4 > EACH:
        return {}
    lost = {name: [e.lost(name) for e in result.examples] for name in READINGS}
    readings = {name: np.stack([heads for heads, _ in pairs]) for name, pairs in lost.items()}
    mlps = {name: np.stack([column for _, column in pairs]) for name, pairs in lost.items()}
    readings["KL"], mlps["KL"] = (
        np.stack([e.kl for e in result.examples]),
        np.stack([e.mlp_kl for e in result.examples]),
    )
    mlps["metric"] = np.stack([e.mlp for e in result.examples])
    return {"each": result.each, "each_read": readings, "each_mlp": mlps}


def prompts_of(question: Question) -> list[str]:
    """The prompts of a set, shortened; none for one prompt, which is on the screen."""
    return [shortened(a.prompt, PROMPT) for a in question.examples[:PROMPTS]] if question.n > 1 else []


def direct_of(result: DirectEffects) -> Json:
    """Direct effects as the browser is told them."""
    return {
        "direct": np.asarray(result.heads, dtype=np.float32),
        "direct_mlp": np.asarray(result.mlps, dtype=np.float32),
        "direct_note": "direct: its write through the final norm of this run, along target − foil, in one forward",
    }


def card_of(card: HeadCard) -> Json:
    """A head's card as the browser is told it."""
    return {
        "layer": card.layer,
        "head": card.head,
        "attention": np.asarray(card.attention, dtype=np.float32),
        "carried": np.asarray(card.carried, dtype=np.float32),
        "contribution": np.asarray(card.contribution, dtype=np.float32),
        "direct": card.direct,
        "copying": card.copying,
        "promotes": [_written(w) for w in card.promotes],
        "suppresses": [_written(w) for w in card.suppresses],
        "siblings": list(card.siblings),
        "edited": card.edited,
        "error": "",
    }


def _written(one: Written) -> Json:
    return {**token_of(one.token), "logit": one.logit}


def duration(seconds: float) -> str:
    """A time to wait for, as one would say it."""
    if not math.isfinite(seconds):
        return "a while"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
