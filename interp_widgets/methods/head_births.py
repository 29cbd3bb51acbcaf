"""The rows of a sweep over heads and MLPs: where each parts from the state on screen, and what it gets there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from interp_widgets.methods.head_table import MLP
from interp_widgets.model.interventions import Ablate, AblateMode
from interp_widgets.model.positions import Positions
from interp_widgets.model.question import Asked
from interp_widgets.model.reference import Reference
from interp_widgets.model.run import row_of
from interp_widgets.model.sites import Site
from interp_widgets.model.sweep import Birth, Edit
from interp_widgets.model.values import resolve

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


class Part(NamedTuple):
    """One row: a head of a layer (or its MLP, `head == MLP`), ablated, or with the edits to it taken away."""

    layer: int
    head: int
    restored: bool = False

    @property
    def site(self) -> Site:
        """All heads of its layer, or the MLP's write."""
        return Site("mlp" if self.head == MLP else "z", self.layer)


@dataclass
class Replacement:
    """What parts of one prompt are replaced by, and at which positions."""

    live: LiveModel
    asked: Asked
    mode: AblateMode
    reference: Reference | None
    positions: Positions
    values: dict[Site, torch.Tensor] = field(default_factory=dict[Site, torch.Tensor])

    def __post_init__(self) -> None:
        tokens = self.asked.tokens
        self.mask = torch.from_numpy(self.positions.mask(row_of(tokens, len(tokens))))

    def value(self, site: Site) -> torch.Tensor:
        """What replaces all heads of a layer (`[head, d_head]` or `[pos, head, d_head]`), or its MLP's write."""
        if site not in self.values:
            value = resolve(self.live, Ablate(site, self.mode, self.reference, self.positions), self.asked.tokens)
            assert value is not None
            self.values[site] = value
        return self.values[site]

    def births(self, parts: Sequence[Part]) -> list[Birth]:
        """One birth per layer, a row for every part."""
        return [
            self._birth(layer, [p for p in parts if p.layer == layer]) for layer in sorted({p.layer for p in parts})
        ]

    def _birth(self, layer: int, parts: Sequence[Part]) -> Birth:
        seen: dict[Site, torch.Tensor] = {}
        sites = sorted({p.site for p in parts}, key=lambda site: site.part == "mlp")
        back = any(p.restored for p in parts)
        watch = tuple((s, lambda x, s=s: seen.__setitem__(s, x)) for s in sites if back)
        edits = {
            s: self._mlp_edit(s, parts, seen) if s.part == "mlp" else self._head_edit(s, parts, seen) for s in sites
        }
        return Birth(layer, len(parts), tuple((s, edits[s]) for s in sites), watch)

    def _head_edit(self, site: Site, parts: Sequence[Part], seen: dict[Site, torch.Tensor]) -> Edit:
        off = [(row, p.head) for row, p in enumerate(parts) if p.head != MLP and not p.restored]
        back = [(row, p.head) for row, p in enumerate(parts) if p.head != MLP and p.restored]

        def edit(x: torch.Tensor) -> torch.Tensor:
            rows, at = [r for r, _ in off], [h for _, h in off]
            value = _by_head(self._at(site, x), at).to(x.dtype)
            x[rows, :, at] = torch.where(self._here(x)[:, None], value, x[rows, :, at])
            for row, head in back:
                x[row, :, head] = _row(seen[site], row)[:, head]
            return x

        return edit

    def _mlp_edit(self, site: Site, parts: Sequence[Part], seen: dict[Site, torch.Tensor]) -> Edit:
        rows = [(row, p.restored) for row, p in enumerate(parts) if p.head == MLP]

        def edit(x: torch.Tensor) -> torch.Tensor:
            for row, restored in rows:
                new = _row(seen[site], row) if restored else self._at(site, x)
                x[row] = new if restored else torch.where(self._here(x)[:, None], new, x[row])
            return x

        return edit

    def _here(self, x: torch.Tensor) -> torch.Tensor:
        """Which positions of `x [row, pos, …]` are ablated, `[pos]`."""
        alone = x.shape[1] == 1 and len(self.mask) > 1
        return (self.mask[self.asked.position : self.asked.position + 1] if alone else self.mask).to(x.device)

    def _at(self, site: Site, x: torch.Tensor) -> torch.Tensor:
        value = self.value(site).to(x.device, x.dtype)
        by_position = value.dim() == x.dim() - 1
        if by_position and x.shape[1] == 1:  # the last block may go on at the read position only
            return value[self.asked.position : self.asked.position + 1]
        return value


def _by_head(value: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
    """Values of some heads, to be broadcast over `[head, pos, d_head]`."""
    if value.dim() == 0:
        return value
    return value[list(heads)][:, None] if value.dim() == 2 else value[:, list(heads)].transpose(0, 1)


def _row(x: torch.Tensor, row: int) -> torch.Tensor:
    return x[row if x.shape[0] > 1 else 0]
