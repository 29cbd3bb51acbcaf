"""What is found in a model, against what is known of it, and against forwards of the test's own."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_widgets.builtin.known import known
from interp_widgets.builtin.known import names as known_names
from interp_widgets.model.anatomy import Anatomy, find_anatomy
from interp_widgets.model.errors import ModelRefusedError
from interp_widgets.model.probe import probe_ids
from tests import architectures

EXCEPTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("bart", "bert-generation", "blenderbot-small", "git", "marian", "minimax", "mvp", "openai-gpt", "plbart", "trocr"),
        ("partly", "each layer normalises the stream"),
    ),
    **dict.fromkeys(
        ("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta",
         "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "qwen4_exp", "qwen4_exp_text"),
        ("partly", "before the logits is more than a norm and a matrix"),
    ),
    **dict.fromkeys(
        ("doge", "gpt_neox_japanese", "inkling2_text", "rwkv", "xmod", "zamba", "zamba2", "zaya"),
        ("partly", "is no sum of its modules' outputs"),
    ),
    **dict.fromkeys(("falcon_mamba", "jetmoe", "mamba", "mamba2", "xlstm"), ("partly", "no layer has heads")),
    **dict.fromkeys(("modernbert-decoder", "nanochat"), ("partly", "changes the stream before the unembedding")),
    "inkling_text": ("partly", "lies between the heads and the stream"),
    "longcat_flash": ("partly", "several attentions"),
    **dict.fromkeys(("deepseek_v4", "hy_v4", "gemma3n_text", "prophetnet"), ("refused", "several streams")),
    **dict.fromkeys(("cpmant", "xlm", "xlnet"), ("refused", "encoder-only")),
    **dict.fromkeys(("musicgen", "musicgen_melody"), ("refused", "does not run on token ids alone")),
    "hrm_text": ("refused", "same block several times"),
    "reformer": ("refused", "no list of blocks"),
    "blt": ("not built", "share no residual stream"),
    "dbrx": ("not built", "cannot build it"),
    "gemma3n": ("not built", "timm"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), ("not built", "another model's hidden states")),
}  # fmt: skip


@functools.cache
def row(name: str) -> architectures.Row:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return architectures.examine(architectures.build(name))


def tiny(name: str) -> nn.Module:
    model = architectures.build(name).model
    assert model is not None
    return model


def plain(root: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return root(input_ids=ids).logits


# ---- every architecture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", architectures.names())
def test_an_architecture_is_verified_or_says_why_not(name: str) -> None:
    found = row(name)
    status, reason = EXCEPTIONS.get(name, ("verified", ""))
    assert found.status == status, found
    assert reason in found.reason
    for key, error in found.errors:
        assert error < 1e-5, (key, error)
    if status == "verified":
        assert found.heads > 0


def test_more_than_a_hundred_architectures_are_verified() -> None:
    verified = [name for name in architectures.names() if row(name).status == "verified"]
    assert len(verified) > 100, len(verified)


# ---- what is found ----------------------------------------------------------------------------------------------------


def test_grouped_heads_are_counted_with_their_key_value_heads() -> None:
    expected = {"gpt2": (4, 4, 16), "llama": (4, 2, 16), "gpt_bigcode": (4, 1, 16), "falcon": (4, 1, 16)}
    for name, shape in expected.items():
        attention = find_anatomy(tiny(name)).layers[0].attention
        assert attention is not None
        assert (attention.n_heads, attention.n_kv_heads, attention.d_head) == shape, name


def test_the_output_projection_is_found_by_what_it_is_given() -> None:
    paths = {
        "gpt2": "transformer.h.0.attn.c_proj",
        "gpt_neox": "gpt_neox.layers.0.attention.dense",
        "bloom": "transformer.h.0.self_attention.dense",
        "opt": "model.decoder.layers.0.self_attn.out_proj",
        "gpt_neo": "transformer.h.0.attn.attention.out_proj",
        "bert": "bert.encoder.layer.0.attention.output.dense",
        "phi3": "model.layers.0.self_attn.o_proj",
    }
    for name, path in paths.items():
        model = tiny(name)
        attention = find_anatomy(model).layers[0].attention
        assert attention is not None
        assert attention.output is model.get_submodule(path), name


def test_multipliers_and_caps_are_found_and_are_the_configurations() -> None:
    granite = find_anatomy(tiny("granite"))
    assert {w.scale for layer in granite.layers for w in writes(layer)} == {0.22}
    assert granite.logit_scale == pytest.approx(1 / 8)
    assert find_anatomy(tiny("cohere")).logit_scale == 0.0625
    gemma = find_anatomy(tiny("gemma2"))
    assert (gemma.softcap, gemma.logit_scale) == (30.0, 1.0)
    minicpm = find_anatomy(tiny("minicpm3"))
    config: Any = minicpm.root.config
    assert minicpm.hidden_scale == pytest.approx(config.dim_model_base / config.hidden_size, rel=1e-5)
    scale = config.scale_depth / config.num_hidden_layers**0.5
    assert all(w.scale == pytest.approx(scale, rel=1e-5) for layer in minicpm.layers for w in writes(layer))


def writes(layer: Any) -> list[Any]:
    return [part.write for part in (layer.attention, layer.mlp) if part is not None]


def test_sandwich_norms_lie_between_the_heads_and_what_is_added() -> None:
    layer = find_anatomy(model := tiny("gemma2")).layers[1]
    assert layer.attention is not None
    assert layer.attention.norm is model.get_submodule("model.layers.1.post_attention_layernorm")
    assert layer.attention.gain is None
    assert layer.mlp is not None
    assert layer.mlp.neurons is model.get_submodule("model.layers.1.mlp.down_proj")
    assert layer.middle is model.get_submodule("model.layers.1.pre_feedforward_layernorm")


def test_parallel_blocks_have_no_stream_between_attention_and_mlp() -> None:
    assert find_anatomy(tiny("gpt_neox")).layers[0].middle is None
    assert find_anatomy(tiny("gptj")).layers[0].middle is None
    assert find_anatomy(tiny("llama")).layers[0].middle is not None


def test_a_mixture_of_experts_is_a_whole_mlp_without_neurons() -> None:
    anatomy = find_anatomy(model := tiny("mixtral"))
    mlp = anatomy.layers[0].mlp
    assert mlp is not None
    assert mlp.module is model.get_submodule("model.layers.0.mlp")
    assert mlp.neurons is None
    assert "neurons" in anatomy.gaps


def test_a_dropout_that_serves_twice_is_no_place_of_its_own() -> None:
    model = tiny("phi")  # one dropout module behind both the attention and the MLP
    for layer in find_anatomy(model).layers:
        modules = [w.module for w in writes(layer)]
        assert len(set(map(id, modules))) == 2
        assert not any(isinstance(m, nn.Dropout) for m in modules)


def test_layers_without_softmax_attention_are_holes_with_a_reason() -> None:
    anatomy = find_anatomy(tiny("jamba"))
    assert [layer.attention is None for layer in anatomy.layers] == [True, False]
    assert "JambaMambaMixer" in (anatomy.layers[0].hole or "")
    assert anatomy.layers[0].others[0].module is anatomy.root.get_submodule("model.layers.0.mamba")


def test_a_difference_of_two_softmaxes_counts_the_heads_that_reach_the_projection() -> None:
    attention = find_anatomy(tiny("diffllama")).layers[0].attention
    assert attention is not None
    assert (attention.n_heads, attention.d_head, attention.gated) == (2, 32, True)


@pytest.mark.parametrize("name", known_names())
def test_silent_heads_and_mlps_are_found_where_all_they_write_is_zero(name: str) -> None:
    model, _, circuit = known(name)
    anatomy = find_anatomy(model)
    assert not anatomy.gaps
    for layer in anatomy.layers:
        assert layer.attention is not None
        assert layer.mlp is not None
        assert [w.scale for w in writes(layer)] == [1.0, 1.0], circuit.name
        assert layer.attention.n_heads == model.config.num_attention_heads
        assert layer.mlp.neurons is not None


# ---- dtypes and wrappers ----------------------------------------------------------------------------------------------


def outline(anatomy: Anatomy) -> list[Any]:
    """Everything that must not depend on the dtype or on a wrapper."""
    found: list[Any] = [anatomy.softcap, anatomy.logit_scale, anatomy.d_model, anatomy.vocab, sorted(anatomy.gaps)]
    for layer in anatomy.layers:
        a, m = layer.attention, layer.mlp
        found.append((layer.index, layer.carry, layer.middle is not None, len(layer.norms)))
        found.append(a and (a.n_heads, a.n_kv_heads, a.d_head, a.gain, a.gated, a.write and a.write.scale))
        found.append(m and (m.d_neurons, m.write and m.write.scale))
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "granite", "cohere", "opt", "bert", "phi3", "mixtral"])
def test_half_precision_has_the_same_anatomy(name: str, dtype: torch.dtype) -> None:
    model = tiny(name)
    expected = outline(find_anatomy(model))
    assert outline(find_anatomy(model.to(dtype))) == expected


def lora(model: nn.Module) -> nn.Module:
    import peft

    targets = ["q_proj", "o_proj", "down_proj"]
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).eval()


def int8(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)  # pyright: ignore[reportDeprecated]


def weights_int8(model: nn.Module) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    return model


def offloaded(model: nn.Module) -> nn.Module:
    import accelerate

    return accelerate.cpu_offload(model)


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


def compiled_layers(model: nn.Module) -> nn.Module:
    for layer in model.get_submodule("model.layers").children():
        layer.compile()
    return model


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": torch.compile,
    "compiled in place": compiled_in_place,
    "compiled by layer": compiled_layers,
    "adapter": lora,
    "compiled adapter": lambda model: torch.compile(lora(model)),
    "int8": int8,
    "int8 weights": weights_int8,
    "offloaded": offloaded,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_a_wrapped_model_has_the_anatomy_of_the_model_inside(wrapper: Callable[[nn.Module], Any]) -> None:
    model = tiny("llama")
    expected = outline(find_anatomy(model))
    anatomy = find_anatomy(wrapper(model))
    assert outline(anatomy) == expected
    assert type(anatomy.root).__name__ == "LlamaForCausalLM"


@pytest.mark.filterwarnings("ignore")
def test_the_projection_of_an_adapter_is_the_adapter_itself() -> None:
    attention = find_anatomy(lora(tiny("llama"))).layers[0].attention
    assert attention is not None
    assert hasattr(attention.output, "lora_A")


def test_a_compiled_model_says_how_it_is_run() -> None:
    assert any("_orig_mod" in note for note in find_anatomy(torch.compile(tiny("gpt2"))).notes)  # pyright: ignore[reportArgumentType]
    assert any("eager" in note for note in find_anatomy(compiled_in_place(tiny("gpt2"))).notes)


# ---- nothing is left behind -------------------------------------------------------------------------------------------


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3_next", "gemma2"])
def test_the_model_is_as_it_was(name: str) -> None:
    model: Any = tiny(name)
    ids = probe_ids(model)
    before, state = plain(model, ids), copy.deepcopy(model.state_dict())
    config, flags, count = model.config.to_dict(), [m.training for m in model.modules()], hooks(model)
    random = torch.get_rng_state()
    find_anatomy(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks(model) == count
    assert model.config.to_dict() == config
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(plain(model, ids), before)


def test_an_error_in_the_probe_leaves_no_hook() -> None:
    model: Any = tiny("llama")
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the forward before the hooks passes, the recorded one does not
            raise RuntimeError("the user's hook failed")

    handle = model.model.layers[1].mlp.register_forward_hook(fail)
    count = hooks(model)
    with pytest.raises(RuntimeError, match="the user's hook failed"):
        find_anatomy(model)
    assert hooks(model) == count
    handle.remove()


def test_a_users_own_hook_is_part_of_the_model() -> None:
    model: Any = tiny("llama")
    handle = model.model.layers[0].self_attn.register_forward_hook(lambda _m, _a, out: (out[0] * 3.0, *out[1:]))
    anatomy = find_anatomy(model)
    handle.remove()
    attention = anatomy.layers[0].attention
    assert attention is not None
    assert attention.write is not None
    assert attention.write.scale == 1.0
    assert attention.gain == pytest.approx(3.0)


def test_paths_name_every_part() -> None:
    anatomy = find_anatomy(model := tiny("gpt2"))
    assert anatomy.paths["transformer.h.1.attn.c_proj"] is model.get_submodule("transformer.h.1.attn.c_proj")
    assert {"transformer.wte", "transformer.ln_f", "lm_head"} <= set(anatomy.paths)


# ---- refusals ---------------------------------------------------------------------------------------------------------


def meta() -> Any:
    from transformers import LlamaForCausalLM

    config: Any = tiny("llama").config
    with torch.device("meta"):
        return LlamaForCausalLM(config).eval()


def bert(name: str) -> Any:
    import transformers

    kind = getattr(transformers, name)
    sizes: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return kind(transformers.BertConfig(intermediate_size=64, **sizes)).eval()


def gpt2(name: str) -> Any:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=100, n_embd=32, n_layer=2, n_head=4, pad_token_id=0, eos_token_id=0, bos_token_id=0
    )
    return getattr(transformers, name)(config).eval()


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"vocab_size": 100, "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    return T5ForConditionalGeneration(T5Config(**sizes)).eval()


def prompt_tuned() -> Any:
    import peft

    return peft.get_peft_model(
        tiny("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    ).eval()


def broken() -> Any:
    model: Any = tiny("llama")
    model.model.norm.weight.data.fill_(float("nan"))
    return model


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no module": (lambda: "gpt2", "str is not a torch module"),
    "no language model": (lambda: nn.Linear(3, 3), "no token embedding"),
    "encoder": (lambda: bert("BertModel"), "encoder-only"),
    "masked language model": (lambda: bert("BertForMaskedLM"), "encoder-only"),
    "encoder-decoder": (t5, "encoder-decoder"),
    "no lm_head": (lambda: gpt2("GPT2Model"), "no lm_head"),
    "sequence classifier": (lambda: gpt2("GPT2ForSequenceClassification"), "no logits per token"),
    "token classifier": (lambda: gpt2("GPT2ForTokenClassification"), "classifies tokens"),
    "meta weights": (meta, "meta device"),
    "training with dropout": (lambda: gpt2("GPT2LMHeadModel").train(), "training mode with dropout"),
    "copies": (lambda: nn.DataParallel(tiny("gpt2")), "DataParallel"),
    "virtual tokens": (prompt_tuned, "virtual tokens"),
    "not finite": (broken, "not finite"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.case("A24", "A33")
def test_a_model_that_cannot_be_opened_is_refused_before_any_hook(
    make: Callable[[], Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a hook was registered")

    monkeypatch.setattr(nn.Module, "register_forward_hook", never)
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", never)
    with pytest.raises(ModelRefusedError, match=reason):
        find_anatomy(model)


@pytest.mark.case("A15")
def test_training_mode_without_dropout_is_opened_and_left_in_training_mode() -> None:
    model = tiny("llama").train()
    assert find_anatomy(model).layers
    assert model.training


# ---- decoders of other libraries --------------------------------------------------------------------------------------


class OwnAttention(nn.Module):
    """A fused projection, with the softmax written out or left to torch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv, self.out = kind, nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        if self.kind == "sdpa":
            heads = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            heads = torch.einsum("bhij,bhjd->bhid", scores.masked_fill(future, -torch.inf).softmax(-1), v)
        return self.out(heads.transpose(1, 2).flatten(2))


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.inner(x, x, x, attn_mask=future, need_weights=False)[0]


class OwnBlock(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention, self.first, self.second = attention, nn.LayerNorm(32), nn.LayerNorm(32)
        self.feed = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + 0.5 * self.feed(self.second(x))


class OwnDecoder(nn.Module):
    """No configuration, no `transformers`: blocks as attributes, logits as a bare tensor."""

    def __init__(self, *blocks: OwnBlock) -> None:
        super().__init__()
        self.tokens, self.last, self.head = nn.Embedding(61, 32), nn.LayerNorm(32), nn.Linear(32, 61, bias=False)
        for i, block in enumerate(blocks):
            self.add_module(f"h{i}", block)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for name, block in self.named_children():
            x = block(x) if name.startswith("h") and name != "head" else x
        return self.head(self.last(x))


@pytest.mark.parametrize("kind", ["sdpa", "einsum"])
def test_a_decoder_of_ones_own_is_found_by_structure_alone(kind: str) -> None:
    model = OwnDecoder(*(OwnBlock(OwnAttention(kind)) for _ in range(3))).eval()
    anatomy = find_anatomy(model)
    assert not anatomy.gaps
    assert [layer.module for layer in anatomy.layers] == [model.h0, model.h1, model.h2]
    for layer in anatomy.layers:
        assert layer.attention is not None
        assert layer.mlp is not None
        assert layer.mlp.write is not None
        assert (layer.attention.n_heads, layer.mlp.d_neurons, layer.mlp.write.scale) == (4, 48, 0.5)
        assert not layer.attention.gated


def test_attention_inside_one_torch_function_is_a_hole_that_says_so() -> None:
    anatomy = find_anatomy(OwnDecoder(*(OwnBlock(TorchAttention()) for _ in range(2))).eval())
    assert "MultiheadAttention" in (anatomy.layers[0].hole or "")


def test_an_attention_kernel_that_hides_its_softmax_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface

    def kernel(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        with torch._C.DisableTorchFunction():
            grouped = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(grouped, 1), value.repeat_interleave(grouped, 1)
            out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return out.transpose(1, 2).contiguous(), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "a kernel of the test's own", kernel)
    model: Any = tiny("llama")
    expected = outline(find_anatomy(model))
    model.config._attn_implementation = "a kernel of the test's own"
    assert outline(find_anatomy(model)) == expected
