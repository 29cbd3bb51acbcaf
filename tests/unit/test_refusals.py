"""What cannot be opened is refused in a sentence before any hook; what changes while it is open is noticed at the next run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AddedToken, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import interp_widgets as iw
from interp_widgets.model.errors import ModelChangedError, ModelRefusedError
from interp_widgets.model.live import open_model
from tests.invariants import our_hooks, untouched
from tests.unit.test_anatomy import bert
from tests.unit.tiny_models import VOCAB, gpt2, llama, tokenizer


def meta() -> Any:
    config = llama().config
    with torch.device("meta"):
        return LlamaForCausalLM(config).eval()


def seq2seq() -> Any:
    sizes: dict[str, Any] = {"vocab_size": 100, "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    return T5ForConditionalGeneration(T5Config(**sizes)).eval()


def with_words(*words: AddedToken) -> Any:
    made = tokenizer()
    made.add_tokens(list(words))
    return made


REFUSED: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "encoder": (lambda: bert("BertModel"), tokenizer, "BertModel is encoder-only"),
    "masked language model": (lambda: bert("BertForMaskedLM"), tokenizer, "encoder-only"),
    "encoder and decoder": (seq2seq, tokenizer, "T5ForConditionalGeneration is an encoder-decoder"),
    "meta weights": (meta, tokenizer, "meta device"),
    "training with dropout": (
        lambda: gpt2().train(),
        tokenizer,
        r"training mode with dropout .*call model.eval\(\) first",
    ),
    "another model's tokenizer": (gpt2, lambda: tokenizer(128), "128 tokens and the model's embedding 61 rows"),
    "words that were added": (
        gpt2,
        lambda: with_words(AddedToken("new")),
        "62 tokens and the model's embedding 61 rows",
    ),
    "no tokenizer": (gpt2, lambda: {"a": 1}, "dict does not"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "words", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_structural_refusal_comes_before_any_hook(
    make: Callable[[], Any], words: Callable[[], Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made = make(), words()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a hook was registered")

    monkeypatch.setattr(nn.Module, "register_forward_hook", never)
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", never)
    flags = [m.training for m in model.modules()]
    with pytest.raises(ModelRefusedError, match=reason):
        iw.open(model, made)
    assert [m.training for m in model.modules()] == flags


def test_a_refused_tokenizer_can_be_put_right() -> None:
    model, words = gpt2(), tokenizer(VOCAB + 3)
    with pytest.raises(ModelRefusedError):
        open_model(model, words)
    model.resize_token_embeddings(VOCAB + 3)
    live = open_model(model, words)
    assert live.run("w62 w5").logits.shape == (2, VOCAB + 3)
    live.release()


def test_a_vocabulary_smaller_than_the_embedding_fits() -> None:
    live = open_model(gpt2(), tokenizer(40))
    assert live.run("w30 w5").logits.shape == (2, VOCAB)
    live.release()


def test_a_special_token_beyond_the_embedding_is_refused_only_when_it_is_used() -> None:
    live = open_model(gpt2(), with_words(AddedToken("<image>", special=True)))
    assert live.run("w2 w3").logits.shape == (2, VOCAB)
    with pytest.raises(iw.PromptError, match=f"Token id {VOCAB} does not exist"):
        live.run("w2 <image>")
    live.release()


REPLACED: dict[str, Callable[[Any], None]] = {
    "model.layers.1": lambda m: m.model.layers.__setitem__(1, type(m.model.layers[1])(m.config, 1).eval()),
    "model.layers.0.self_attn.o_proj": lambda m: setattr(m.model.layers[0].self_attn, "o_proj", nn.Linear(32, 32)),
    "model.layers.2.mlp": lambda m: setattr(m.model.layers[2], "mlp", nn.Identity()),
    "lm_head": lambda m: setattr(m, "lm_head", nn.Linear(32, VOCAB)),
    "model.norm": lambda m: delattr(m.model, "norm"),
}


@pytest.mark.parametrize(("path", "replace"), REPLACED.items(), ids=REPLACED.keys())
def test_a_module_replaced_while_open_is_noticed_at_the_next_run(path: str, replace: Callable[[Any], None]) -> None:
    model = llama()
    live = open_model(model, tokenizer())
    plain = live.run("w2 w3 w4").logits
    replace(model)
    with pytest.raises(ModelChangedError, match=rf"The module '{path}' (was replaced|is gone).*open the model again"):
        live.run("w2 w3 w4")
    assert torch.isfinite(plain).all()
    live.release()
    assert our_hooks(model) == 0


def test_training_mode_switched_on_while_open_is_refused_at_the_next_run_and_the_flag_is_left() -> None:
    model = gpt2()
    live = open_model(model, tokenizer())
    model.train()
    with pytest.raises(ModelRefusedError, match=r"call model.eval\(\) first"):
        live.run("w2 w3 w4")
    assert model.training
    model.eval()
    assert live.run("w2 w3 w4").logits.shape == (3, VOCAB)
    live.release()


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    model = gpt2()
    with untouched(model), pytest.raises(ModelRefusedError):
        open_model(model, tokenizer(128))
    assert our_hooks(model) == 0
