"""A head's card: where it looks from the read position, what each source carries toward the answer, and what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.methods.attention import need_own_pattern
from interp_widgets.methods.direct import Components, Direction, components, sizes, through_output
from interp_widgets.methods.head_gate import gate_of, need_split, without_edits
from interp_widgets.model.errors import FeatureOffError, SiteError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.parts import Attention
from interp_widgets.model.places import layer_of
from interp_widgets.model.question import Asked, Token
from interp_widgets.model.run import modes
from interp_widgets.model.sites import Site

Array = npt.NDArray[np.float64]
N_WRITES = 8


@dataclass(frozen=True)
class Written:
    """A token whose logit a head moves by itself, and by how much (minus what it does to the mean logit)."""

    token: Token
    logit: float


@dataclass(frozen=True, eq=False)
class HeadCard:
    """One head at the read position.

    Attributes:
        layer, head: which.
        attention: `[src]`, from the read position.
        carried: `[src]`, what a source would add to the metric at attention 1: its value (behind the head's gate, where there is
            one) through the output projection and the final norm at the scale of this run, along target − foil.
        contribution: `attention * carried`; it sums to the head's direct effect.
        copying: Σ attention · (what the source's value does to its own token's logit, minus the mean logit); negative is copy
            suppression (McDougall et al. 2023).
        promotes, suppresses: the tokens that its whole write moves most.
        siblings: heads that share its keys and values.
        edited: whether an intervention acts on the head itself; the card then shows what it computes before that.
    """

    layer: int
    head: int
    attention: Array
    carried: Array
    contribution: Array
    copying: float
    promotes: tuple[Written, ...]
    suppresses: tuple[Written, ...]
    siblings: tuple[str, ...]
    edited: bool = False

    @property
    def direct(self) -> float:
        """The head's direct effect (before an edit of the head itself)."""
        return float(self.contribution.sum())


@dataclass(frozen=True)
class _Run:
    """What every head's card of one run shares."""

    live: LiveModel
    asked: Asked
    parts: Components
    along: Direction
    own: torch.Tensor  # [src, d_model]: the direction of each source's own token, over the mean logit
    size: torch.Tensor  # [layer]: what a write has become by the last stream


def head_card(
    live: LiveModel,
    asked: Asked,
    layer: int,
    head: int,
    interventions: Sequence[Intervention] = (),
    cancelled: Callable[[], bool] | None = None,
) -> HeadCard:
    """The card of one head under `interventions`.

    Raises:
        SiteError: for a head that does not exist. FeatureOffError: where patterns or direct effects are off, or heads cannot be
            split over their sources.

    Example:
        >>> card = head_card(live, session.question.first, 2, 6)  # doctest: +SKIP
        >>> abs(card.direct - direct_effects(live, session.question).heads[2, 6]) < 1e-4  # doctest: +SKIP
        True
    """
    part = layer_of(live.anatomy, Site("z", layer)).attention
    if part is None or not 0 <= head < part.n_heads:
        raise SiteError(f"L{layer}H{head} does not exist; layer {layer} has {part.n_heads if part else 0} heads.")
    run = _shared(live, asked, interventions, cancelled)
    pattern, rows = _sources(run, layer, part, interventions, cancelled)
    seen = run.parts.norm(rows[head] * run.size[layer])
    attention = pattern[head]
    carried = run.along(seen)
    promotes, suppresses = _tokens(live, attention @ seen)
    group = part.n_heads // part.n_kv_heads
    first = head // group * group
    return HeadCard(
        layer,
        head,
        attention.numpy(),
        carried.numpy(),
        (attention * carried).numpy(),
        float((attention * (seen * run.own).sum(-1)).sum()),
        promotes,
        suppresses,
        tuple(f"L{layer}H{h}" for h in range(first, first + group) if h != head),
        any(i.site.part == "z" and i.site.layer == layer and i.site.index in (None, head) for i in interventions),
    )


def copying_scores(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention] = (),
    cancelled: Callable[[], bool] | None = None,
) -> Array:
    """The copying score of every head, `[layer, head]`, NaN where there is none; see `HeadCard.copying`.

    Raises:
        FeatureOffError: where patterns or direct effects are off.

    Example:
        >>> copying_scores(live, session.question.first).shape  # doctest: +SKIP
        (4, 8)
    """
    run = _shared(live, asked, interventions, cancelled)
    scores = np.full(run.parts.heads.shape[:2], np.nan)
    for layer in live.anatomy.layers:
        if layer.attention is None or layer.attention.write is None:
            continue
        pattern, rows = _sources(run, layer.index, layer.attention, interventions, cancelled)
        seen = run.parts.norm(rows * run.size[layer.index])
        scores[layer.index, : len(rows)] = (pattern * (seen * run.own).sum(-1)).sum(-1).numpy()
    return scores


def _shared(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention], cancelled: Callable[[], bool] | None
) -> _Run:
    parts = components(live, asked, interventions, cancelled)
    along = Direction.of(live, asked, parts)
    return _Run(live, asked, parts, along, own_directions(live, asked), sizes(live.anatomy.layers))


def own_directions(live: LiveModel, asked: Asked) -> torch.Tensor:
    """For each token of the prompt, the direction that raises its own logit over the mean logit, `[src, d_model]` float64."""
    with live.lock, modes(live.device, grad=True):
        # Inside: a tensor of inference mode could not be kept for the gradient.
        ids = torch.tensor(asked.ids, device=live.device)
        dtype = torch.float32 if live.readout.direct else live.dtype
        hidden = torch.zeros(len(ids), live.anatomy.d_model, device=live.device, dtype=dtype, requires_grad=True)
        logits = live.readout.uncapped(hidden)
        score = (logits.gather(1, ids[:, None])[:, 0] - logits.mean(-1)).sum()
        (found,) = torch.autograd.grad(score, hidden)
    return found.detach().to("cpu", torch.float64)


def _sources(
    run: _Run,
    layer: int,
    part: Attention,
    interventions: Sequence[Intervention],
    cancelled: Callable[[], bool] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the read position: attention `[head, src]`, and what each source writes through each head, `[head, src, d_model]`."""
    live, asked, whole = run.live, run.asked, run.live.anatomy.layers[layer]
    live.need("patterns read")
    sites = [Site("pattern", layer), Site("v", layer), Site("z", layer)]
    others = without_edits(interventions, layer)
    found = live.runs([list(asked.ids)], others, sites, logits=False, cancelled=cancelled)[0]
    if sites[1] not in found.read:
        raise FeatureOffError(
            f"The values of layer {layer} are not seen: its attention multiplies them in a way of its own."
        )
    need_own_pattern(live, layer, len(found[sites[0]]))
    pattern = found[sites[0]][:, asked.position].to("cpu", torch.float64)
    values, own = found[sites[1]], found[sites[2]][asked.position]
    v = values.repeat_interleave(part.n_heads // values.shape[1], dim=1)
    gate = gate_of(live, asked, whole, interventions, cancelled)
    mixed = torch.einsum("hs,shd->hd", pattern, v.to("cpu", torch.float64)) * gate
    need_split(live, whole, mixed, own.to("cpu", torch.float64))
    if len(others) < len(interventions):  # a norm behind the projection has the scale of what is really given to it
        edited = live.runs([list(asked.ids)], interventions, sites[2:], logits=False, cancelled=cancelled)[0]
        own = edited[sites[2]][asked.position]
    v = v * gate.to(v.device, v.dtype)
    n = v.shape[0]
    alone = torch.zeros(part.n_heads, n, part.n_heads, v.shape[-1], dtype=v.dtype, device=v.device)
    for h in range(part.n_heads):
        alone[h, :, h] = v[:, h]
    ends = torch.stack([torch.zeros_like(own), own]).flatten(1)
    rows = through_output(part, torch.cat([alone.flatten(0, 1).flatten(1), ends.to(v.dtype)]))
    return pattern, rows.view(part.n_heads, n, -1)


def _tokens(live: LiveModel, write: torch.Tensor) -> tuple[tuple[Written, ...], tuple[Written, ...]]:
    """The tokens that a part of the unembedding's input raises and lowers most."""
    with live.lock, modes(live.device):
        dtype = torch.float32 if live.readout.direct else live.dtype
        rows = torch.stack([write, torch.zeros_like(write)]).to(live.device, dtype)
        both = live.readout.uncapped(rows).double().cpu()
    moved = both[0] - both[1]
    moved = moved - moved.mean()
    k = min(N_WRITES, moved.numel())
    up, down = moved.topk(k), (-moved).topk(k)
    named = live.tokens.token
    return (
        tuple(Written(named(int(i)), float(x)) for i, x in zip(up.indices, up.values, strict=True)),
        tuple(Written(named(int(i)), -float(x)) for i, x in zip(down.indices, down.values, strict=True)),
    )
