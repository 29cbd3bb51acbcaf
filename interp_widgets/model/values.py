"""What an intervention puts in place: reference means, another prompt's activations, a patch's source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Ablate, Intervention, Patch
from interp_widgets.model.positions import Positions
from interp_widgets.model.question import Token
from interp_widgets.model.reference import Reference
from interp_widgets.model.sites import Site
from interp_widgets.model.vector import Vector

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

MAX_UNKNOWN = 0.1


@dataclass(frozen=True)
class Means:
    """Mean activations over a reference set; `values[site]` is `[feature]`, or `[pos, feature]` when by position."""

    values: dict[Site, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(v.nbytes for v in self.values.values())


def resolve(live: LiveModel, intervention: Intervention, tokens: Sequence[Token]) -> torch.Tensor | None:
    """The tensor that replaces the activation, `[feature]` or `[pos, feature]`; None where the step computes it.

    Raises:
        InterventionError: for a reference that cannot be used with this prompt.
    """
    if isinstance(intervention, Ablate):
        return _ablated(live, intervention, tokens)
    if isinstance(intervention, Patch):
        return _patched(live, intervention, tokens)
    return None


def goes_by_tokens(live: LiveModel, intervention: Intervention) -> bool:
    """Whether what is put in place depends on the prompt, so that another prompt needs a value of its own."""
    if isinstance(intervention, Patch):
        return True
    if not isinstance(intervention, Ablate):
        return False
    reference = intervention.reference or live.reference
    by_position = reference is not None and reference.by_position
    return intervention.mode in ("resample", "edge") or (intervention.mode == "mean" and by_position)


def _ablated(live: LiveModel, ablate: Ablate, tokens: Sequence[Token]) -> torch.Tensor | None:
    if ablate.mode == "edge":
        return None
    if ablate.mode == "zero":
        return torch.zeros((), dtype=torch.float32, device="cpu")
    reference = ablate.reference or live.reference
    if reference is None:
        raise InterventionError(
            f"{ablate.label} needs reference prompts and this model has none; pass reference=[...] or use mode='zero'."
        )
    site = ablate.site
    if ablate.mode == "resample":
        what = f"Resampling {site.name}"
        other = live.tokens.encode(draws(live, reference, tokens, 1, what)[0].pairs[0][1])
        return _pick(_activation(live, Site(site.part, site.layer), other, tokens, what), site)
    whole = Site(site.part, site.layer)
    mean = means(live, reference, ablate.positions, len(tokens)).values.get(whole)
    if mean is None:
        raise InterventionError(f"{site.name} has no mean over {reference.name!r}; use mode='zero'.")
    return _pick(mean, site, by_position=reference.by_position)


def draws(
    live: LiveModel, reference: Reference, tokens: Sequence[Token], most: int, what: str = "Resampling"
) -> list[Reference]:
    """The prompts of `reference` that a prompt may be resampled from, one reference each: those that line up, `most` at most.

    Where prompts were written for one question each, those written for this one come alone; a prompt is resampled from itself
    only where there is no other. An ablation takes the first.

    Raises:
        InterventionError: when no prompt of the reference has as many tokens as the question.

    Example:
        >>> [one.prompts for one in draws(live, Reference.of(["a b c", "d e f", "g"]), tokens, 4)]  # doctest: +SKIP
        [('a b c',), ('d e f',)]
    """
    ids = tuple(t.id for t in tokens)
    own = {i: other for i, (question, other) in enumerate(reference.pairs) if question == ids}
    found: list[Reference] = []
    itself: list[Reference] = []
    lengths: set[int] = set()
    for i in own or range(reference.n):
        prompt = reference.prompts[i]
        other = own[i] if own else tuple(t.id for t in _encoded(live, reference, i))
        lengths.add(len(other))
        if len(other) == len(ids):
            one = Reference(reference.name, (prompt,), reference.by_position, ((ids, other),))
            (itself if other == ids else found).append(one)
        if len(found) == most:
            break
    if found or itself:
        return found or itself[:1]
    if reference.n == 1 or own:
        raise InterventionError(
            f"{what} needs a prompt of the same length: it has {min(lengths)} tokens and the question {len(tokens)}; "
            "write one that lines up token by token."
        )
    raise InterventionError(
        f"{what} needs a prompt of the same length: the {reference.n} prompts of {reference.name!r} have {min(lengths)} to "
        f"{max(lengths)} tokens, none of them the question's {len(tokens)}; give a corrupt prompt that lines up token by token."
    )


def _pick(value: torch.Tensor, site: Site, by_position: bool = True) -> torch.Tensor:
    if site.index is None:
        return value
    return value[:, site.index] if by_position else value[site.index]


def _patched(live: LiveModel, patch: Patch, tokens: Sequence[Token]) -> torch.Tensor:
    if isinstance(patch.source, Vector):
        return torch.from_numpy(patch.source.values.copy())
    other = live.tokens.encode(patch.source)
    return _activation(live, patch.site, other, tokens, patch.label[0].upper() + patch.label[1:])


def _activation(
    live: LiveModel, site: Site, other: Sequence[Token], tokens: Sequence[Token], what: str
) -> torch.Tensor:
    if len(other) != len(tokens):
        raise InterventionError(
            f"{what} needs a prompt of the same length: it has {len(other)} tokens and the question {len(tokens)}; "
            "write one that lines up token by token."
        )
    key = ("activation", site, tuple(t.id for t in other), live.fingerprint())
    kept = live.cache.get(key)
    if not isinstance(kept, torch.Tensor):
        kept = live.run([t.id for t in other], read=[site])[site]
        live.cache.put(key, kept)
    return kept


def means(live: LiveModel, reference: Reference, positions: Positions, n_tokens: int) -> Means:
    """Mean of every head, MLP, neuron and attention write over `reference`, pooled over the same positions as the edit's.

    Raises:
        InterventionError: when more than a tenth of the reference's tokens are unknown to the tokenizer, or when a mean by
            position is asked for and the prompts do not line up.
    """
    key = ("means", reference.digest, str(positions), n_tokens if reference.by_position else 0, live.fingerprint())
    kept = live.cache.get(key)
    if isinstance(kept, Means):
        return kept
    prompts = [_encoded(live, reference, i) for i in range(reference.n)]
    _check(live, reference, prompts, n_tokens)
    reads = reference_sites(live)
    result = _by_position(live, prompts, reads) if reference.by_position else _pooled(live, prompts, reads, positions)
    live.cache.put(key, result)
    return result


def _encoded(live: LiveModel, reference: Reference, i: int) -> tuple[Token, ...]:
    """A prompt of the reference as it was asked: its text may be written with a BOS in front of it, or come from a chat."""
    return live.tokens.encode(reference.pairs[i][1] if reference.pairs else reference.prompts[i])


def _check(live: LiveModel, reference: Reference, prompts: Sequence[Sequence[Token]], n_tokens: int) -> None:
    unk = getattr(live.tokenizer, "unk_token_id", None)
    ids = [t.id for p in prompts for t in p]
    unknown = sum(i == unk for i in ids) / len(ids) if unk is not None and not live.unk_is_bos else 0.0
    if unknown > MAX_UNKNOWN:
        raise InterventionError(
            f"{unknown:.0%} of the tokens of the reference {reference.name!r} are unknown to this model's tokenizer; "
            "pass a reference in its own words, or use mode='zero'."
        )
    lengths = {len(p) for p in prompts}
    if reference.by_position and lengths != {n_tokens}:
        raise InterventionError(
            f"The reference {reference.name!r} is taken by position, but its prompts have {sorted(lengths)} tokens and the "
            f"question {n_tokens}; use prompts that line up, or by_position=False."
        )


def reference_sites(live: LiveModel) -> list[Site]:
    """The parts that have a mean: everything that can be ablated."""
    sites = [Site("embed")]
    for layer in live.anatomy.layers:
        if layer.attention is not None:
            sites.append(Site("z", layer.index))
            if layer.attention.write is not None:
                sites.append(Site("attn", layer.index))
        if layer.mlp is not None:
            if layer.mlp.write is not None:
                sites.append(Site("mlp", layer.index))
            if layer.mlp.neurons is not None:
                sites.append(Site("neurons", layer.index))
    return sites


def _each(
    live: LiveModel,
    prompts: Sequence[Sequence[Token]],
    reads: list[Site],
    take: Callable[[int, dict[Site, torch.Tensor]], None],
) -> None:
    for n, run in enumerate(live.runs([[t.id for t in p] for p in prompts], read=reads, logits=False)):
        take(n, run.read)


def _pooled(live: LiveModel, prompts: Sequence[Sequence[Token]], reads: list[Site], positions: Positions) -> Means:
    masks = [_reference_mask(positions, p) for p in prompts]
    if not any(m.any() for m in masks):
        masks = [np.ones(len(p), dtype=bool) for p in prompts]
    total: dict[Site, torch.Tensor] = {}
    count = sum(int(m.sum()) for m in masks)

    def take(n: int, read: dict[Site, torch.Tensor]) -> None:
        at = torch.from_numpy(masks[n])
        for site, value in read.items():
            summed = value.to("cpu", torch.float64)[at].sum(0)
            total[site] = total[site] + summed if site in total else summed

    _each(live, prompts, reads, take)
    return Means({site: (value / count).float() for site, value in total.items()})


def _reference_mask(positions: Positions, prompt: Sequence[Token]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    from interp_widgets.model.run import row_of

    try:
        return positions.mask(row_of(prompt, len(prompt)))
    except InterventionError:
        return np.zeros(len(prompt), dtype=bool)


def _by_position(live: LiveModel, prompts: Sequence[Sequence[Token]], reads: list[Site]) -> Means:
    total: dict[Site, torch.Tensor] = {}

    def take(_n: int, read: dict[Site, torch.Tensor]) -> None:
        for site, value in read.items():
            summed = value.to("cpu", torch.float64)
            total[site] = total[site] + summed if site in total else summed

    _each(live, prompts, reads, take)
    return Means({site: (value / len(prompts)).float() for site, value in total.items()})
