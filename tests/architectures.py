"""Every causal language model of the installed `transformers`, tiny and with random weights.

`models()` walks the library's own table of causal language models. A configuration is shrunk by what its fields are
called; `SPECIAL` holds what that rule cannot know. A model that cannot be built here carries the reason instead.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Generator, Iterator
from dataclasses import MISSING, dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from interp_widgets.model.probe import plain_forward

LARGEST = 12_000_000
VOCAB, WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, LAYERS = 128, 64, 4, 2, 16, 2

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "n_vocab", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCAB),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "word_embed_proj_dim", "backbone_hidden_size",
                     "embedding_size", "attention_hidden_size", "input_embedding_size", "output_embedding_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
                     "num_decoder_layers", "num_encoder_layers", "depth"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
                     "encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads",
                     "swa_num_attention_heads", "index_n_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), KV_HEADS),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "v_head_dim", "swa_head_dim", "attention_head_dim", "dim_head",
                     "index_head_dim", "global_head_dim", "swa_v_head_dim", "kv_channels"), HEAD_WIDTH),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim", "d_rel"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "laurel_rank", "gated_norm_rank"), 24),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "dff", "dim_ff", "ffn_hidden_size", "d_inner",
                     "decoder_ffn_dim", "encoder_ffn_dim", "intermediate_size_mlp", "prefix_dense_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size",
                     "shared_intermediate_size", "moe_shared_expert_intermediate_size", "adapter_rank",
                     "shared_experts_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions",
                     "max_source_positions", "context_length", "original_max_position_embeddings"), 64),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_chunk_size", "chunk_size"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), HEAD_WIDTH),
    "sliding_window": 32, "index_topk": 16, "hidden_size_per_layer_input": 16,
    "is_decoder": True, "is_encoder_decoder": False, "add_cross_attention": False, "tie_word_embeddings": False,
}  # fmt: skip

HALF = ["linear_attention", "full_attention"]
GRANITE = {
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.1,
}

SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": HALF},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"layer_types": ["full_attention"] * 2, "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4},
    "dots3_note": {"num_key_value_heads": HEADS},
    "dots3_note_text": {"num_key_value_heads": HEADS},
    "falcon_h1": {"attention_out_multiplier": 0.9, "ssm_out_multiplier": 0.4, "mlp_multipliers": [0.8, 0.3],
                  "lm_head_multiplier": 0.6, "embedding_multiplier": 1.7, "key_multiplier": 0.9},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_unified": {"vision_config": {"mm_embed_dim": 32, "patch_size": 2}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": GRANITE,
    "granite_swa": GRANITE,
    "granitemoe": GRANITE,
    "granitemoe_swa": GRANITE | {"shared_intermediate_size": 32},
    "granitemoehybrid": GRANITE | {"layer_types": HALF},
    "granitemoeshared": GRANITE,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": HALF, "linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "qwen3_5": {"layer_types": HALF},
    "qwen3_5_moe": {"layer_types": HALF},
    "qwen3_5_moe_text": {"layer_types": HALF},
    "qwen3_5_text": {"layer_types": HALF},
    "qwen3_next": {"layer_types": HALF},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 8], "attn_layers": ["local", "local"]},
    "roc_bert": {"pronunciation_embed_dim": 32, "pronunciation_vocab_size": 50, "shape_embed_dim": 32,
                 "shape_vocab_size": 50},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["mamba", "hybrid"], "attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip

NOT_HERE: dict[str, str] = {
    "blt": "reads bytes through a patcher, an encoder and a decoder that share no residual stream",
    "dbrx": "the installed transformers cannot build it (DbrxAttentionConfig has no rope_theta)",
    "gemma3n": "needs the timm package for its vision tower; its text model is gemma3n_text",
    "gemma4_assistant": "drafts from another model's hidden states and cache",
    "gemma4_unified_assistant": "drafts from another model's hidden states and cache",
}


@dataclass(frozen=True, eq=False)
class Architecture:
    """A model type and its tiny model, or the reason why there is none."""

    name: str
    class_name: str
    model: nn.Module | None
    reason: str = ""


def names() -> list[str]:
    """Every model type of the installed library that it says has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def models() -> Iterator[Architecture]:
    """Build every architecture, one at a time."""
    for name in names():
        yield build(name)


def build(name: str) -> Architecture:
    """Build one architecture with perturbed random weights, in eval mode and float32."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
    if name in NOT_HERE:
        return Architecture(name, class_name, None, NOT_HERE[name])
    torch.manual_seed(0)
    try:
        with quiet():
            kind = getattr(transformers, class_name)
            config = _shrunk(kind.config_class, SPECIAL.get(name, {}))
            with torch.device("meta"):
                size = sum(weight.numel() for weight in kind(config).parameters())
            if size > LARGEST:
                return Architecture(name, class_name, None, f"not shrunk enough: {size / 1e6:.0f} million parameters")
            model = kind(config)
    except Exception as error:  # noqa: BLE001 - the reason is what the table shows
        return Architecture(name, class_name, None, f"{type(error).__name__}: {str(error).strip()[:300]}")
    perturb(model)
    return Architecture(name, class_name, model.eval())


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Silence what the library says about configurations that nobody would train."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _shrunk(kind: Any, special: dict[str, Any]) -> Any:
    fields: dict[str, Any] = dict(getattr(kind, "__dataclass_fields__", {}))
    values = {key: value for key, value in SIZES.items() if key in fields}
    if (
        "qk_rope_head_dim" in fields
    ):  # multi-head latent attention: no grouped heads, and only part of a head is rotated
        values |= {
            k: v for k, v in (("head_dim", values["qk_rope_head_dim"]), ("num_key_value_heads", HEADS)) if k in fields
        }
    values |= {
        key: _token(key) for key in fields if key.endswith(("_token_id", "_token_index")) and _is_set(fields[key])
    }
    for key, sub in getattr(kind, "sub_configs", {}).items():
        sub_kind = type(getattr(kind(), key)) if sub.__name__ == "AutoConfig" else sub
        values[key] = _shrunk(sub_kind, special.get(key, {}))
    values |= {key: value for key, value in special.items() if key not in getattr(kind, "sub_configs", {})}
    return kind(**values)


def _is_set(field: Any) -> bool:
    return field.default is not MISSING and field.default is not None


@functools.cache
def _token(key: str) -> Any:
    """A small id of its own for every special token."""
    known = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return known.get(key, 3 + sum(map(ord, key)) % 12)


def perturb(model: nn.Module) -> None:
    """Move biases off zero and norm gains off one, and make weights large enough to matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.is_floating_point() or name.endswith(("A_log", "dt_bias", ".D")):
                continue
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise * (0.15 if weight.dim() < 2 else 0.7 / weight.shape[-1] ** 0.5))


# ---- what of it can be opened -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the table: `status` is `verified`, `partly`, `refused` or `not built`; `errors` are relative."""

    name: str
    class_name: str
    status: str
    reason: str
    layers: int = 0
    heads: int = 0
    holes: int = 0
    errors: tuple[tuple[str, float], ...] = ()


def examine(architecture: Architecture) -> Row:
    """Open one architecture and hold what was found against forwards of its own, on another prompt."""
    from interp_widgets.model.anatomy import find_anatomy
    from interp_widgets.model.errors import ModelRefusedError

    name, class_name, model = architecture.name, architecture.class_name, architecture.model
    if model is None:
        return Row(name, class_name, "not built", architecture.reason)
    try:
        with quiet():
            anatomy = find_anatomy(model)
            errors = identities(anatomy)
    except ModelRefusedError as error:
        return Row(name, class_name, "refused", str(error))
    missing = {k: v for k, v in anatomy.gaps.items() if k != "neurons"}
    reason = "; ".join(dict.fromkeys(f"{feature}: {why}" for feature, why in missing.items()))
    wrong = [f"{key} off by {error:.1e}" for key, error in errors.items() if error > 1e-5]
    status = "verified" if not missing and not wrong else "partly"
    attentions = [layer.attention for layer in anatomy.layers if layer.attention is not None]
    return Row(
        name, class_name, status, "; ".join((*wrong, reason)) if wrong else reason or "; ".join(anatomy.notes),
        len(anatomy.layers), sum(a.n_heads for a in attentions), len(anatomy.layers) - len(attentions), tuple(errors.items()),
    )  # fmt: skip


def identities(anatomy: Any) -> dict[str, float]:
    """The largest relative error of each identity, measured with plain hooks on a prompt that the probe never saw."""
    ids = torch.randint(VOCAB // 2, VOCAB, (1, 7), generator=torch.Generator().manual_seed(2))
    seen = Seen(anatomy, ids)
    errors = {
        "heads": 0.0,
        "layout": 0.0,
        "writes": 0.0,
        "logits": 0.0 if "lens" in anatomy.gaps else seen.logits_error(),
    }
    for layer in anatomy.layers:
        if layer.attention is not None:
            errors["heads"] = max(errors["heads"], seen.heads_error(layer))
        if (
            not layer.post_norm
            and (layer.attention is None or layer.attention.write is not None)
            and "writes" not in anatomy.gaps
        ):
            errors["writes"] = max(errors["writes"], seen.writes_error(layer))
    first = next((layer for layer in anatomy.layers if layer.attention is not None), None)
    if first is not None:
        errors["layout"] = layout_error(anatomy, first, ids)
    return errors


class Seen:
    """What every module of an anatomy was given and gave in one forward."""

    def __init__(self, anatomy: Any, ids: torch.Tensor) -> None:
        self.anatomy, self.shape = anatomy, ids.shape
        self.given: dict[int, torch.Tensor] = {}
        self.gave: dict[int, Any] = {}
        handles = [m.register_forward_hook(self._keep, with_kwargs=True) for m in anatomy.root.modules()]
        try:
            with torch.no_grad():
                self.logits = plain_forward(anatomy.root, ids).logits.double()
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tensors = [
            v
            for v in (*args, *kwargs.values())
            if isinstance(v, torch.Tensor) and v.is_floating_point() and v.dim() > 1
        ]
        if tensors:
            self.given[id(module)] = tensors[0].detach().clone()
        whole = (
            output
            if isinstance(output, torch.Tensor)
            else [v.clone() if isinstance(v, torch.Tensor) else v for v in output]
        )
        self.gave[id(module)] = whole.detach().clone() if isinstance(whole, torch.Tensor) else whole

    def written(self, write: Any) -> torch.Tensor:
        gave = self.gave[id(write.module)]
        value = gave if write.index is None else gave[write.index]
        return write.scale * value.double().reshape(*self.shape, -1)

    def heads_error(self, layer: Any) -> float:
        """The heads' own results and the bias against the output of the projection."""
        module = layer.attention.output
        z = self.given[id(module)].double().reshape(*self.shape, layer.attention.n_heads, layer.attention.d_head)
        weight = module.weight.detach().double()
        weight = weight if hasattr(module, "nf") else weight.T
        total = torch.einsum("bphd,hdm->bphm", z, weight.unflatten(0, (layer.attention.n_heads, -1))).sum(2)
        bias = getattr(module, "bias", None)
        total = total if bias is None else total + bias.detach().double()
        return _off(total, self.gave[id(module)].double().reshape(total.shape))

    def writes_error(self, layer: Any) -> float:
        """The stream that entered and what was added against the stream that left."""
        out = self.gave[id(layer.module)]
        out = (out if layer.output is None else out[layer.output]).double()
        total = layer.carry * self.given[id(layer.module)].double()
        parts = [part.write for part in (layer.attention, layer.mlp) if part is not None]
        for write in (*parts, *layer.others):
            total = total + self.written(write)
        return _off(total, out)

    def logits_error(self) -> float:
        """The last stream, normed, unembedded, scaled and capped, against the model's logits."""
        a = self.anatomy
        last = a.layers[-1]
        stream = self.gave[id(last.module)]
        stream = stream if last.output is None else stream[last.output]
        with torch.no_grad():
            hidden = stream if a.final_norm is None else a.final_norm(stream)
            for module in a.between:
                hidden = module(hidden)
            raw = a.unembed(a.hidden_scale * hidden).double()[..., : a.vocab] * a.logit_scale
        raw = raw if a.softcap is None else a.softcap * torch.tanh(raw / a.softcap)
        return _off(raw, self.logits)


def _off(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


class Without(TorchFunctionMode):
    """Zeroes what one head takes from the values, behind every softmax over positions."""

    def __init__(self, head: int, length: int) -> None:
        super().__init__()
        self.head, self.length, self.shape = head, length, torch.Size()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "softmax" and result.dim() >= 3 and result.shape[-2] == self.length <= result.shape[-1]:
            self.shape = result.shape
        product = name in ("matmul", "__matmul__", "bmm") and args[0].shape[-2:-1] == self.shape[-2:-1]
        product = product and args[0].numel() <= self.shape.numel() and args[0].shape[-1] >= self.length
        if name == "scaled_dot_product_attention" or product:
            self.shape = torch.Size()
            result = result.clone()
            (result[0] if result.dim() == 4 else result)[self.head] = 0.0  # one prompt: [1, head, ...] or [head, ...]
        return result


def layout_error(anatomy: Any, layer: Any, ids: torch.Tensor) -> float:
    """Zero one head behind its softmax: its slice of z is zero, or at least no other slice moves."""
    attention = layer.attention
    kept: list[torch.Tensor] = []
    handle = attention.output.register_forward_pre_hook(lambda _m, args: kept.append(args[0].detach().clone()))
    try:
        with torch.no_grad():
            plain_forward(anatomy.root, ids)
            for head in range(attention.n_heads):
                with Without(head, ids.shape[1]):
                    plain_forward(anatomy.root, ids)
    finally:
        handle.remove()
    plain, *edited = (z.reshape(*ids.shape, attention.n_heads, attention.d_head) for z in kept)
    worst = 0.0
    for head, z in enumerate(edited):
        others = [h for h in range(attention.n_heads) if h != head]
        own, moved = float(z[:, :, head].abs().max()), float((z - plain)[:, :, others].abs().max())
        unmoved = torch.equal(z[:, :, head], plain[:, :, head])
        worst = max(worst, min(own, moved) / float(plain.abs().max()), float(unmoved))
    return worst
