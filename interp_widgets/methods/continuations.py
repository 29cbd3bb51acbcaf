"""Many short continuations of one prompt, and what the plain model thinks of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.model.chunks import patient
from interp_widgets.model.decode import Decoder, Line
from interp_widgets.model.errors import CancelledError, PromptError
from interp_widgets.model.generate import generate_many, picked
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.question import Asked
from interp_widgets.model.rows import Cancelled
from interp_widgets.model.written import Written, joined

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

_ROWS = 64
_TOGETHER = 512  # tokens of prompts that start together: every later step of a text is cheap for many rows at once
_BYTES = 128 << 20


def written(
    live: LiveModel,
    asked: Asked,
    edits: Sequence[Sequence[Intervention]],
    tokens: int,
    seeds: Sequence[int] | None,
    cancelled: Cancelled | None = None,
) -> list[Written]:
    """One continuation of the prompt per row of `edits`: sampled at temperature 1 with its seed, or greedy without seeds.

    No text is longer than what one forward of prompt and text holds.

    Raises:
        CancelledError: when cancelled. PromptError: for a prompt that fills the context.
    """
    out: list[Written] = []
    tokens = _fitting(live, asked, tokens)
    at_once = _at_once(live, asked)
    for i in range(0, len(edits), at_once):
        part = [list(e) for e in edits[i : i + at_once]]
        own = None if seeds is None else seeds[i : i + at_once]
        heat = 0.0 if seeds is None else 1.0
        prompts = [asked.tokens] * len(part)
        # past an end of text too: every row has as many tokens as the next, and the plain samples do the same
        out += generate_many(
            live, prompts, part, tokens, seeds=own, temperature=heat, ignore_eos=True, cancelled=cancelled
        ).finish()
        if any(row.ended == "stopped" for row in out):
            raise CancelledError
    return out


def _fitting(live: LiveModel, asked: Asked, tokens: int) -> int:
    context = live.tokens.context
    if context is not None and len(asked.tokens) >= context:
        raise PromptError(
            f"The prompt fills the model's context of {context} tokens, so no text can follow it; shorten the prompt."
        )
    return tokens if context is None else min(tokens, context - len(asked.tokens))


def _at_once(live: LiveModel, asked: Asked) -> int:
    return min(_ROWS, patient(live, len(asked.tokens), _TOGETHER))


def seconds_for(live: LiveModel, asked: Asked, rows: int, tokens: int, cancelled: Cancelled | None = None) -> float:
    """About how long `rows` continuations of the prompt take, from two steps of one batch."""
    some = min(rows, _at_once(live, asked))
    run = generate_many(live, [asked.tokens] * some, (), 2, ignore_eos=True, cancelled=cancelled)
    start = time.perf_counter()
    next(run, None)
    middle = time.perf_counter()
    next(run, None)
    step = time.perf_counter() - middle
    return -(-rows // some) * ((middle - start) + (tokens - 1) * step)


def joined_text(live: LiveModel, row: Written) -> str:
    """The text of a row, as it reads after its prompt."""
    return joined(live, row.prompt, row.tokens)


def repeated(ids: Sequence[int], n: int = 4) -> float:
    """The share of `n`-grams that occurred before; 0 for a text shorter than `n`.

    Example:
        >>> round(repeated([1, 2, 1, 2, 1, 2]), 3)
        0.333
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def plain_scores(
    live: LiveModel, asked: Asked, continuations: Sequence[Sequence[int]], cancelled: Cancelled | None = None
) -> list[npt.NDArray[np.float32]]:
    """Log-probabilities of every continuation's tokens with nothing on, `[token]` each."""
    n = len(asked.ids)
    out: list[npt.NDArray[np.float32]] = []
    for rows, logits in whole_texts(live, asked, continuations, [()] * len(continuations), cancelled):
        out += [picked(logits[at], n, continuations[r]).cpu().numpy() for at, r in enumerate(rows)]
    return out


def whole_texts(
    live: LiveModel,
    asked: Asked,
    continuations: Sequence[Sequence[int]],
    edits: Sequence[Sequence[Intervention]],
    cancelled: Cancelled | None = None,
) -> Iterator[tuple[range, torch.Tensor]]:
    """Logits `[row, pos, vocab]` of prompt and continuation under each row's edits, as many rows at a time as fit."""
    width = len(asked.ids) + max(len(c) for c in continuations)
    step = max(1, min(_BYTES // (4 * width * live.anatomy.vocab), patient(live, width, _TOGETHER)))
    for i in range(0, len(continuations), step):
        rows = range(i, min(i + step, len(continuations)))
        lines = [
            Line([*asked.tokens, *(live.tokens.token(t) for t in continuations[r])], len(asked.tokens), tuple(edits[r]))
            for r in rows
        ]
        yield rows, Decoder(live, lines, use_cache=False, cancelled=cancelled).step(every=True)
