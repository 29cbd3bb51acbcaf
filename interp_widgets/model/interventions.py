"""Interventions as frozen data: what is done, where, at which positions, how strongly.

They are shown, compared, undone, saved and printed as code; `program.py` is the one place that applies them.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal, get_args

import torch

from interp_widgets.model.errors import InterventionError, SiteError
from interp_widgets.model.positions import Positions, PositionSpec
from interp_widgets.model.reference import Reference
from interp_widgets.model.sites import EDITABLE, Site
from interp_widgets.model.vector import Vector

AblateMode = Literal["mean", "zero", "resample", "edge"]
SteerMode = Literal["add", "project_out", "clamp", "keep_norm"]
_ABLATABLE = frozenset({"z", "attn", "mlp", "neurons", "embed", "pattern"})
MAX_COEFFICIENT = 1e6


def _site(name: str | Site) -> Site:
    site = Site.parse(name)
    if site.part not in EDITABLE:
        raise SiteError(f"{site.name} can be read but not edited; edit one of {', '.join(sorted(EDITABLE))}.")
    return site


@dataclass(frozen=True)
class Ablate:
    """Take a part's contribution away.

    Args:
        site: a head `"L1H3"`, all heads of a layer `"L1.heads"`, `"L1.attn"`, `"L1.mlp"`, a neuron `"L1.mlp.17"`, `"embed"`.
        mode: `"mean"` puts the mean over a reference set there, `"zero"` puts zero, `"resample"` puts what another prompt
            of the same length has at the same position, `"edge"` cuts attention of a head from `edge = (dest, src)`:
            that weight becomes 0, and the others stay as they are.
        reference: a `Reference`, a prompt, or a list of prompts; None lets the session or the model choose and say which.
        positions: `"all"` by default, as in TransformerLens; an edge has none beside its own.
        edge: destination and source position, for `mode="edge"` only.

    Raises:
        SiteError: for a residual stream (`"L2"`): name what is *added* to it instead.
        InterventionError: for a mode that does not exist.

    Example:
        >>> Ablate("L1H3", mode="zero").code
        "iw.Ablate('L1H3', mode='zero')"
    """

    site: Site = field()
    mode: AblateMode = "mean"
    reference: Reference | None = None
    positions: Positions = field(default_factory=lambda: Positions.of("all"))
    edge: tuple[int, int] | None = None

    def __init__(
        self,
        site: str | Site,
        mode: AblateMode = "mean",
        reference: Reference | str | Sequence[str] | None = None,
        positions: PositionSpec | Positions = "all",
        edge: tuple[int, int] | None = None,
    ) -> None:
        if mode not in get_args(AblateMode):
            raise InterventionError(
                f"There is no ablation mode {mode!r}; choose one of {', '.join(get_args(AblateMode))}."
            )
        where = _site(site)
        if where.part not in _ABLATABLE:
            hint = f"L{where.layer}.heads, L{where.layer}.attn or L{where.layer}.mlp"
            raise SiteError(
                f"{where.name} is the residual stream, which is not ablated; ablate what is added to it: {hint}."
            )
        if (mode == "edge") != (edge is not None) or (mode == "edge" and (where.part != "z" or where.index is None)):
            raise InterventionError(
                'Cutting an edge needs a head and edge=(dest, src): Ablate("L1H3", "edge", edge=(7, 2)).'
            )
        if edge is not None and str(Positions.of(positions)) != "all":
            raise InterventionError(
                f"An edge names its positions itself: leave positions={positions!r} out, or cut another edge."
            )
        object.__setattr__(self, "site", where)
        object.__setattr__(self, "mode", mode)
        object.__setattr__(self, "reference", Reference.of(reference))
        object.__setattr__(self, "positions", Positions.of(positions))
        object.__setattr__(self, "edge", None if edge is None else (int(edge[0]), int(edge[1])))

    @property
    def label(self) -> str:
        """What a person reads: `ablate L1H3, mean`."""
        return f"ablate {self.site.name}, {self.mode}" + (
            "" if self.edge is None else f" {self.edge[0]} ← {self.edge[1]}"
        )

    @property
    def code(self) -> str:
        """Python that builds the same intervention, a long reference under the name `reference`."""
        return self.code_with("reference")

    def code_with(self, reference: str) -> str:
        """The same code, a long reference under this name."""
        args = [repr(self.site.name)]
        if self.mode != "mean":
            args.append(f"mode={self.mode!r}")
        if self.reference is not None:
            args.append(f"reference={self.reference.code if self.reference.short else reference}")
        if str(self.positions) != "all":
            args.append(f"positions={self.positions.code}")
        if self.edge is not None:
            args.append(f"edge={self.edge}")
        return f"iw.Ablate({', '.join(args)})"


@dataclass(frozen=True)
class Steer:
    """Push an activation along a vector.

    Args:
        site: usually a residual stream, `"L2"` (after block 2); also `"embed"`, `"L2.attn"`, `"L2.mlp"`, a head.
        vector: `[d]`, or a `SteeringVector`.
        coefficient: multiplies the vector as stored; 0 leaves the run bit-identical.
        mode: `"add"` x + c·v; `"project_out"` x − c·(x·v̂)v̂ (c = 1 removes the direction: Arditi et al. 2024);
            `"clamp"` sets the projection x·v̂ to origin + c·‖v‖ (affine steering: Marshall et al. 2024); `"keep_norm"` adds,
            then restores ‖x‖.
        positions: `"content"` by default: not position 0, not special or template tokens.
        name: what the vector is called on the screen.
        origin: where `"clamp"` counts from, a projection on v̂; a `SteeringVector` brings the mean of its negative prompts, so
            that 0 is their mean and 1 the positive prompts', else 0.

    Raises:
        InterventionError: for a strength that is not a finite number within ±1e6, or a mode that does not exist.

    Example:
        >>> Steer("L2", [0.0, 1.0], 0.5).label
        'steer L2, vector × 0.5'
    """

    site: Site = field()
    vector: Vector = field()
    coefficient: float = 1.0
    mode: SteerMode = "add"
    positions: Positions = field(default_factory=lambda: Positions.of("content"))
    name: str = "vector"
    origin: float = 0.0

    def __init__(
        self,
        site: str | Site,
        vector: object,
        coefficient: float = 1.0,
        mode: SteerMode = "add",
        positions: PositionSpec | Positions = "content",
        name: str | None = None,
        origin: float | None = None,
    ) -> None:
        if mode not in get_args(SteerMode):
            raise InterventionError(
                f"There is no steering mode {mode!r}; choose one of {', '.join(get_args(SteerMode))}."
            )
        values = getattr(vector, "vector", vector)
        object.__setattr__(self, "site", _site(site))
        object.__setattr__(self, "vector", values if isinstance(values, Vector) else Vector(values))
        object.__setattr__(self, "coefficient", finite_strength(coefficient))
        object.__setattr__(self, "mode", mode)
        object.__setattr__(self, "positions", Positions.of(positions))
        own = getattr(vector, "name", None)
        object.__setattr__(self, "name", name or (own if isinstance(own, str) else "vector"))
        start = getattr(vector, "origin", 0.0) if origin is None else origin
        object.__setattr__(self, "origin", finite_strength(start))

    def at(self, coefficient: float) -> Steer:
        """The same push with another strength."""
        return Steer(self.site, self.vector, coefficient, self.mode, self.positions, self.name, self.origin)

    def placed(
        self,
        site: str | Site | None = None,
        mode: str | None = None,
        positions: PositionSpec | Positions | None = None,
    ) -> Steer:
        """The same push at another site, in another mode, or at other positions.

        Raises:
            InterventionError, SiteError: for what does not exist.
        """
        where = self.positions if positions is None else positions
        at = self.site if site is None else site
        how = mode or self.mode
        return Steer(at, self.vector, self.coefficient, how, where, self.name, self.origin)  # pyright: ignore[reportArgumentType]  # Steer checks it

    @property
    def label(self) -> str:
        """What a person reads: `steer L1, sentiment × 0.6`."""
        how = "" if self.mode == "add" else f", {self.mode.replace('_', ' ')}"
        return f"steer {self.site.name}, {self.name} × {self.coefficient:g}{how}"

    @property
    def code(self) -> str:
        """Python that builds the same intervention, the vector under its name."""
        return self.code_with(in_code(self.name, "vector"))

    def code_with(self, vector: str) -> str:
        """The same code, the vector under this name."""
        args = [repr(self.site.name), vector, repr(self.coefficient)]
        if self.mode != "add":
            args.append(f"mode={self.mode!r}")
        if str(self.positions) != "content":
            args.append(f"positions={self.positions.code}")
        if self.mode == "clamp":
            args.append(f"origin={self.origin!r}")
        return f"iw.Steer({', '.join(args)})"


@dataclass(frozen=True)
class Patch:
    """Put an activation from elsewhere in place of this run's.

    Args:
        site: any editable site.
        source: another prompt (run plain on the same model, aligned by position), a `Run`, or an array of the site's shape
            `[pos, ...]`.
        positions: `"all"` by default.

    Raises:
        InterventionError: when the source cannot be read.

    Example:
        >>> Patch("L1", "When Mary and Ann went home").label
        'patch L1'
    """

    site: Site = field()
    source: str | Vector = field()
    positions: Positions = field(default_factory=lambda: Positions.of("all"))

    def __init__(self, site: str | Site, source: object, positions: PositionSpec | Positions = "all") -> None:
        where = _site(site)
        object.__setattr__(self, "site", where)
        object.__setattr__(self, "source", _patch_source(where, source))
        object.__setattr__(self, "positions", Positions.of(positions))

    @property
    def label(self) -> str:
        """What a person reads: `patch L1`."""
        return f"patch {self.site.name}"

    @property
    def code(self) -> str:
        """Python that builds the same intervention, numbers under the name `source`."""
        return self.code_with("source")

    def code_with(self, source: str) -> str:
        """The same code, numbers under this name."""
        source = repr(self.source) if isinstance(self.source, str) else source
        tail = "" if str(self.positions) == "all" else f", positions={self.positions.code}"
        return f"iw.Patch({self.site.name!r}, {source}{tail})"


@dataclass(frozen=True)
class Edit:
    """Run your own function on an activation, with a receipt.

    Args:
        site: any editable site.
        fn: `fn(x) -> x`, with `x [pos, d_model]` (heads: `[pos, head, d_head]`, or `[pos, d_head]` for one head); the
            result must have the same shape. Marked "own code", never loaded from JSON.
        name: what it is called on the screen.
        positions: where the result is kept.

    Raises:
        InterventionError: when `fn` cannot be called.

    Example:
        >>> Edit("L0", lambda x: x * 2, name="double").label
        'edit L0, double (own code)'
    """

    site: Site = field()
    fn: Callable[[torch.Tensor], torch.Tensor] = field()
    name: str = "edit"
    positions: Positions = field(default_factory=lambda: Positions.of("all"))

    def __init__(
        self,
        site: str | Site,
        fn: Callable[[torch.Tensor], torch.Tensor],
        name: str = "edit",
        positions: PositionSpec | Positions = "all",
    ) -> None:
        if not callable(fn):
            raise InterventionError(f"Edit needs a function of a tensor, not {fn!r}.")
        object.__setattr__(self, "site", _site(site))
        object.__setattr__(self, "fn", fn)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "positions", Positions.of(positions))

    @property
    def label(self) -> str:
        """What a person reads, marked as own code."""
        return f"edit {self.site.name}, {self.name} (own code)"

    @property
    def code(self) -> str:
        """Python that builds the same intervention, the function under its name."""
        return self.code_with(in_code(getattr(self.fn, "__name__", ""), "fn"))

    def code_with(self, fn: str) -> str:
        """The same code, the function under this name."""
        tail = "" if str(self.positions) == "all" else f", positions={self.positions.code}"
        return f"iw.Edit({self.site.name!r}, {fn}, name={self.name!r}{tail})"


Intervention = Ablate | Steer | Patch | Edit


def in_code(name: str, fallback: str) -> str:
    """What something of this name is called in code: by the name where Python takes it as one, else by the fallback."""
    return name if name.isidentifier() and not keyword.iskeyword(name) else fallback


def finite_strength(value: object) -> float:
    """A strength that makes sense: a finite number within ±1e6, numpy's too, never a bool.

    Raises:
        InterventionError: naming the value.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InterventionError(f"A strength is a finite number, not {value!r}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or abs(number) > MAX_COEFFICIENT:
        shown = repr(value) if len(repr(value)) < 30 else f"{str(value)[:12]}…"
        raise InterventionError(
            f"The strength {shown} is not a finite number between −1e6 and 1e6; try something near 1."
        )
    return number


def with_reference(intervention: Intervention, reference: Reference | None) -> Intervention:
    """Fill in the reference of an ablation that needs one and names none."""
    if (
        isinstance(intervention, Ablate)
        and intervention.mode in ("mean", "resample")
        and intervention.reference is None
    ):
        return Ablate(intervention.site, intervention.mode, reference, intervention.positions, intervention.edge)
    return intervention


def _patch_source(site: Site, source: object) -> str | Vector:
    if isinstance(source, str):
        return source
    read = getattr(source, "__getitem__", None)
    if read is not None and hasattr(source, "receipts"):
        source = read(site)
    return Vector(source)
