"""What the MLP reads, and what an embedding is wide, are found in families that call an MLP's parts, or embed narrowly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, ElectraConfig, OPTConfig

import interp_widgets as iw
from interp_widgets.model.errors import FeatureOffError, InterventionError
from tests.unit import tiny_models

IDS = [5, 9, 12, 7]
V = torch.randn(32, generator=torch.Generator().manual_seed(3))
NARROW = 12
SHAPE: dict[str, Any] = {
    "vocab_size": tiny_models.VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64, "is_decoder": True,
}  # fmt: skip


def opt(**changes: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": tiny_models.VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
    }  # fmt: skip
    return tiny_models.shaken(OPTConfig(**(shape | changes)))


# A family, and the module that reads the MLP's input in its second block.
READS: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (lambda: tiny_models.shaken(BertConfig(**SHAPE)), "bert.encoder.layer.1.intermediate"),
    "electra": (lambda: tiny_models.shaken(ElectraConfig(**SHAPE)), "electra.encoder.layer.1.intermediate"),
    "opt": (opt, "model.decoder.layers.1.fc1"),
    "gpt2": (tiny_models.gpt2, "transformer.h.1.mlp"),
    "llama": (tiny_models.llama, "model.layers.1.mlp"),
}
EMBEDS: dict[str, Callable[[], Any]] = {
    "electra": lambda: tiny_models.shaken(ElectraConfig(**SHAPE, embedding_size=NARROW)),
    "opt": lambda: opt(word_embed_proj_dim=NARROW),
}


def plain(model: Any, module: nn.Module, edit: Callable[[torch.Tensor], torch.Tensor], *, of: str) -> float:
    """The logit difference of 11 over 13 where `edit` is done to a module's input or output, by a plain torch hook."""

    def enter(_module: Any, args: Any) -> Any:
        return (edit(args[0]), *args[1:])

    def leave(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        return edit(out)

    handle = module.register_forward_pre_hook(enter) if of == "input" else module.register_forward_hook(leave)
    try:
        with torch.no_grad():
            logits = model(torch.tensor([IDS]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()
    return float(logits[11] - logits[13])


@pytest.mark.parametrize("family", READS)
def test_what_the_mlp_reads_is_the_stream_in_families_that_call_its_parts_one_by_one_too(family: str) -> None:
    make, name = READS[family]
    model = make()
    session = iw.open(model, tiny_models.tokenizer())
    session.ask(IDS, 11, 13)
    read = session.model.run(IDS, [], read=["L1.mlp.in"])["L1.mlp.in"]
    assert read.shape == (4, 32)
    session.set(iw.Steer("L1.mlp.in", V, 1.5, positions="all"))
    steered = session.answer.metric
    session.set(iw.Patch("L1.mlp.in", V))
    patched = session.answer.metric
    session.close()
    module = model.get_submodule(name)
    assert steered == pytest.approx(plain(model, module, lambda x: x + 1.5 * V, of="input"), abs=1e-4)
    assert patched == pytest.approx(plain(model, module, lambda x: torch.zeros_like(x) + V, of="input"), abs=1e-4)


@pytest.mark.parametrize("family", EMBEDS)
def test_an_embedding_narrower_than_the_stream_takes_vectors_of_its_own_width_and_refuses_others(family: str) -> None:
    model = EMBEDS[family]()
    session = iw.open(model, tiny_models.tokenizer())
    session.ask(IDS, 11, 13)

    def answered(edit: iw.Steer | iw.Patch) -> float:
        session.set(edit)
        return session.answer.metric

    for wide in (iw.Steer("embed", V, 1.0), iw.Patch("embed", torch.zeros(4, 32))):
        with pytest.raises(InterventionError, match=rf"32\b.*embed.*{NARROW}"):
            answered(wide)
    steered = answered(iw.Steer("embed", V[:NARROW], 1.5, positions="all"))
    session.close()
    assert steered == pytest.approx(
        plain(model, model.get_input_embeddings(), lambda x: x + 1.5 * V[:NARROW], of="output"), abs=1e-4
    )


def test_a_model_whose_mlp_reads_where_nobody_sees_it_says_so() -> None:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    mlp = session.model.anatomy.layers[1].mlp
    assert mlp is not None
    object.__setattr__(mlp, "entry", None)
    with pytest.raises(FeatureOffError, match=r"L1\.mlp\.in is off: what reads the MLP's input was not found"):
        session.set(iw.Steer("L1.mlp.in", V, 1.0))
    session.close()
