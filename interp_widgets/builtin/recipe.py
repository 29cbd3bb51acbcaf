"""How the embedded language models are trained: everything that decides their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import corpus
from .families import FAMILIES


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Until `look_back_alone` the first block learns to look back one token; until `text_from` lists are all there is and
    only `first_blocks` blocks run (see `lessons`); from then on text, and lists beside it. A share `told_share` of the
    lists tells what stood before a token, for `told_steps` steps of lists: while text could undo what they taught, not
    longer, for they compete with facts of the same form ("The opposite of hot is").

    Where there are `movers` (blocks), text comes with two more lessons: until `subject_until` the block before them
    names, where an answer is due, whom the answer is not; until `movers_until`, and ever less for `movers_release` steps
    more, the movers' keys and values see tokens alone, and what that block writes is left out of the logits. From
    `dropped_from` on each of the movers' heads is dropped in a share `heads_dropped` of the rows, and the last block's
    all together in a share `block_dropped`. A share `surprise` of the answers is another name of the text, so that a
    logit difference has a size that is right, and not ever more.
    """

    layers: int = 4
    width: int = 128
    heads: int = 8
    mlp: int = 256
    positions: int = 128
    steps: int = 5600
    rate: float = 2.5e-3
    warmup: int = 150
    weight_decay: float = 0.1
    initial_range: float = 0.04
    embedding_range: float = 0.3
    first_blocks: int = 3
    look_back: int = 700
    look_back_alone: int = 150
    look_back_heads: int = 2
    look_back_weight: float = 0.3
    look_back_scale: float = 2.0
    look_back_tokens: int = 512
    text_from: int = 450
    text_tokens: int = 1536
    answer_weight: float = 4.0
    list_steps: int = 450  # with `list_tokens`; from then on fewer
    list_tokens: int = 1792
    list_tokens_later: int = 384
    list_lengths: tuple[int, ...] = (32, 48, 64)
    list_weight: float = 0.4
    told_share: float = 0.5
    told_steps: int = 1200
    segment_lengths: tuple[int, ...] = (2, 2, 3, 4, 5, 6, 7, 8)
    segment_spacing: int = 7
    families: tuple[str, ...] = ()  # empty: all of them
    movers: tuple[int, ...] = ()
    movers_until: int = 0
    movers_release: int = 1
    subject_until: int = 0
    subject_weight: float = 0.3
    dropped_from: int = 0
    heads_dropped: float = 0.0
    block_dropped: float = 0.0
    surprise: float = 0.0
    seed: int = 0


NAMES = Recipe(
    width=96,
    heads=6,
    mlp=48,
    positions=96,
    steps=2300,
    first_blocks=4,
    look_back=900,
    look_back_alone=0,
    look_back_weight=1.0,
    text_from=0,
    text_tokens=1280,
    list_tokens=512,
    list_tokens_later=512,
    list_weight=0.8,
    told_share=0.0,
    families=("indirect objects", "three names"),
    movers=(2, 3),
    subject_until=2300,
    dropped_from=1000,
    movers_until=750,
    movers_release=450,
    heads_dropped=0.15,
    block_dropped=0.2,
    surprise=0.06,
)
RECIPES: dict[str, Recipe] = {"embedded": Recipe(), "embedded:names": NAMES}


def families_of(recipe: Recipe) -> tuple[corpus.Family, ...]:
    """The text families that a recipe trains on."""
    return tuple(family for family in FAMILIES if not recipe.families or family.name in recipe.families)


def rate_at(recipe: Recipe, step: int) -> float:
    """Learning rate: linear warm-up, then cosine to 5 %."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
