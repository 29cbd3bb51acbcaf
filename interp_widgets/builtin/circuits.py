"""Which heads do it: direct and total effects, self-repair and attention of a GPT-2 on a set of prompts, for the card."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .corpus import Document

if TYPE_CHECKING:
    import numpy as np
    import torch

Mode = Literal["zero", "mean"]
HeadIndex = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Prompts as one right-padded batch, the read position of each, and the ids of target and foil."""

    ids: torch.Tensor
    last: torch.Tensor
    target: torch.Tensor
    foil: torch.Tensor

    @property
    def real(self) -> torch.Tensor:
        """Which positions hold a token, `[prompt, pos]`."""
        import torch

        return torch.arange(self.ids.shape[1]) <= self.last[:, None]


@dataclass(frozen=True)
class Effects:
    """Mean over prompts of the logit difference and of what each part adds to it directly (final norm's scale as in `run`)."""

    metric: float
    heads: np.ndarray  # [layer, head]
    mlps: np.ndarray  # [layer]
    rest: float  # embeddings and biases


@dataclass(frozen=True)
class Reading:
    """What one forward of a batch left at the read position."""

    logits: torch.Tensor  # [prompt, vocab]
    z: list[torch.Tensor]  # per layer [prompt, pos, head, d_head]
    mlp: list[torch.Tensor]  # per layer [prompt, d_model]
    resid: torch.Tensor  # [prompt, d_model], before the final norm


def batch(tok: Any, prompts: list[str], target: list[str] | None = None, foil: list[str] | None = None) -> Batch:
    """Tokenise prompts into a batch; without targets the ids of target and foil are 0."""
    import torch

    rows = [tok(prompt)["input_ids"] for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def first(texts: list[str] | None) -> torch.Tensor:
        return torch.tensor(
            [tok(t, add_special_tokens=False)["input_ids"][0] for t in texts] if texts else [0] * len(rows)
        )

    return Batch(ids, torch.tensor([len(row) - 1 for row in rows]), first(target), first(foil))


def of_documents(tok: Any, documents: list[Document]) -> Batch:
    """A batch of documents' prompts with their first target and first foil."""
    return batch(tok, [d.prompt for d in documents], [d.targets[0] for d in documents], [d.foils[0] for d in documents])


def read(model: Any, data: Batch, edits: Mapping[HeadIndex, torch.Tensor | None] | None = None) -> Reading:
    """One forward; a head in `edits` has its z replaced at every position, by zero (None) or by a vector `[d_head]`."""
    import torch

    z: dict[int, torch.Tensor] = {}
    mlp: dict[int, torch.Tensor] = {}
    final: list[torch.Tensor] = []
    rows = torch.arange(len(data.ids))
    with torch.inference_mode(), _hooked(model, edits or {}, z, mlp, final):
        logits = model(input_ids=data.ids, use_cache=False).logits
    at_last = [mlp[layer][rows, data.last] for layer in sorted(mlp)]
    return Reading(logits[rows, data.last], [z[layer] for layer in sorted(z)], at_last, final[0][rows, data.last])


@contextmanager
def _hooked(
    model: Any,
    edits: Mapping[HeadIndex, torch.Tensor | None],
    z: dict[int, torch.Tensor],
    mlp: dict[int, torch.Tensor],
    final: list[torch.Tensor],
) -> Generator[None]:
    handles: list[Any] = []
    for layer, block in enumerate(model.transformer.h):

        def heads(_module: Any, args: tuple[Any, ...], layer: int = layer) -> tuple[Any, ...]:
            split = args[0].unflatten(-1, (model.config.n_head, -1)).clone()
            for (at, head), value in edits.items():
                if at == layer:
                    split[:, :, head] = 0.0 if value is None else value
            z[layer] = split
            return (split.flatten(-2), *args[1:])

        def keep(_module: Any, _args: Any, out: Any, layer: int = layer) -> None:
            mlp[layer] = out

        handles += [block.attn.c_proj.register_forward_pre_hook(heads), block.mlp.register_forward_hook(keep)]
    handles.append(model.transformer.ln_f.register_forward_pre_hook(lambda _m, args: final.append(args[0])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def metric(data: Batch, reading: Reading) -> torch.Tensor:
    """Logit difference target - foil of each prompt."""
    import torch

    rows = torch.arange(len(data.ids))
    return reading.logits[rows, data.target] - reading.logits[rows, data.foil]


def direct_effects(model: Any, data: Batch, reading: Reading, scale_of: Reading | None = None) -> Effects:
    """What each head and MLP adds to the logit difference, the final norm's scale frozen at that of `scale_of`.

    Parts are summed exactly: heads, MLPs and the rest (embeddings, output biases) add to the metric when the scale is
    the run's own.
    """
    import torch

    norm = model.transformer.ln_f
    sigma = (scale_of or reading).resid.var(-1, unbiased=False).add(norm.eps).sqrt()
    unembed = model.lm_head.weight.detach()
    direction = (unembed[data.target] - unembed[data.foil]) * norm.weight.detach()  # [prompt, d_model]
    direction = (direction - direction.mean(-1, keepdim=True)) / sigma[:, None]
    rows = torch.arange(len(data.ids))
    heads = torch.stack(
        [_head_writes(model, layer, z[rows, data.last], direction) for layer, z in enumerate(reading.z)]
    )
    mlps = torch.stack([(out * direction).sum(-1).mean() for out in reading.mlp])
    value = metric(data, reading).mean()
    return Effects(float(value), heads.numpy(), mlps.numpy(), float(value - heads.sum() - mlps.sum()))


def _head_writes(model: Any, layer: int, z: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    import torch

    weight = (
        model.transformer.h[layer].attn.c_proj.weight.detach().view(z.shape[1], z.shape[2], -1)
    )  # [head, d_head, d_model]
    return torch.einsum("phk,hkd,pd->ph", z, weight, direction).mean(0)


def reference_means(model: Any, tok: Any, prompts: list[str]) -> list[torch.Tensor]:
    """Mean z of every head over all positions of the prompts, per layer `[head, d_head]`."""
    data = batch(tok, prompts)
    return [z[data.real].mean(0) for z in read(model, data).z]


def total_effects(model: Any, data: Batch, means: list[torch.Tensor] | None) -> np.ndarray:
    """Metric minus the metric with one head ablated, `[layer, head]`: by zero, or by its mean when `means` are given."""
    import numpy as np

    plain = float(metric(data, read(model, data)).mean())
    layers, heads = model.config.n_layer, model.config.n_head
    effects = np.zeros((layers, heads))
    for layer in range(layers):
        for head in range(heads):
            value = None if means is None else means[layer][head]
            effects[layer, head] = plain - float(metric(data, read(model, data, {(layer, head): value})).mean())
    return effects


@dataclass(frozen=True)
class Repair:
    """What happens when one head is ablated (Rushing & Nanda 2024): total effect = -direct + heads + MLPs + norm."""

    head: HeadIndex
    direct: float
    total: float  # change of the metric
    heads: np.ndarray  # change of the others' direct effects [layer, head], the clean run's scale frozen
    mlps: float
    norm: float

    @property
    def repaired(self) -> float:
        """Share of the lost direct effect that the rest made up for."""
        return (self.total + self.direct) / self.direct


def self_repair(model: Any, data: Batch, head: HeadIndex, means: list[torch.Tensor] | None) -> Repair:
    """Ablate one head and split what the rest of the model does about it."""
    clean = read(model, data)
    before = direct_effects(model, data, clean)
    ablated = read(model, data, {head: None if means is None else means[head[0]][head[1]]})
    after = direct_effects(model, data, ablated, scale_of=clean)
    change = after.heads - before.heads
    lost = -float(change[head])
    change[head] = 0.0
    total = float(metric(data, ablated).mean() - metric(data, clean).mean())
    mlps = float((after.mlps - before.mlps).sum())
    return Repair(head, lost, total, change, mlps, total + lost - float(change.sum()) - mlps)


def attention_to(model: Any, data: Batch, source: torch.Tensor) -> np.ndarray:
    """Mean attention from the read position to one source position per prompt, `[layer, head]`."""
    import torch

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        patterns = model(input_ids=data.ids, use_cache=False, output_attentions=True).attentions
    model.set_attn_implementation(before)
    rows = torch.arange(len(data.ids))
    return torch.stack([p[rows, :, data.last, source].mean(0) for p in patterns]).numpy()


def copying(model: Any, data: Batch, source: torch.Tensor, top: int = 5) -> np.ndarray:
    """Share of prompts where a head, looking at `source` alone, would write its token among the `top` ones, `[layer, head]`.

    The copying score of Wang et al. 2022: the stream at `source` through the head's values and output, the final norm's
    gain and the unembedding.
    """
    import torch

    rows = torch.arange(len(data.ids))
    tokens = data.ids[rows, source][:, None, None]
    scores: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    handles = [
        block.attn.c_attn.register_forward_hook(lambda _m, _a, out: values.append(out[rows, source]))
        for block in model.transformer.h
    ]
    try:
        with torch.inference_mode():
            model(input_ids=data.ids, use_cache=False)
            for block, qkv in zip(model.transformer.h, values, strict=True):
                v = qkv.chunk(3, -1)[2].unflatten(-1, (model.config.n_head, -1))
                weight = block.attn.c_proj.weight.view(v.shape[1], v.shape[2], -1)
                written = torch.einsum("phk,hkd->phd", v, weight)
                written = (written - written.mean(-1, keepdim=True)) * model.transformer.ln_f.weight
                best = (written @ model.lm_head.weight.T).topk(top).indices
                scores.append((best == tokens).any(-1).float().mean(0))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(scores).numpy()
