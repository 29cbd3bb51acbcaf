"""What HeadAblation tells the browser: effects, direct effects, scores and cards as plain data and arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from interp_widgets.methods.direct import DirectEffects
from interp_widgets.methods.head_card import HeadCard, Written
from interp_widgets.methods.head_effects import HeadEffects
from interp_widgets.model.live import LiveModel
from interp_widgets.session import Snapshot
from interp_widgets.widgets.wire import Json, token_of

Array = npt.NDArray[np.float32]
EACH = 250_000  # bytes of one array that holds every example; beyond, only the mean is sent


def reference_words(snapshot: Snapshot) -> str:
    """What stands beside the numbers: the reference's name, size, and how it is taken."""
    reference = snapshot.reference
    if reference is None or snapshot.mode == "zero":
        return ""
    if snapshot.mode == "resample":
        return f"{reference.name} (“{shortened(reference.prompts[0])}”, position by position)"
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
    chances, ranks = (
        parted(result, "chance", result.baseline_chance),
        parted(result, "rank", float(result.baseline_rank)),
    )
    data["chance_effects"], data["mlp_chance_effects"] = chances[0] - result.chances, chances[1] - result.mlp_chances
    data["rank_effects"], data["mlp_rank_effects"] = (
        np.where(after < 0, np.nan, after - before).astype(np.float32)
        for after, before in zip((result.ranks, result.mlp_ranks), ranks, strict=True)
    )
    if result.n > 1 and result.each.size * 4 <= EACH:
        data["each"] = np.asarray(result.each, dtype=np.float32)
    return data


def parted(result: HeadEffects, name: str, now: float) -> tuple[Array, Array]:
    """A reading without the edits to a part, `[layer, head]` and `[layer]`: the one of now, except for parts that are edited.

    Over a prompt set those are not kept, and NaN.
    """
    heads, mlps = np.full(result.effects.shape, now, np.float32), np.full(result.mlp.shape, now, np.float32)
    for (layer, head), rows in result.restored.items():
        value = float(getattr(rows, name)[0]) if result.n == 1 else np.nan
        if head < 0:
            mlps[layer] = value
        else:
            heads[layer, head] = value
    return heads, mlps


def direct_of(result: DirectEffects) -> Json:
    """Direct effects as the browser is told them."""
    return {
        "direct": np.asarray(result.heads, dtype=np.float32),
        "direct_mlp": np.asarray(result.mlps, dtype=np.float32),
        "direct_note": "",
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
