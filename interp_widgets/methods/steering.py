"""Steering vectors: directions that say where they come from, how long they are, and how well they separate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.methods.directions import Separation, direction, held_out
from interp_widgets.model.errors import FeatureOffError, InterventionError, SiteError
from interp_widgets.model.interventions import Steer, finite_strength
from interp_widgets.model.places import check_site
from interp_widgets.model.positions import Positions
from interp_widgets.model.reads import is_centred
from interp_widgets.model.run import row_of
from interp_widgets.model.sites import Site, span_name
from interp_widgets.model.vector import Vector

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

Method = Literal["mean_difference", "pca_center", "probe"]
Where = Literal["last", "mean"]
Rows = npt.NDArray[np.float64]
LONGEST_NAME = 200
_STREAMS = frozenset({"embed", "resid_pre", "resid_mid", "resid_post", "attn", "mlp", "other"})


@dataclass(frozen=True)
class Units:
    """One strength in three units.

    Attributes:
        strength: what multiplies the vector as stored.
        length: ‖strength · v‖, signed: how many unit vectors are added.
        residual: the same in multiples of the mean residual norm at the site; None where that was not measured.
        difference: the same in multiples of the raw difference that the vector was made from.
        of: `"difference"`; `"vector"` where it was made from no prompts, and the multiples are of the vector itself.
    """

    strength: float
    length: float
    residual: float | None
    difference: float
    site: str
    of: str = "difference"

    def __str__(self) -> str:
        parts = [f"{self.difference:+.2f} × {self.of}"]
        if self.residual is not None:
            parts.append(f"{abs(self.residual):.0%} of the residual norm at {self.site}")
        return " = ".join([*parts, f"{self.length:+.3g} × unit vector"])


@dataclass(frozen=True)
class SteeringVector:
    """A direction at a site; equal and hashable by content.

    Norms leave out the component along ones where every norm of the model subtracts the mean (LayerNorm): it is invisible.

    Attributes:
        vector: the numbers, as `Steer` takes them.
        name: what it is called on the screen.
        site: where it was made, and is meant to act.
        model: the model's name.
        n_layers: how many layers the model has.
        source: how it was made, in words.
        prompts: a hash of the prompts that it was made from, `""` where there were none.
        residual: mean norm of the residual stream at the site, over the prompts' content positions; None when not measured.
        difference: norm of the raw difference.
        origin: projection of the negative prompts' mean on the unit vector: what `"clamp"` is relative to.
        centred: whether norms subtract the mean.
        separation: how well it separates prompts that it was not made from; None for fewer than two of each kind.

    Example:
        >>> mood = iw.steering_vector(session, ["I loved it."], ["I hated it."], "L1", name="mood")  # doctest: +SKIP
        >>> print(mood.units(0.6))  # doctest: +SKIP
        +0.60 × difference = 21% of the residual norm at L1 = +1.93 × unit vector
    """

    vector: Vector
    name: str
    site: Site
    model: str
    n_layers: int
    source: str
    prompts: str = ""
    residual: float | None = None
    difference: float = 0.0
    origin: float = 0.0
    centred: bool = False
    separation: Separation | None = None

    @property
    def width(self) -> int:
        """How many numbers."""
        return self.vector.shape[-1]

    @property
    def norm(self) -> float:
        """The visible norm."""
        return visible_norm(self.vector.values, self.centred)

    @property
    def contrastive(self) -> bool:
        """Whether it was made from prompts, and so from a difference between them."""
        return bool(self.prompts)

    @property
    def unit(self) -> SteeringVector:
        """The same direction at visible norm 1."""
        return self.at_norm(1.0)

    def at_norm(self, norm: float) -> SteeringVector:
        """The same direction at a visible norm.

        Raises:
            InterventionError: for a vector of norm 0, which has no direction.
        """
        if self.norm == 0:
            raise InterventionError(
                f"The vector {self.name!r} has norm 0 where the model can see it, so it has no direction."
            )
        return replace(self, vector=Vector(self.vector.values.astype(np.float64) * (norm / self.norm)))

    def units(self, strength: float) -> Units:
        """A strength, three ways."""
        length = strength * self.norm
        residual = length / self.residual if self.residual else None
        times = length / self.difference if self.difference else strength
        return Units(strength, length, residual, times, self.site.name, "difference" if self.contrastive else "vector")

    def random_like(self, seed: int = 0) -> SteeringVector:
        """A random direction of the same visible norm: what any push of this size does."""
        values = random_directions(self, 1, seed)[0]
        source = f"random direction of the norm of {self.name} (seed {seed})"
        return replace(
            self, vector=Vector(values), name=f"random {seed}", source=source, prompts="", origin=0.0, separation=None
        )

    def __add__(self, other: SteeringVector) -> SteeringVector:
        return self._sum(other, 1.0, "+")

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self._sum(other, -1.0, "−")

    def _sum(self, other: SteeringVector, sign: float, symbol: str) -> SteeringVector:
        if not isinstance(other, SteeringVector):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        if (self.site, self.model, self.width) != (other.site, other.model, other.width):
            raise InterventionError(
                f"{self.name!r} ({self.model}, {self.site}, width {self.width}) and {other.name!r} ({other.model}, {other.site}, "
                f"width {other.width}) cannot be added: only vectors of one model and one site can."
            )
        vector = Vector(self.vector.values + sign * other.vector.values)
        name = f"{self.name} {symbol} {other.name}"
        prompts = digest([self.prompts, other.prompts]) if self.prompts or other.prompts else ""
        return replace(
            self, vector=vector, name=name, source=f"{self.source} {symbol} {other.source}", prompts=prompts,
            difference=visible_norm(vector.values, self.centred), origin=0.0, separation=None,
        )  # fmt: skip

    def __mul__(self, factor: float) -> SteeringVector:
        c = finite_strength(factor)
        return replace(self, vector=Vector(self.vector.values * c), origin=self.origin * float(np.sign(c)))

    __rmul__ = __mul__

    def __neg__(self) -> SteeringVector:
        name = self.name.removeprefix("−") if self.name.startswith("−") else f"−{self.name}"
        return replace(self * -1.0, name=name)


def steering_vector(
    live: LiveModel,
    positive: str | Sequence[str],
    negative: str | Sequence[str],
    site: str | Site,
    method: Method = "mean_difference",
    *,
    name: str | None = None,
    positions: Where = "last",
) -> SteeringVector:
    """A direction from contrastive prompts; strength 1 moves the negative mean onto the positive one along it.

    Args:
        positive: one prompt or many.
        negative: one prompt or many.
        site: a place in the stream: `"L2"` (after block 2), `"embed"`, or what is added to it, `"L2.attn"`, `"L2.mlp"`.
        method: `"mean_difference"` (CAA, Rimsky et al. 2024); `"pca_center"`, the first principal component of both kinds around
            the midpoints of their pairs; `"probe"`, the weights of a logistic regression. The last two are scaled
            to the mean difference along them.
        name: what it is called on the screen.
        positions: `"last"` reads each prompt at its last token, `"mean"` averages over its content.

    Raises:
        InterventionError: when a prompt is missing, the two kinds cannot be told apart at the site, or the method does not exist.
        SiteError: for a site that is not `[pos, d_model]`.

    Example:
        >>> steering_vector(live, ["I loved it."], ["I hated it."], "L1").separation is None  # doctest: +SKIP
        True
    """
    where = check_stream(live, site)
    if method not in get_args(Method):
        raise InterventionError(f"There is no method {method!r}; choose one of {', '.join(get_args(Method))}.")
    if positions not in get_args(Where):
        raise InterventionError(f"positions is 'last' or 'mean' here, not {positions!r}.")
    pos, neg = _listed(positive, "positive"), _listed(negative, "negative")
    above, n_above = read_rows(live, pos, where, positions)
    below, n_below = read_rows(live, neg, where, positions)
    found = direction(above, below, method)
    centred = is_centred_model(live)
    length = visible_norm(found, centred)
    if length <= 1e-6 * float(np.abs(above).max() or 1.0):
        raise InterventionError(
            f"The positive and negative prompts are the same at {where.name} ({positions} position), so there is no direction "
            "between them; choose a later layer, or positions='mean'."
        )
    unit = found / np.linalg.norm(found)
    return SteeringVector(
        Vector(found), name or "vector", where, live.name, len(live.anatomy.layers),
        f"{method.replace('_', ' ')} of {len(pos)} and {len(neg)} prompts, {positions} position",
        digest([pos, neg]), float(np.average([n_above, n_below], weights=[len(pos), len(neg)])),
        visible_norm(above.mean(0) - below.mean(0), centred), float(below.mean(0) @ unit), centred, held_out(above, below, method),
    )  # fmt: skip


def from_token(live: LiveModel, token: str | int, site: str | Site, *, name: str | None = None) -> SteeringVector:
    """The unembedding's row of a token: the direction that the logit of this token is read along (without the norm's gain).

    Raises:
        PromptError: when it is not one token. InterventionError: when the unembedding is not a plain matrix.
    """
    where = check_stream(live, site)
    one = live.tokens.one("token", token)
    weight = getattr(live.anatomy.unembed, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.is_meta or weight.dim() != 2 or not weight.is_floating_point():
        raise InterventionError(
            "The unembedding of this model is not a plain matrix (quantised or offloaded), so it has no row to take."
        )
    rows = weight if weight.shape[0] == live.anatomy.vocab else weight.t()
    values = rows[one.id].detach().to("cpu", torch.float32).numpy()
    return plain_vector(live, values, where, name or one.text.strip() or one.text, f"unembedding of {one.text!r}")


def plain_vector(live: LiveModel, values: npt.ArrayLike, site: str | Site, name: str, source: str) -> SteeringVector:
    """Numbers of your own as a steering vector; strength 1 adds them as they are.

    Raises:
        InterventionError: for a wrong width or numbers that are not finite.
    """
    where = check_stream(live, site)
    vector = Vector(values)
    if vector.shape != (live.anatomy.d_model,):
        raise InterventionError(
            f"The vector {name!r} has shape {list(vector.shape)}, but {where.name} needs [{live.anatomy.d_model}]."
        )
    centred = is_centred_model(live)
    return SteeringVector(
        vector, name, where, live.name, len(live.anatomy.layers), source, "", residual_norm(live, where),
        visible_norm(vector.values, centred), 0.0, centred,
    )  # fmt: skip


def across(live: LiveModel, steer: Steer, over: str | Sequence[int] = "layers") -> tuple[Steer, ...]:
    """The same push at several places.

    Args:
        steer: what is done; its own site is not used.
        over: `"layers"`, the stream after every block; layers as numbers, `range(4, 8)`; or `"writes"`, everything that is
            written to the stream: the embeddings (with positions) and what every attention, recurrent mixer and MLP adds. `"project_out"`
            over all writes is the model with that direction taken out of its weights (Arditi et al. 2024).

    Raises:
        SiteError: for a layer that does not exist. FeatureOffError: where a write was not found in this architecture.

    Example:
        >>> len(across(live, Steer("L0", v, mode="project_out"), "writes"))  # doctest: +SKIP
        9
    """
    n = len(live.anatomy.layers)
    if over == "writes":
        sites = writes(live)
    elif over == "layers" or not isinstance(over, str):
        sites = [Site("resid_post", layer) for layer in (range(n) if isinstance(over, str) else over)]
    else:
        raise InterventionError(f'over is "layers", "writes", or layers as numbers, not {over!r}.')
    for site in sites:
        check_site(live.anatomy, site)
    return tuple(steer.placed(site) for site in sites)


def writes(live: LiveModel) -> list[Site]:
    """Everything that is added to the stream; all of it or nothing.

    Raises:
        FeatureOffError: where not every write was found.
    """
    layers = live.anatomy.layers
    why = next((why for gap in ("writes", "stream") if (why := live.anatomy.gaps.get(gap))), None)
    if why is None and any(layer.post_norm for layer in layers):
        why = "each layer normalises the stream after adding to it, which can bring the direction back"
    if why is not None:
        raise FeatureOffError(
            f'"writes" is off for {live.name!r}: {why}; over="layers" acts on the stream after every block.'
        )
    sites = [Site("resid_pre", 0)]
    for layer in layers:
        sites += [Site("attn", layer.index)] if layer.attention is not None else []
        sites += [Site("other", layer.index, n) for n in range(len(layer.others))]
        sites += [Site("mlp", layer.index)] if layer.mlp is not None else []
    return sites


def checked_name(name: Any) -> str:
    """What a vector is called.

    Raises:
        InterventionError: for what is no text, an empty one, or one that is too long for a slider's name.
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise InterventionError(f"A vector is called by a text of 1 to {LONGEST_NAME} letters, not {name!r:.60}.")
    return name


def place_name(live: LiveModel, sites: Sequence[Site]) -> str:
    """Where a vector acts, in a name: a site, a range of layers, `"writes"`, or the names of several."""
    if len(sites) > 1 and sites[0] == Site("resid_pre", 0):
        with suppress(FeatureOffError):
            if list(sites) == writes(live):
                return "writes"
    return span_name(sites)


# ---- reading and norms ------------------------------------------------------------------------------------------------


def check_stream(live: LiveModel, site: str | Site) -> Site:
    """A site where a vector of the residual stream can act.

    Raises:
        SiteError: for a head, a neuron or a pattern, or a layer that does not exist.
    """
    where = Site.parse(site)
    if where.part not in _STREAMS:
        raise SiteError(
            f'{where.name} is not a place in the residual stream; a steering vector is made at "L2", "L2.attn", "L2.mlp" or "embed".'
        )
    check_site(live.anatomy, where)
    return where


def read_rows(live: LiveModel, prompts: Sequence[str], site: Site, positions: Where) -> tuple[Rows, float]:
    """One activation per prompt, `[prompt, d_model]`, and the mean norm over their content positions."""
    rows: list[Rows] = []
    norms: list[float] = []
    centred = is_centred_model(live)
    for run in live.runs(list(prompts), read=[site], logits=False):
        values = run[site].double().cpu().numpy()
        content = Positions.of("content").mask(row_of(run.tokens, len(run.tokens)))
        content = content if content.any() else np.ones(len(values), dtype=bool)
        rows.append(values[-1] if positions == "last" else values[content].mean(0))
        seen = values[content] - (values[content].mean(-1, keepdims=True) if centred else 0.0)
        norms.append(float(np.linalg.norm(seen, axis=-1).mean()))
    return np.stack(rows), float(np.mean(norms))


def residual_norm(live: LiveModel, site: Site, prompts: Sequence[str] = ()) -> float | None:
    """Mean norm at a site over content positions of `prompts`, else of the model's reference; None where there is neither."""
    texts = list(prompts) or (list(live.reference.prompts) if live.reference is not None else [])
    if not texts:
        return None
    key = ("residual norm", site, digest(texts), live.fingerprint())
    kept = live.cache.get(key)
    if not isinstance(kept, np.ndarray):
        kept = np.array(read_rows(live, texts, site, "last")[1])
        live.cache.put(key, kept)
    return float(kept)


def is_centred_model(live: LiveModel) -> bool:
    """Whether what reads the stream subtracts the mean (LayerNorm), so that a constant added to it is invisible."""
    norms = [norm for layer in live.anatomy.layers for norm in layer.norms[:1]]
    final = live.anatomy.final_norm
    return final is not None and is_centred(final) and all(is_centred(n) for n in norms[:1])


def visible_norm(values: npt.ArrayLike, centred: bool) -> float:
    """The Euclidean norm, without the component along ones where norms subtract the mean."""
    array = np.asarray(values, dtype=np.float64)
    return float(np.linalg.norm(array - array.mean() if centred else array))


def random_directions(like: SteeringVector, n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """`n` random directions `[n, d]` of the visible norm of `like`, from a generator of their own."""
    drawn = np.random.default_rng(seed).standard_normal((n, like.width))
    if like.centred:
        drawn -= drawn.mean(-1, keepdims=True)
    return (drawn * (like.norm / np.linalg.norm(drawn, axis=-1, keepdims=True))).astype(np.float32)


def digest(what: object) -> str:
    """A short hash of prompts, the same in every process."""
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=8).hexdigest()


def _listed(prompts: str | Sequence[str], what: str) -> list[str]:
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    if not listed:
        raise InterventionError(f"There are no {what} prompts; pass at least one.")
    wrong = next((p for p in listed if not isinstance(p, str)), None)  # pyright: ignore[reportUnnecessaryIsInstance]
    if wrong is not None:
        raise InterventionError(f"A {what} prompt is a text, not {wrong!r}.")
    return listed
