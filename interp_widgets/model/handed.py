"""Which blocks hand the very tensor that they give to whoever reads the stream next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp_widgets.model.gate import Args, Kwargs, after_hook, before_hook
from interp_widgets.model.parts import Write
from interp_widgets.model.places import hidden_of, reader_of
from interp_widgets.model.probe import probe_ids
from interp_widgets.model.run import forward
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


STREAM = ("resid_pre", "resid_post")


def handed_on(live: LiveModel) -> dict[int, Write]:
    """The blocks after which an edit may be made in what the block gives, so that whoever records that sees the edit.

    Elsewhere an edit after a block is made where the next block reads the stream. Both are the same only where the tensor that is
    read is the one that was given, untouched (the same object at the same version), and where no hook of the user's stands
    between; found by one forward, and kept as long as the model stays the same.
    """
    key = ("handed on", live.fingerprint())
    kept = live.cache.get(key)
    if isinstance(kept, _Found):
        return kept.blocks
    gave: dict[int, tuple[tuple[int | None, torch.Tensor, int], ...]] = {}
    found = _Found({})
    program = live.program()
    for layer in live.anatomy.layers:
        reader = reader_of(live.anatomy, layer.index)
        if reader is None or _others_between(layer.module, reader):
            continue

        def give(_args: Args, _kwargs: Kwargs, output: Any, at: int = layer.index) -> None:
            gave[at] = tuple((index, x, x._version) for index, x in _tensors(output))

        def read(args: Args, kwargs: Kwargs, at: int = layer.index, module: nn.Module = layer.module) -> None:
            x, _ = hidden_of(args, kwargs)
            for index, given, version in gave.pop(at, ()):
                if x is given and x._version == version:
                    found.blocks[at] = Write(module, index, 1.0)

        program.on_after(layer.module, give)
        program.on_before(reader, read)
    with live.lock:
        live.ready()
        batch = live.batch([live.tokens.token(int(i)) for i in probe_ids(live.anatomy.root)[0]])
        forward(live.caller, live.anatomy, batch, program)
    live.cache.put(key, found)
    return found.blocks


def given_at(handed: dict[int, Write], site: Site) -> Write | None:
    """The block's output that `site` is, where the two are the same; else None."""
    if site.layer is None or site.part not in STREAM:
        return None
    return handed.get(site.layer if site.part == "resid_post" else site.layer - 1)


class _Found:
    """What was found, as the cache keeps it."""

    def __init__(self, blocks: dict[int, Write]) -> None:
        self.blocks = blocks
        self.nbytes = 64 * len(blocks)


def _tensors(output: Any) -> Iterator[tuple[int | None, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        yield None, output
    elif isinstance(output, (tuple, list)):
        items: list[Any] = list(output)  # pyright: ignore[reportUnknownArgumentType]
        # The first of a tuple is what a block gives that returns nothing else when it is called with other arguments.
        first = None if isinstance(output, tuple) else 0
        yield from ((n or first, x) for n, x in enumerate(items) if isinstance(x, torch.Tensor))


def _others_between(block: nn.Module, reader: nn.Module) -> bool:
    """Whether a hook that is neither ours nor transformers' (which only records) comes between the two, and before our edit."""
    theirs = [hook for hook in block._forward_hooks.values() if hook is not after_hook]
    first = next(iter(reader._forward_pre_hooks.values()), before_hook)
    return first is not before_hook or any(not _records(hook) for hook in theirs)


def _records(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")
