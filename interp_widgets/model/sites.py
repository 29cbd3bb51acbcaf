"""Names for places inside a decoder: short ones, and TransformerLens' own, read and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from interp_widgets.model.errors import SiteError

Part = Literal[
    "embed", "resid_pre", "resid_mid", "resid_post", "attn", "mlp", "mlp_in", "z", "q", "k", "v", "q_unrotated",
    "k_unrotated", "pattern", "neurons", "other", "attn_norm", "mlp_norm", "final_norm",
]  # fmt: skip
EDITABLE: frozenset[str] = frozenset(
    {"embed", "resid_pre", "resid_mid", "resid_post", "attn", "mlp", "other", "mlp_in", "z", "pattern", "neurons"}
)
_WITH_INDEX: frozenset[str] = frozenset(
    {"z", "q", "k", "v", "q_unrotated", "k_unrotated", "pattern", "neurons", "other"}
)
LOCAL: frozenset[str] = frozenset({"z", "attn", "mlp", "other", "neurons", "resid_post", "resid_mid", "mlp_in"})
"""What no other position of the same block reads."""
_WITHOUT_LAYER: frozenset[str] = frozenset({"embed", "final_norm"})
_SHORT = {
    "": "resid_post", "pre": "resid_pre", "mid": "resid_mid", "post": "resid_post", "attn": "attn", "mlp": "mlp",
    "mlp.in": "mlp_in", "heads": "z", "q": "q", "k": "k", "v": "v", "pattern": "pattern", "neurons": "neurons",
    "attn.norm": "attn_norm", "mlp.norm": "mlp_norm",
}  # fmt: skip
_LENS = {
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_resid_post": "resid_post",
    "hook_attn_out": "attn", "hook_mlp_out": "mlp", "hook_mlp_in": "mlp_in", "attn.hook_z": "z",
    "attn.hook_rot_q": "q", "attn.hook_rot_k": "k", "attn.hook_v": "v", "attn.hook_q": "q_unrotated",
    "attn.hook_k": "k_unrotated", "attn.hook_pattern": "pattern", "mlp.hook_post": "neurons",
    "ln1.hook_scale": "attn_norm", "ln2.hook_scale": "mlp_norm",
}  # fmt: skip
_LENS_BY_PART = {part: name for name, part in _LENS.items()}
_LAYER = re.compile(r"L(\d+)(?:H(\d+))?(?:\.(.+))?\Z")
_SPAN = re.compile(r"L(\d{1,6})\s*[-–]\s*L(\d{1,6})\Z")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\Z")


@dataclass(frozen=True, order=True)
class Site:
    """One place in a decoder.

    Args:
        part: what is there: `"z"` the output of heads before the output projection `[pos, head, d_head]`, `"resid_post"`
            the stream as the next block reads it `[pos, d_model]`, `"attn"` and `"mlp"` what is added to the stream,
            `"other"` what a recurrent mixer, cross attention or per-layer inputs add to it,
            `"neurons"` the input of the MLP's down projection, `"pattern"` attention `[head, dest, src]`, `"q"`, `"k"`,
            `"v"` as the attention function receives them (rotated), `"attn_norm"`, `"mlp_norm"`, `"final_norm"` the
            norm's scale `[pos]`.
        layer: zero-based, None for `"embed"` and `"final_norm"`.
        index: the head, neuron or other write, None for all heads or neurons.

    Raises:
        SiteError: for a part that does not exist, a negative or missing layer, an index where there is none.

    Example:
        >>> Site.parse("L1H3") == Site("z", 1, 3)
        True
        >>> Site.parse("blocks.2.hook_resid_post").name
        'L2'
    """

    part: Part
    layer: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if self.part not in get_args(Part):
            raise SiteError(f"There is no part {self.part!r}; choose one of {', '.join(get_args(Part))}.")
        if (self.layer is None) != (self.part in _WITHOUT_LAYER):
            need = "takes no layer" if self.part in _WITHOUT_LAYER else "needs a layer"
            raise SiteError(f"The site {self.part!r} {need}.")
        for what, value in (("layer", self.layer), ("index", self.index)):
            if value is not None and (type(value) is not int or value < 0):
                raise SiteError(f"The {what} of a site is a whole number from 0, not {value!r}.")
        if self.index is not None and self.part not in _WITH_INDEX:
            raise SiteError(f"The site {self.part!r} has no heads or neurons, so the index {self.index} means nothing.")
        if self.part == "other" and self.index is None:
            raise SiteError('The site "other" needs to say which of them: "L0.other.0" is the first.')

    @classmethod
    def parse(cls, name: str | Site) -> Site:
        """Read a short name (`"L1H3"`, `"L2.mlp.17"`), a TransformerLens name, or pass a `Site` through."""
        if isinstance(name, Site):
            return name
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  (users pass anything)
            raise SiteError(f'A site is a name such as "L1H3" or a Site, not {name!r}.')
        site = _parse_short(name) or _parse_lens(name)
        if site is None:
            raise SiteError(
                f'{name!r} is not a site. Sites are "L1H3" (a head), "L1.heads", "L2" (the residual stream after '
                'block 2), "L2.attn", "L2.mlp", "L2.mlp.17" (a neuron), "embed", or a TransformerLens name such as '
                '"blocks.1.attn.hook_z".'
            )
        return site

    @property
    def name(self) -> str:
        """The short name, which `parse` reads back."""
        if self.part in _WITHOUT_LAYER:
            return {"embed": "embed", "final_norm": "final.norm"}[self.part]
        here = f"L{self.layer}"
        if self.part == "z":
            return f"{here}.heads" if self.index is None else f"{here}H{self.index}"
        if self.part == "neurons":
            return f"{here}.neurons" if self.index is None else f"{here}.mlp.{self.index}"
        if self.part in ("q_unrotated", "k_unrotated"):
            return self.lens_name
        if self.part == "other":
            return f"{here}.other.{self.index}"
        tail = {"resid_post": "", "resid_pre": ".pre", "resid_mid": ".mid", "mlp_in": ".mlp.in",
                "attn_norm": ".attn.norm", "mlp_norm": ".mlp.norm"}.get(self.part, f".{self.part}")  # fmt: skip
        return here + ("" if self.index is None else f"H{self.index}") + tail

    @property
    def whole(self) -> Site:
        """The site that this one is a head or a neuron of; itself where it is none."""
        return self if self.index is None or self.part == "other" else Site(self.part, self.layer)

    @property
    def lens_name(self) -> str:
        """The TransformerLens name; a head or neuron index is not part of it.

        Raises:
            SiteError: for what TransformerLens has no name for.
        """
        if self.part == "embed":
            return "hook_embed"
        if self.part == "final_norm":
            return "ln_final.hook_scale"
        if self.part == "other":
            raise SiteError(
                f"TransformerLens has no name for {self.name}: its blocks add attention and an MLP, nothing else."
            )
        return f"blocks.{self.layer}.{_LENS_BY_PART[self.part]}"

    def __str__(self) -> str:
        return self.name


def span(name: str) -> tuple[Site, ...]:
    """The sites that a name stands for: `"L2"` one, `"L2–L5"` (or `"L2-L5"`) the stream after each of these blocks.

    Raises:
        SiteError: for a range that runs backwards, or what is not a site.

    Example:
        >>> [site.name for site in span("L2–L4")]
        ['L2', 'L3', 'L4']
    """
    match = _SPAN.match(name)
    if match is None:
        return (Site.parse(name),)
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise SiteError(f"The range {name!r} runs backwards; write it from the lower layer: L{last}–L{first}.")
    if last - first > 10_000:
        raise SiteError(f"The range {name!r} has more layers than any model.")
    return tuple(Site("resid_post", layer) for layer in range(first, last + 1))


def span_name(sites: Sequence[Site]) -> str:
    """The name of one site, of a range of layers, or the names of several, which `span` reads back if it is one of the first two.

    Example:
        >>> span_name(span("L2-L4"))
        'L2–L4'
    """
    first, last = sites[0], sites[-1]
    if len(sites) > 1 and first.layer is not None and last.layer is not None:
        whole = tuple(Site("resid_post", layer) for layer in range(first.layer, last.layer + 1))
        if tuple(sites) == whole:
            return f"{first.name}–{last.name}"
    return ", ".join(site.name for site in sites)


def _parse_short(name: str) -> Site | None:
    if name in ("embed", "final.norm"):
        return Site("embed" if name == "embed" else "final_norm")
    match = _LAYER.match(name)
    if match is None:
        return None
    layer, head, tail = int(match[1]), match[2], match[3] or ""
    if head is not None:
        part = _SHORT.get(tail, "") if tail else "z"
        return Site(part, layer, int(head)) if part in ("z", "q", "k", "v", "pattern") else None  # pyright: ignore[reportArgumentType]
    if re.fullmatch(r"mlp\.\d+", tail):
        return Site("neurons", layer, int(tail[4:]))
    if re.fullmatch(r"other\.\d+", tail):
        return Site("other", layer, int(tail[6:]))
    part = _SHORT.get(tail)
    return None if part is None else Site(part, layer)  # pyright: ignore[reportArgumentType]  (values of _SHORT are parts)


def _parse_lens(name: str) -> Site | None:
    if name == "hook_embed":
        return Site("embed")
    if name == "ln_final.hook_scale":
        return Site("final_norm")
    match = _BLOCK.match(name)
    part = _LENS.get(match[2]) if match else None
    return None if match is None or part is None else Site(part, int(match[1]))  # pyright: ignore[reportArgumentType]
