"""Where a site is in the model's modules, and how its tensor is seen and replaced there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from interp_widgets.model.anatomy import Anatomy, Layer, Write
from interp_widgets.model.errors import FeatureOffError, SiteError
from interp_widgets.model.gate import Args, Kwargs, Program
from interp_widgets.model.sites import Site


def layer_of(anatomy: Anatomy, site: Site) -> Layer:
    """The layer of `site`.

    Raises:
        SiteError: when the model has no such layer.
    """
    n = len(anatomy.layers)
    if site.layer is None or site.layer >= n:
        raise SiteError(f"{site} does not exist: the model has layers 0 to {n - 1}.")
    return anatomy.layers[site.layer]


def check_site(anatomy: Anatomy, site: Site) -> None:
    """Refuse a site that this model does not have.

    Raises:
        SiteError: naming what there is.
        FeatureOffError: for a part that was not found in this architecture.
    """
    if site.part in ("embed", "final_norm"):
        return
    layer = layer_of(anatomy, site)
    if site.part in ("z", "q", "k", "v", "pattern", "attn", "q_unrotated", "k_unrotated"):
        _check_attention(layer, site)
    if site.part in ("mlp", "mlp_in", "neurons"):
        _check_mlp(layer, site)
    if site.part == "other" and site.index not in range(len(layer.others)):
        there = f"L{site.layer}.other.0 to {len(layer.others) - 1}" if layer.others else "nothing but attention and MLP"
        raise SiteError(f"{site} does not exist: {there} is what layer {site.layer} adds to the stream.")


def _check_attention(layer: Layer, site: Site) -> None:
    if layer.attention is None:
        raise FeatureOffError(f"{site} does not exist: {layer.hole or 'this layer has no softmax attention'}.")
    heads = layer.attention.n_kv_heads if site.part in ("k", "v", "k_unrotated") else layer.attention.n_heads
    if site.index is not None and site.index >= heads:
        raise SiteError(f"{site} does not exist: layer {site.layer} has heads 0 to {heads - 1}.")
    if site.part == "attn" and layer.attention.write is None:
        raise FeatureOffError(f"{site} is off: what attention adds to the stream was not found in this architecture.")


def _check_mlp(layer: Layer, site: Site) -> None:
    if layer.mlp is None:
        raise FeatureOffError(f"{site} does not exist: no MLP was found in layer {site.layer}.")
    if site.part == "neurons" and layer.mlp.neurons is None:
        raise FeatureOffError(
            f"{site} is off: the MLP of layer {site.layer} is a mixture of experts, taken as a whole."
        )
    if site.index is not None and site.index >= layer.mlp.d_neurons:
        raise SiteError(f"{site} does not exist: layer {site.layer} has neurons 0 to {layer.mlp.d_neurons - 1}.")
    if site.part == "mlp" and layer.mlp.write is None:
        raise FeatureOffError(f"{site} is off: what the MLP adds to the stream was not found in this architecture.")
    if site.part == "mlp_in" and layer.mlp.entry is None:
        raise FeatureOffError(f"{site} is off: what reads the MLP's input was not found in this architecture.")


def hidden_of(args: Args, kwargs: Kwargs) -> tuple[torch.Tensor, int | str]:
    """The stream among a module's arguments, and where it stands there."""
    if args and isinstance(args[0], torch.Tensor):
        return args[0], 0
    for name in ("hidden_states", "x", "input", "hidden_state", "inputs"):
        if isinstance(kwargs.get(name), torch.Tensor):
            return kwargs[name], name
    for name, value in kwargs.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value, name
    raise FeatureOffError("This module was called without a tensor that could be the residual stream.")


def put_hidden(args: Args, kwargs: Kwargs, where: int | str, new: torch.Tensor) -> tuple[Args, Kwargs]:
    """The same arguments with another stream."""
    if isinstance(where, int):
        return (*args[:where], new, *args[where + 1 :]), kwargs
    return args, {**kwargs, where: new}


Touch = Callable[[torch.Tensor], torch.Tensor | None]


def on_input(program: Program, module: nn.Module, rows: Callable[[], int], touch: Touch, *, late: bool = False) -> None:
    """Let `touch` see, and maybe replace, the `[row, pos, d]` that `module` is called with; it may hand back more rows."""

    def handler(args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        x, where = hidden_of(args, kwargs)
        flat = x.dim() == 2 and rows() >= 1
        new = touch(x.reshape(rows(), -1, x.shape[-1]) if flat else x)
        return None if new is None else put_hidden(args, kwargs, where, new.reshape(-1, *x.shape[1:]))

    program.on_before(module, handler, late=late)


def on_output(
    program: Program, write: Write, rows: Callable[[], int], touch: Touch, *, flat: bool = False, late: bool = False
) -> None:
    """Let `touch` see, and maybe replace, what `write` adds to the stream, `[row, pos, d_model]`; more rows may come back.

    With `flat` only where the module gives rows and positions in one dimension.
    """

    def handler(_args: Args, _kwargs: Kwargs, output: Any) -> Any:
        raw: Any = output if write.index is None else output[write.index]
        if isinstance(raw, tuple):
            raw = cast("tuple[torch.Tensor, ...]", raw)[0]
        if flat and raw.dim() != 2:
            return None
        x = raw if write.scale == 1.0 else raw * write.scale
        new = touch(x.reshape(rows(), -1, x.shape[-1]) if x.dim() == 2 else x)
        if new is None:
            return None
        new = (new if write.scale == 1.0 else new / write.scale).reshape(-1, *raw.shape[1:])
        return _with_output(output, write.index, new)

    program.on_after(write.module, handler, late=late)


def _with_output(output: Any, index: int | None, new: torch.Tensor) -> Any:
    if isinstance(output, torch.Tensor):
        return new
    if isinstance(output, (tuple, list)):
        at = index or 0
        items = list(cast("Sequence[Any]", output))
        items[at] = new
        return tuple(items) if isinstance(output, tuple) else items
    changed = type(output)(**dict(output))
    changed[list(changed.keys())[index or 0]] = new
    return changed


def place(program: Program, anatomy: Anatomy, site: Site, rows: Callable[[], int], touch: Touch) -> None:
    """Let `touch` act at `site`; `touch` gets the part in its own shape (`z`: `[row, pos, head, d_head]`, or one head's)."""
    write = output_of(anatomy, site)
    if write is not None:
        on_output(program, write, rows, touch)
        return
    layer = layer_of(anatomy, site)
    if site.part == "resid_pre":
        on_input(program, layer.module, rows, touch)
    elif site.part == "resid_post":
        reader = reader_of(anatomy, layer.index)
        assert reader is not None
        on_input(program, reader, rows, touch)
    elif site.part == "z":
        assert layer.attention is not None
        heads = layer.attention.n_heads
        on_input(
            program, layer.attention.output, rows, _by_part(touch, site.index, lambda x: x.unflatten(-1, (heads, -1)))
        )
    elif site.part == "neurons":
        assert layer.mlp is not None and layer.mlp.neurons is not None
        on_input(program, layer.mlp.neurons, rows, _by_part(touch, site.index, lambda x: x.unsqueeze(-1)))
    elif site.part == "mlp_in":
        assert layer.mlp is not None and layer.mlp.entry is not None
        on_input(program, layer.mlp.entry, rows, touch)
    elif site.part == "resid_mid":
        _place_mid(program, layer, rows, touch)
    else:
        raise SiteError(f"{site.name} can be read but not edited here.")


def output_of(anatomy: Anatomy, site: Site) -> Write | None:
    """The module whose output `site` is; None where it is what a module is called with."""
    if site.part == "embed":
        return Write(anatomy.embed, None, 1.0)
    if site.part == "other":
        assert site.index is not None
        return layer_of(anatomy, site).others[site.index]
    if site.part in ("attn", "mlp"):
        part = layer_of(anatomy, site).attention if site.part == "attn" else layer_of(anatomy, site).mlp
        assert part is not None and part.write is not None
        return part.write
    if site.part == "resid_post" and reader_of(anatomy, layer_of(anatomy, site).index) is None:
        last = anatomy.layers[-1]
        return Write(last.module, last.output, 1.0)
    return None


def reader_of(anatomy: Anatomy, layer: int) -> nn.Module | None:
    """The module that reads the stream after block `layer`: the next block or the final norm.

    None after the last block of a model without a final norm: what that block gives is the stream.
    """
    return anatomy.layers[layer + 1].module if layer + 1 < len(anatomy.layers) else anatomy.final_norm


def first_block(anatomy: Anatomy, site: Site) -> int:
    """The first block that has to be called again when `site` is edited.

    −1 for the embedding; the number of blocks for the final norm.
    """
    if site.layer is None:
        return -1
    read_later = site.part == "resid_post" and reader_of(anatomy, site.layer) is not None
    return site.layer + 1 if read_later else site.layer


def _by_part(touch: Touch, index: int | None, split: Callable[[torch.Tensor], torch.Tensor]) -> Touch:
    def split_touch(x: torch.Tensor) -> torch.Tensor | None:
        parts = split(x)
        seen = parts if index is None else parts[:, :, index]
        new = touch(seen.squeeze(-1) if parts.shape[-1] == 1 and index is None else seen)
        if new is None or new is seen:
            return None
        if index is None:
            return new.reshape(-1, *x.shape[1:])
        whole = parts.clone()
        whole[:, :, index] = new
        return whole.reshape(x.shape)

    return split_touch


def _place_mid(program: Program, layer: Layer, rows: Callable[[], int], touch: Touch) -> None:
    if layer.attention is None or layer.attention.write is None or layer.middle is None:
        raise FeatureOffError(
            f"L{layer.index}.mid is off: attention and MLP of this block do not come one after the other."
        )
    stream: list[torch.Tensor] = []

    def remember(x: torch.Tensor) -> None:
        stream[:] = [x]

    def middle(added: torch.Tensor) -> torch.Tensor | None:
        mid = stream[0] + added
        new = touch(mid)
        return None if new is None else new - stream[0]

    # The stream in the middle of a block comes after what enters it and after what attention writes, however they are listed.
    on_input(program, layer.module, rows, remember, late=True)
    on_output(program, layer.attention.write, rows, middle, late=True)
