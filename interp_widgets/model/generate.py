"""Generation: one token at a time under interventions; nothing runs between two tokens, or after the consumer has left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from interp_widgets.model.decode import Decoder, Line
from interp_widgets.model.ending import Settings
from interp_widgets.model.errors import GenerationError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.question import Prompt, Token
from interp_widgets.model.written import Generation, GenerationRun, SideBySide

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


def generate(
    live: LiveModel,
    prompt: Prompt,
    interventions: Sequence[Intervention] = (),
    max_new_tokens: int = 50,
    use_cache: bool = True,
    *,
    continued: Sequence[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | int | Sequence[str | int] | None = None,
    ignore_eos: bool = False,
    cancelled: Callable[[], bool] | None = None,
) -> GenerationRun:
    """Generate under interventions, one token per `next`; greedy unless a temperature is given.

    The first generated token is predicted at the last prompt position: interventions on `"generated"` positions cannot
    change it. With the cache, every position is fed and edited exactly once; the tokens are those without it.

    Args:
        prompt: a text, token ids, or chat messages.
        interventions: applied in order, at their positions.
        max_new_tokens: how many at most; the context's end stops earlier, with a note.
        continued: ids of generated text to go on from; they count as generated, under these interventions.
        temperature: 0 is greedy; else sampled with a generator of our own.
        top_k: sample from the k most probable.
        top_p: sample from the smallest set that reaches this probability.
        seed: makes sampling repeatable; None draws one (`run.seed`).
        stop: ids or texts that end it, beside the model's own end-of-text tokens.
        ignore_eos: go on past the end of text.
        cancelled: asked before every block; when true the run ends and keeps its text.

    Raises:
        PromptError, InterventionError, SiteError, FeatureOffError, GenerationError: each in a sentence.
    """
    options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "ignore_eos": ignore_eos,
    }
    settings = Settings.of(live, max_new_tokens, use_cache, options)
    return GenerationRun(Generation(live, [line_of(live, prompt, interventions, continued)], settings, cancelled))


def generate_many(
    live: LiveModel,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention] | Sequence[Sequence[Intervention]] = (),
    max_new_tokens: int = 50,
    use_cache: bool = True,
    *,
    seeds: Sequence[int] | None = None,
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> Generation:
    """Several prompts at once, padded on the left; each row is what `generate` gives for it alone.

    Args:
        interventions: for all rows, or one sequence per row.
        seeds: one per row; else every row uses `seed`.
        options: those of `generate`.

    Raises:
        GenerationError: when there is no prompt, or not one sequence of interventions or seed per prompt.
    """
    if not prompts:
        raise GenerationError("There is no prompt to continue; pass at least one.")
    unknown = set(options) - {"temperature", "top_k", "top_p", "seed", "stop", "ignore_eos"}
    if unknown:
        raise GenerationError(f"generate_many has no setting {min(unknown)!r}.")
    each = _per_row(interventions, len(prompts))
    if seeds is not None and len(seeds) != len(prompts):
        raise GenerationError(f"There are {len(prompts)} prompts and {len(seeds)} seeds; pass one seed per prompt.")
    settings = Settings.of(live, max_new_tokens, use_cache, {**options, "seeds": seeds})
    return Generation(live, [line_of(live, p, i) for p, i in zip(prompts, each, strict=True)], settings, cancelled)


def side_by_side(
    live: LiveModel,
    prompt: Prompt,
    interventions: Sequence[Intervention],
    max_new_tokens: int = 50,
    use_cache: bool = True,
    *,
    continued: Sequence[int] = (),
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> SideBySide:
    """Plain and edited text as one batch of two, with the same noise; yields pairs, None for the one that has ended.

    Args:
        options: those of `generate`.
    """
    unknown = set(options) - {"temperature", "top_k", "top_p", "seed", "stop", "ignore_eos"}
    if unknown:
        raise GenerationError(f"side_by_side has no setting {min(unknown)!r}.")
    settings = Settings.of(live, max_new_tokens, use_cache, dict(options))
    lines = [line_of(live, prompt, (), continued), line_of(live, prompt, interventions, continued)]
    return SideBySide(live, lines, settings, cancelled)


def score(
    live: LiveModel,
    prompt: Sequence[int] | Sequence[Token],
    continuation: Sequence[int],
    interventions: Sequence[Intervention] = (),
    cancelled: Callable[[], bool] | None = None,
) -> torch.Tensor:
    """Log-probabilities `[token]` (nats, float32) of a given continuation, by one forward over the whole text."""
    line = line_of(live, prompt, interventions, continuation)
    logits = Decoder(live, [line], use_cache=False, cancelled=cancelled).step(every=True)[0]
    return picked(logits, len(prompt), continuation)


def picked(logits: torch.Tensor, n_prompt: int, continuation: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of `continuation` in the logits `[pos, vocab]` of the whole text."""
    rows = logits[n_prompt - 1 : n_prompt - 1 + len(continuation)].float().log_softmax(-1)
    return rows.gather(-1, torch.tensor(list(continuation), device=rows.device)[:, None])[:, 0]


def line_of(
    live: LiveModel, prompt: Prompt, interventions: Sequence[Intervention], continued: Sequence[int] = ()
) -> Line:
    """A row to decode."""
    tokens = live.tokens.encode(prompt)
    more = live.tokens.encode(list(continued)) if continued else ()
    if live.tokens.context is not None and len(tokens) + len(more) > live.tokens.context:
        total, limit = len(tokens) + len(more), live.tokens.context
        raise GenerationError(f"Prompt and continuation have {total} tokens, but the model's context holds {limit}.")
    return Line([*tokens, *more], len(tokens), tuple(interventions))


def _per_row(interventions: Sequence[Any], n: int) -> list[tuple[Intervention, ...]]:
    items = list(interventions)
    if not items or not isinstance(items[0], (list, tuple)):
        return [tuple(items)] * n
    if len(items) != n:
        raise GenerationError(
            f"There are {n} prompts and {len(items)} sequences of interventions; pass one per prompt."
        )
    return [tuple(i) for i in items]
