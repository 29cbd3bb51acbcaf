"""Self-repair: what later parts, and the final norm, give back when a part is ablated.

McGrath et al. 2023 (the Hydra effect), Rushing & Nanda 2024. With the final norm's scale held at the run before:
direct = direct effect of the ablated parts − what is left of it; total = metric before − metric after;
repaired = direct − total = Σ heads + Σ MLPs + other + norm, where heads and MLPs are the *changes* of their direct effects,
and norm is the rest: what the changed scale of the final norm (and a soft cap, or several targets) does.
Signs: positive direct and total = the ablated parts push toward the target; a positive change restores the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp_widgets.methods.direct import Array, Components, Direction, components, sizes, through_output
from interp_widgets.methods.head_gate import gate_of, need_split, without_edits
from interp_widgets.model.errors import FeatureOffError, InterventionError
from interp_widgets.model.interventions import Ablate, AblateMode, Intervention
from interp_widgets.model.parts import Layer
from interp_widgets.model.question import Asked, Question
from interp_widgets.model.reads import capture
from interp_widgets.model.reference import Reference
from interp_widgets.model.rows import Cancelled
from interp_widgets.model.run import forward, modes
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


@dataclass(frozen=True)
class RepairReport:
    """What an ablation cost directly, what it cost in all, and who made up for it.

    Attributes:
        ablated: the names of the ablated parts; mode: how.
        before, after: the metric.
        direct: the direct effect that was lost; total: the effect that was lost.
        repaired: direct − total = heads + mlps + other + norm.
        heads: `[layer, head]`, change of each head's direct effect; 0 for the ablated, NaN where there is no head.
        mlps: `[layer]`; other: changes of everything else that is added (attention biases, recurrent mixers).
        norm: what the change of the final norm's scale gave back.
        suppression: `[layer, head]`, the copy-suppression score of each head before the ablation: how much it lowers the
            logits of the tokens that it attends to (McDougall et al. 2023); NaN where patterns cannot be read.
        n: examples that all numbers are means of.
    """

    ablated: tuple[str, ...]
    mode: str
    before: float
    after: float
    direct: float
    total: float
    repaired: float
    heads: Array
    mlps: Array
    other: float
    norm: float
    suppression: Array
    n: int = 1

    @property
    def share(self) -> float:
        """Repaired as a share of the direct effect; NaN when there was no direct effect."""
        return self.repaired / self.direct if abs(self.direct) > 1e-9 else float("nan")

    @property
    def words(self) -> str:
        """The sum, as a sentence."""
        what = " and ".join([", ".join(self.ablated[:-1]), self.ablated[-1]] if self.ablated[:-1] else self.ablated)
        share = "" if not np.isfinite(self.share) else f" ({abs(self.share):z.1%} of it)"
        more = self.share < 0 and abs(self.repaired) > 5e-4
        made = "nothing was made up for and {:z.3f} more was lost" if more else "{:z.3f} was made up for"
        made = made.format(-self.repaired if more else self.repaired)
        heads, mlps = float(np.nansum(self.heads)), float(np.nansum(self.mlps))
        return (
            f"Without {what} ({self.mode}) the answer goes from {self.before:z.3f} to {self.after:z.3f}: "
            f"{self.direct:z.3f} of direct effect was lost, {self.total:z.3f} in all, so {made}{share}: "
            f"{heads:+z.3f} by heads, {mlps:+z.3f} by MLPs, {self.norm:+z.3f} by the final norm"
            + (f", {self.other:+z.3f} by the rest." if abs(self.other) > 5e-4 else ".")
        )

    def backups(self, most: int = 5) -> list[str]:
        """The heads that restore most, the strongest first: what one would ablate next."""
        found = [
            (v, f"L{i}H{h}")
            for (i, h), v in np.ndenumerate(self.heads)
            if np.isfinite(v) and v > 1e-6 * abs(self.before)
        ]
        return [name for _, name in sorted(found, key=lambda item: -item[0])[:most]]

    def to_pandas(self) -> Any:
        """One row per head and MLP: its name and the change of its direct effect. Needs pandas."""
        import pandas as pd

        rows = [(f"L{i}H{h}", v) for (i, h), v in np.ndenumerate(self.heads)]
        rows += [(f"L{i}.mlp", v) for i, v in enumerate(self.mlps)]
        rows += [("other", self.other), ("final norm", self.norm)]
        return pd.DataFrame(rows, columns=["part", "change"]).dropna().reset_index(drop=True)


Part = str | Site | Ablate


def self_repair(
    live: LiveModel,
    question: Question | Asked,
    ablated: Part | Sequence[Part],
    mode: AblateMode = "mean",
    interventions: Sequence[Intervention] = (),
    *,
    reference: Reference | str | Sequence[str] | None = None,
    cancelled: Cancelled | None = None,
) -> RepairReport:
    """Ablate parts and account for what the answer loses and gets back.

    Args:
        live: the model.
        question: one example, or a set of them (means are given).
        ablated: heads (`"L1H0"`), layers of heads (`"L1.heads"`) and MLPs (`"L1.mlp"`); an `Ablate` of one is taken as it is
            written.
        mode: how they are ablated.
        interventions: what else is on, before and after; interventions at the ablated parts themselves are left out.
        reference: for mean and resample ablation.
        cancelled: asked between blocks.

    Raises:
        InterventionError: when nothing, or something else than heads and MLPs, is to be ablated.
        FeatureOffError: for a metric of one's own, or a model whose writes were not found.

    Example:
        >>> print(self_repair(live, session.question, ["L1H0"], "zero").words)  # doctest: +SKIP
        Without L1H0 (zero) the answer goes from 42.426 to 47.068: 42.426 of direct effect was lost, …
    """
    named = [ablated] if isinstance(ablated, (str, Site, Ablate)) else list(ablated)
    ablations = _ablations(live, named, mode, Reference.of(reference))
    parts = [a.site for a in ablations]
    others = [rest for i in interventions for rest in _without(live, i, parts)]
    examples = question.examples if isinstance(question, Question) else (question,)
    how = " and ".join(dict.fromkeys(a.mode for a in ablations))
    found = [_one(live, asked, parts, how, others, [*others, *ablations], cancelled) for asked in examples]
    return found[0] if len(found) == 1 else _mean(found)


def _ablations(live: LiveModel, named: Sequence[Part], mode: AblateMode, reference: Reference | None) -> list[Ablate]:
    """One for each part, each part once."""
    found: dict[Site, Ablate] = {}
    for name in named:
        where = name.site if isinstance(name, Ablate) else Site.parse(name)
        if where.part not in ("z", "mlp") or (isinstance(name, Ablate) and name.edge is not None):
            raise InterventionError(
                f"Self-repair is measured for heads and MLPs, such as L1H0 or L1.mlp, not for {where.name}."
            )
        one = name if isinstance(name, Ablate) else Ablate(where, mode, reference)
        for site in _each(live, one.site):
            found.setdefault(site, replace(one, site=site, reference=one.reference or reference))
    if not found:
        raise InterventionError("Nothing is to be ablated; name at least one head or MLP, such as L1H0.")
    return list(found.values())


def _each(live: LiveModel, site: Site) -> list[Site]:
    """The heads of a layer one by one; anything else is one."""
    if site.part != "z" or site.index is not None or site.layer is None or site.layer >= len(live.anatomy.layers):
        return [site]
    attention = live.anatomy.layers[site.layer].attention
    return [site] if attention is None else [Site("z", site.layer, h) for h in range(attention.n_heads)]


def _without(live: LiveModel, intervention: Intervention, parts: Sequence[Site]) -> list[Intervention]:
    """What is left of an intervention without those parts; of the ablation of a whole layer, that of its other heads."""
    if intervention.site in parts:
        return []
    heads = _each(live, intervention.site)
    if len(heads) < 2 or not set(heads) & set(parts):
        return [intervention]
    if not isinstance(intervention, Ablate):
        return [] if set(heads) <= set(parts) else [intervention]
    return [replace(intervention, site=site) for site in heads if site not in parts]


def _one(
    live: LiveModel,
    asked: Asked,
    parts: Sequence[Site],
    mode: str,
    others: Sequence[Intervention],
    off: Sequence[Intervention],
    cancelled: Cancelled | None,
) -> RepairReport:
    before = components(live, asked, others, cancelled)
    after = components(live, asked, off, cancelled)
    along = Direction.of(live, asked, before)
    change = {
        name: along(before.norm(getattr(after, name) - getattr(before, name)))
        for name in ("embed", "heads", "mlps", "attention_bias", "other")
    }
    metric = [float(asked.metric.of(c.logits[None])[0]) for c in (before, after)]
    heads, mlps = change["heads"].numpy().copy(), change["mlps"].numpy().copy()
    direct = 0.0
    for site in parts:
        table, at = (heads, (site.layer, site.index)) if site.part == "z" else (mlps, site.layer)
        direct -= float(table[at])
        table[at] = 0.0
    other = float(change["embed"] + change["attention_bias"].sum() + change["other"].sum())
    total = metric[0] - metric[1]
    repaired = direct - total
    norm = repaired - float(np.nansum(heads)) - float(mlps.sum()) - other
    return RepairReport(
        ablated=tuple(s.name for s in parts),
        mode=mode,
        before=metric[0],
        after=metric[1],
        direct=direct,
        total=total,
        repaired=repaired,
        heads=heads,
        mlps=mlps,
        other=other,
        norm=norm,
        suppression=copy_suppression(live, asked, others, before, cancelled),
    )


def _mean(reports: Sequence[RepairReport]) -> RepairReport:
    arrays = ("heads", "mlps", "suppression")
    numbers = ("before", "after", "direct", "total", "repaired", "other", "norm")
    means = {name: np.mean([getattr(r, name) for r in reports], axis=0) for name in arrays}
    means |= {name: float(np.mean([getattr(r, name) for r in reports])) for name in numbers}
    return replace(reports[0], **means, n=len(reports))


# ---- copy suppression -------------------------------------------------------------------------------------------------


def copy_suppression(
    live: LiveModel,
    asked: Asked,
    interventions: Sequence[Intervention] = (),
    run: Components | None = None,
    cancelled: Cancelled | None = None,
) -> Array:
    """How much each head lowers the logits of the tokens that it attends to, `[layer, head]`.

    −Σ over sources j of pattern[q, j] · ⟨v_j W_O, W_U[token j] − mean W_U⟩ / scale at the read position q (McDougall et al.
    2023, copy suppression); positive = suppresses, negative = copies. NaN where patterns or values cannot be read.
    """
    layers = live.anatomy.layers
    width = max([layer.attention.n_heads for layer in layers if layer.attention is not None] or [0])
    score = np.full((len(layers), width), np.nan)
    if "patterns read" in live.report.off:
        return score
    run = run if run is not None else components(live, asked, interventions, cancelled)
    to_tokens = _token_directions(live, asked, run)
    size = sizes(layers)
    for layer, written in source_writes(live, asked, interventions, cancelled).items():
        lifted = torch.einsum("hsd,sd->h", run.norm(written * size[layer]), to_tokens)
        score[layer, : written.shape[0]] = -lifted.numpy()
    return score


def _token_directions(live: LiveModel, asked: Asked, run: Components) -> torch.Tensor:
    """For each source the direction of its own token's logit over the mean logit, `[src, d_model]` float64."""
    with live.lock, modes(live.device, grad=True):  # the ids too: the gradient keeps them, and none of inference mode's
        ids = torch.tensor(asked.ids, device="cpu")
        unique, back = ids.unique(return_inverse=True)
        dtype = torch.float32 if live.readout.direct else live.dtype
        hidden = run.hidden[None].to(live.device, dtype).clone().requires_grad_()
        logits = live.readout.uncapped(hidden)[0]
        over = logits[unique.to(logits.device)] - logits.mean()
        rows = [torch.autograd.grad(value, hidden, retain_graph=True)[0][0] for value in over]
    return torch.stack(rows).detach().to("cpu", torch.float64)[back]


def source_writes(
    live: LiveModel, asked: Asked, interventions: Sequence[Intervention] = (), cancelled: Cancelled | None = None
) -> dict[int, torch.Tensor]:
    """What each head writes at the read position *because of each source*: pattern · value · W_O, `[head, src, d_model]`.

    By layer, float64, behind the head's gate where there is one; a layer whose heads cannot be split over sources is left out.
    """
    from interp_widgets.model.compile import compile_program

    layers = [
        layer for layer in live.anatomy.layers if layer.attention is not None and layer.attention.write is not None
    ]
    sites = [Site(part, layer.index) for layer in layers for part in ("pattern", "v", "z")]
    caught: dict[Site, torch.Tensor] = {}
    with live.lock:
        live.ready()
        batch = live.batch(asked.tokens)
        compiled = compile_program(live, batch, interventions, (), [asked.tokens], cancelled)
        for site in sites:
            capture(live, compiled.program, site, 1, caught)
        forward(live.caller, live.anatomy, batch, compiled.program, [asked.position])
    found: dict[int, torch.Tensor] = {}
    for layer in layers:
        edited = len(without_edits(interventions, layer.index)) < len(interventions)
        with suppress(FeatureOffError):
            gate = gate_of(live, asked, layer, interventions, cancelled)
            written = _by_source(live, layer, caught, asked.position, gate, edited=edited)
            if written is not None:
                found[layer.index] = written
    return found


def _by_source(
    live: LiveModel, layer: Layer, caught: dict[Site, torch.Tensor], position: int, gate: torch.Tensor, *, edited: bool
) -> torch.Tensor | None:
    pattern, v, z = (caught.get(Site(part, layer.index)) for part in ("pattern", "v", "z"))
    attention = layer.attention
    if pattern is None or v is None or z is None or attention is None or v.shape[-1] != z.shape[-1]:
        return None
    heads, sources = pattern.shape[1], pattern.shape[-1]
    values = v[0].repeat_interleave(heads // v.shape[2], dim=1).transpose(0, 1)  # [head, src, d_head]
    share = pattern[0, :, position, :, None].to(torch.float64) * values.to(torch.float64) * gate[:, None].to(v.device)
    if not edited:
        need_split(live, layer, share.sum(1), z[0, position].to(torch.float64))
    alone = torch.zeros(heads, sources, heads, values.shape[-1], dtype=z.dtype, device=z.device)
    each = torch.arange(heads, device=z.device)
    alone[each, :, each] = share.to(z.dtype)
    own = z[0, position].flatten()[None]
    rows = torch.cat([alone.flatten(0, 1).flatten(1), torch.zeros_like(own), own])
    with modes(live.device):
        return through_output(attention, rows).view(heads, sources, -1)
