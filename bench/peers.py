"""The same work by other libraries, as their users write it; a library that is not installed is left out."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from bench.shapes import save, tokenizer
from bench.timing import Contender
from interp_widgets.model.question import Asked

if TYPE_CHECKING:
    from bench.cases import Setting

Contenders = dict[str, Contender]
Heads = Sequence[tuple[int, int]]


@cache
def versions() -> dict[str, str]:
    """The other libraries that are here."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for name in ("transformer-lens", "nnsight", "captum"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def bridge(setting: Setting) -> Any:
    """TransformerLens' bridge on a copy of the model, loaded from files as it wants it."""
    from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]  # peers only
    from transformers import AutoTokenizer

    folder = save(setting.bare, tokenizer(setting.bare.config.vocab_size), setting.folder)
    words = AutoTokenizer.from_pretrained(folder)  # the bridge asks a tokenizer for the folder that it came from
    return TransformerBridge.boot_transformers(folder, tokenizer=words, device="cpu")


@cache
def traced(setting: Setting) -> Any:
    """The model in nnsight's wrapper."""
    from nnsight import LanguageModel  # pyright: ignore[reportMissingImports]  # peers only

    return LanguageModel(copy.deepcopy(setting.bare), tokenizer=tokenizer(setting.bare.config.vocab_size))


def toggles(setting: Setting, asked: Asked) -> Contenders:
    """One head off, mean over three layers."""
    n = len(setting.live.anatomy.layers)
    return sweeps(setting, asked, [(0, 1), (n // 2, 1), (n - 1, 1)], 1 / 3)


def sweeps(setting: Setting, asked: Asked, some: Heads, times: float) -> Contenders:
    """Each head of `some` off, one forward each."""
    found: Contenders = {}
    ids = torch.tensor([asked.ids])
    if "transformer-lens" in versions():
        model = bridge(setting)

        def lens() -> None:
            for layer, head in some:

                def off(z: torch.Tensor, hook: Any, head: int = head) -> torch.Tensor:  # noqa: ARG001
                    z[:, :, head] = 0.0
                    return z

                with torch.no_grad():
                    logits = model.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", off)])
                asked.metric.of(logits[0, -1][None])

        found["TransformerLens bridge"] = Contender(lens, times)
    if "nnsight" in versions() and hasattr(setting.bare, "transformer"):
        wrapped = traced(setting)
        width = setting.bare.config.n_embd // setting.bare.config.n_head

        def sight() -> None:
            for layer, head in some:
                with torch.no_grad(), wrapped.trace(ids):
                    wrapped.transformer.h[layer].attn.c_proj.input[:, :, head * width : (head + 1) * width] = 0.0
                    logits = wrapped.lm_head.output.save()
                asked.metric.of(logits[0, -1][None])

        found["nnsight"] = Contender(sight, times)
    return found


def block(setting: Setting, layer: int) -> Any:
    """A block of the untouched copy."""
    module = setting.live.anatomy.layers[layer].module
    return setting.bare.get_submodule(next(p for p, m in setting.live.anatomy.paths.items() if m is module))


def streams(setting: Setting, ids: Sequence[int]) -> list[torch.Tensor]:
    """What every block of the untouched copy is called with."""
    caught: list[torch.Tensor] = []
    blocks = [block(setting, i) for i in range(len(setting.live.anatomy.layers))]
    handles = [b.register_forward_pre_hook(lambda _m, args: caught.append(args[0].clone())) for b in blocks]
    with torch.no_grad():
        setting.bare(torch.tensor([list(ids)]))
    for handle in handles:
        handle.remove()
    return caught


@contextmanager
def stream_put(setting: Setting, layer: int, position: int, stream: torch.Tensor) -> Generator[None]:
    """One position of a block's input from another run, by the hook that a user writes."""

    def put(_m: Any, args: Any) -> Any:
        x = args[0].clone()
        x[:, position] = stream[:, position]
        return (x, *args[1:])

    handle = block(setting, layer).register_forward_pre_hook(put)
    try:
        yield
    finally:
        handle.remove()


def patches(setting: Setting, asked: Asked, some: Heads, times: float) -> Contenders:
    """Each cell of `some` patched, one forward each, as `get_act_patch_resid_pre` does it."""
    if "transformer-lens" not in versions():
        return {}
    model, ids = bridge(setting), torch.tensor([asked.ids])
    assert asked.corrupt is not None
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(len(setting.live.anatomy.layers))]
    with torch.no_grad():
        _, kept = model.run_with_cache(torch.tensor([[t.id for t in asked.corrupt]]), names_filter=lambda n: n in names)

    def lens() -> None:
        for layer, position in some:

            def put(x: torch.Tensor, hook: Any, layer: int = layer, position: int = position) -> torch.Tensor:  # noqa: ARG001
                x[:, position] = kept[names[layer]][:, position]
                return x

            with torch.no_grad():
                logits = model.run_with_hooks(ids, fwd_hooks=[(names[layer], put)])
            asked.metric.of(logits[0, -1][None])

    return {"TransformerLens bridge": Contender(lens, times)}
