"""Compiled, wrapped, quantised, offloaded and half-precision models: an edit acts, and the model is as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.model.live import LiveModel, open_model
from tests.invariants import our_hooks
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w5 w9 w12 w5 w30 w7"
EDITS: list[Callable[[], Any]] = [
    lambda: iw.Ablate("L1H2", mode="zero"),
    lambda: iw.Steer("L0", torch.linspace(-1, 1, 32), 1.0),
    lambda: iw.Ablate("L1.mlp", mode="zero"),
]


def check(live: LiveModel, plain: torch.Tensor, tolerance: float) -> None:
    """Every edit acts, is proven by its receipt, equals the whole run by replay, and leaves the plain run as it was."""
    question = iw.Session(live)
    try:
        assert torch.allclose(live.run(PROMPT).logits.float(), plain.float(), atol=tolerance)
        asked = question.ask(PROMPT, target="w11", foil="w13").first
        for make in EDITS:
            run = live.run(PROMPT, [make()])
            assert run.receipts[0].state == "acted", run.receipts[0]
            assert not torch.allclose(run.logits.float(), plain.float(), atol=1e-3)
            row = live.answer(asked, [make()]).logits
            assert torch.allclose(row, run.logits[-1].float(), atol=max(tolerance, 2e-4)), make().label
            assert torch.equal(live.run(PROMPT).logits, live.run(PROMPT).logits)
        assert torch.allclose(live.run(PROMPT).logits.float(), plain.float(), atol=tolerance)
    finally:
        question.close()


def plain_logits(module: Any) -> torch.Tensor:
    ids = torch.tensor([[t.id for t in _tokens()]])
    with torch.no_grad():
        return module(ids).logits[0]


def _tokens() -> Any:
    from interp_widgets.model.question import Tokenizer

    return Tokenizer(tokenizer(), 61, None).encode(PROMPT)


@pytest.mark.parametrize("maker", [gpt2, llama], ids=["gpt2", "llama"])
@pytest.mark.case("A22")
def test_a_compiled_model_is_run_eagerly_and_its_edits_act(maker: Callable[[], Any]) -> None:
    module = maker()
    plain = plain_logits(module)
    compiled: Any = torch.compile(module, backend="eager")
    compiled(torch.tensor([[2, 3, 4]]))
    live = open_model(compiled, tokenizer())
    check(live, plain, 1e-5)
    assert torch.allclose(plain_logits(compiled), plain, atol=1e-5)
    assert our_hooks(module) == 0


@pytest.mark.case("A22")
def test_a_model_compiled_in_place_is_run_eagerly_and_its_own_call_under_interventions_is_refused() -> None:
    module = gpt2()
    plain = plain_logits(module)
    module.compile(backend="eager")
    module(torch.tensor([[2, 3, 4]]))
    live = open_model(module, tokenizer())
    session = iw.Session(live)
    session.ask(PROMPT, target="w11", foil="w13")
    session.set(iw.Ablate("L1H2", mode="zero"))
    with pytest.raises(iw.FeatureOffError, match="compiled"), session.applied():
        pass
    check(open_model(module, tokenizer()), plain, 1e-5)
    session.close()
    assert our_hooks(module) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.case("A12")
def test_half_precision_keeps_its_dtype_and_its_edits_act(dtype: torch.dtype) -> None:
    module = llama().to(dtype)
    plain = plain_logits(module)
    live = open_model(module, tokenizer())
    assert live.report.floor > 1e-4, "the noise floor of half precision is not that of float32"
    assert live.run(PROMPT, [EDITS[1]()]).logits.dtype == dtype
    check(live, plain, 1e-3 * float(plain.abs().max()) * 16)
    assert all(p.dtype == dtype for p in module.parameters())


@pytest.mark.case("A26")
def test_a_peft_wrapped_model_is_edited_with_its_adapter_on() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = peft.get_peft_model(llama(), config).eval()
    plain = plain_logits(module)
    live = open_model(module, tokenizer())
    check(live, plain, 1e-5)
    assert our_hooks(module) == 0


class TransformerBridge(torch.nn.Module):
    """What TransformerLens 4 makes of a model; `tests/peers` has the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.original_model = gpt2()

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # because that is its name there
        return self.original_model(input).logits


class Pipeline:
    """Holds a model, and is none."""

    def __init__(self) -> None:
        self.model = gpt2()


@pytest.mark.case("A26")
@pytest.mark.parametrize(
    ("make", "attribute"),
    [
        (lambda: torch.nn.DataParallel(gpt2()), "module"),
        (TransformerBridge, "original_model"),
        (Pipeline, "model"),
    ],
    ids=["DataParallel", "TransformerLens", "a pipeline"],
)
def test_what_only_holds_a_model_is_refused_with_where_the_model_is_and_no_hook_is_left(
    make: Callable[[], Any], attribute: str
) -> None:
    holder = make()
    with pytest.raises(iw.ModelRefusedError, match=rf"\.{attribute}\b"):
        iw.open(holder, tokenizer())
    module = getattr(holder, attribute)
    assert our_hooks(module) == 0
    plain = plain_logits(module)
    check(open_model(module, tokenizer()), plain, 1e-5)


@pytest.mark.case("A26")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
def test_a_model_of_which_other_processes_have_a_part_is_refused_before_any_hook() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        module = fully_shard(gpt2(), mesh=init_device_mesh("cpu", (2,)))
        with pytest.raises(iw.ModelRefusedError, match="spread over 2 processes"):
            iw.open(module, tokenizer())
        assert our_hooks(module) == 0
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.case("A25")
def test_an_int8_model_is_edited_through_its_quantised_projections() -> None:
    quantisation = pytest.importorskip("torchao.quantization")
    module = llama()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantisation.quantize_(module, quantisation.Int8WeightOnlyConfig())
    plain = plain_logits(module)
    live = open_model(module, tokenizer())
    check(live, plain, 1e-4)
    assert our_hooks(module) == 0


@pytest.mark.case("A23")
def test_an_offloaded_model_never_lets_absent_weights_into_arithmetic() -> None:
    accelerate = pytest.importorskip("accelerate")
    module = gpt2()
    plain = plain_logits(module)
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in module.parameters())
    live = open_model(module, tokenizer())
    assert not live.readout.direct
    check(live, plain, 1e-5)
    assert all(p.is_meta for p in module.parameters())
    assert our_hooks(module) == 0


@pytest.mark.case("A23")
def test_every_table_of_an_offloaded_model_is_that_of_the_same_model_in_memory() -> None:
    accelerate = pytest.importorskip("accelerate")
    tables: list[list[Any]] = []
    for offloaded in (False, True):
        module = gpt2()
        if offloaded:
            accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
        session = iw.open(module, tokenizer())
        session.ask(PROMPT, "w11", "w13")
        key = session.model.fingerprint()
        tables.append([
            iw.head_effects(session, mode="zero").effects,
            iw.attribute(session, steps=4).scores,
            [token.probability for token in session.model.generate(PROMPT, [EDITS[1]()], 5)],
        ])  # fmt: skip
        assert session.model.fingerprint() == key, "every forward makes it another model"
        session.close()
    for own, brought in zip(*tables, strict=True):
        assert brought == pytest.approx(own, abs=1e-5)
