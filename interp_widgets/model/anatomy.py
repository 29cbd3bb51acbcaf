"""Where the parts are in any decoder, found by structure and one probe forward."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp_widgets.model.errors import ModelRefusedError
from interp_widgets.model.parts import Anatomy, Attention, Layer, Mlp, Write
from interp_widgets.model.probe import Call, Recording, embedding, probe_ids, quiet, record, vocabulary
from interp_widgets.model.residual import factor, same, wide
from interp_widgets.model.structure import Block, find_blocks, layer, projections
from interp_widgets.model.unwrap import refuse_outcome, refuse_structure, unwrap

__all__ = ["Anatomy", "Attention", "Layer", "Mlp", "Write", "find_anatomy"]


def find_anatomy(module: nn.Module) -> Anatomy:
    """Find the parts of a decoder by structure and one probe forward on the module itself.

    Nothing of the module is changed: the probe runs without gradients, its hooks are removed, the random state is kept.

    Raises:
        ModelRefusedError: the model cannot be opened; the sentence names the reason.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=97)).eval()
        >>> [layer.attention.n_heads for layer in find_anatomy(model).layers]
        [4, 4]
    """
    root, notes = unwrap(module)
    refuse_structure(root)
    ids = probe_ids(root)
    refuse_outcome(root, ids)
    with quiet(root):
        recording = record(root, ids)
    blocks = find_blocks(recording)
    if not blocks:
        message = f"{type(root).__name__} has no list of blocks that pass a residual stream [batch, position, width] on."
        raise ModelRefusedError(message)
    config = getattr(root, "config", None)
    known = config_numbers(config)
    layers = [layer(block, i, recording, known, getattr(b.module, "config", config)) for i, block in enumerate(blocks) for b in (block.call,)]
    unembed = _unembed_call(root, recording, blocks)
    norm = _final_norm(recording, blocks, unembed)
    scale, cap, off = _head(recording, unembed, norm, known)
    gaps = _gaps(layers, blocks, norm, off)
    anatomy = Anatomy(
        root=root,
        embed=embedding(root),
        layers=tuple(layers),
        final_norm=norm.module if norm else None,
        unembed=unembed.module,
        d_model=blocks[0].out.shape[-1],
        vocab=recording.logits.shape[-1],
        softcap=cap,
        logit_scale=scale,
        notes=notes,
        gaps=gaps,
        errors={"logits": off},
    )
    return replace(anatomy, paths=_paths(anatomy))


def config_numbers(config: Any) -> list[float]:
    """Every number of a configuration and of those nested in it: multipliers are among them."""
    found: set[float] = set()
    stack: list[Any] = [config.to_dict()] if hasattr(config, "to_dict") else []
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, float) and item > 0:
            found.update((item, 1.0 / item))
    return sorted(found)


def _unembed_call(root: nn.Module, recording: Recording, blocks: list[Block]) -> Call:
    """The call of the unembedding: the model's own word, else the last projection to the vocabulary."""
    getter = getattr(root, "get_output_embeddings", None)
    with contextlib.suppress(NotImplementedError, AttributeError):
        said = getter() if callable(getter) else None
        for call in reversed(recording.calls):
            if said is not None and call.module is said:
                return call
    after = [c for c in recording.calls if c.start > blocks[-1].call.end and c.gave is not None]
    width = recording.logits.shape[-1]
    for call in reversed(projections(after)):
        if call.gave is not None and call.gave.shape[-1] >= width:
            return call
    message = f"{type(root).__name__} has no unembedding (lm_head) that is called on the last hidden state."
    raise ModelRefusedError(message)


def _final_norm(recording: Recording, blocks: list[Block], unembed: Call) -> Call | None:
    """The module between the last stream and the unembedding, if there is one."""
    last = blocks[-1].call
    between = [c for c in recording.calls if c.start > last.end and c.end < unembed.start and c.given is not None]
    for call in between:
        fits = call.gave is not None and unembed.given is not None
        if fits and factor(unembed.given, call.gave) is not None and not same(call.given, call.gave):  # pyright: ignore[reportArgumentType]
            return call
    return None


def _head(recording: Recording, unembed: Call, norm: Call | None, known: list[float]) -> tuple[float, float | None, float]:
    """The scale and the cap from the unembedding to the logits, and how far off the three are together."""
    assert unembed.gave is not None and unembed.given is not None
    logits = wide(recording.logits)
    raw = wide(unembed.gave)[..., : logits.shape[-1]]
    if raw.shape != logits.shape:
        return 1.0, None, float("inf")
    before = 1.0
    if norm is not None and norm.gave is not None:
        before = factor(unembed.given, norm.gave) or 1.0
    tries: list[tuple[float, float | None]] = [(1.0, None)]
    scale = float((raw * logits).sum() / (raw * raw).sum())
    tries += [(s, None) for s in known if abs(s / scale - 1) < 0.02] + [(scale, None)]
    tries += [(s, c) for c in known if c >= 1 for s in (1.0, *known)]
    tolerance = 8 * max(torch.finfo(recording.logits.dtype).eps, torch.finfo(unembed.gave.dtype).eps)
    best = (1.0, None, float("inf"))
    for s, cap in tries:
        shown = s * raw if cap is None else cap * torch.tanh(s * raw / cap)
        off = float((shown - logits).norm() / logits.norm().clamp_min(1e-30))
        if off < best[2]:
            best = (s, cap, off)
        if off <= tolerance:
            break
    return best[0] * before, best[1], best[2]


def _gaps(layers: list[Layer], blocks: list[Block], norm: Call | None, off: float) -> dict[str, str]:
    """What this model cannot have, by feature, with the reason."""
    gaps: dict[str, str] = {}
    holes = [item.index for item in layers if item.attention is None]
    lost = [b.call.name for item, b in zip(layers, blocks, strict=True) if item.attention and item.attention.write is None]
    if len(holes) == len(layers):
        gaps["heads"] = f"no layer takes a softmax over positions ({layers[0].hole})"
    if lost:
        gaps["writes"] = f"what {lost[0]} adds to the stream is not a sum of its modules' outputs"
    if off > 1e-2:
        gaps["logits"] = f"norm and unembedding do not give the logits (off by {off:.2g})"
    breaks = [a.call.name for a, b in zip(blocks, blocks[1:], strict=False) if not same(a.call.gave, b.call.given)]
    if norm is not None and not same(norm.given, blocks[-1].call.gave):
        breaks.append(blocks[-1].call.name)
    if breaks:
        gaps["stream"] = f"the stream that leaves {breaks[0]} is changed before it is read"
    return gaps


def _paths(anatomy: Anatomy) -> dict[str, nn.Module]:
    """The dotted name of every module of an anatomy."""
    parts: list[nn.Module | None] = [anatomy.embed, anatomy.final_norm, anatomy.unembed]
    for item in anatomy.layers:
        parts += [item.module, item.middle, *item.norms, *(w.module for w in item.others)]
        if item.attention:
            a = item.attention
            parts += [a.module, a.output, a.norm, a.write.module if a.write else None]
        if item.mlp:
            m = item.mlp
            parts += [m.module, m.neurons, m.entry, m.write.module if m.write else None]
    wanted = {id(p) for p in parts if p is not None}
    return {name: part for name, part in anatomy.root.named_modules() if id(part) in wanted}


