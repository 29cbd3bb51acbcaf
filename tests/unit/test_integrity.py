"""Whatever goes wrong in a run, the model, its user's hooks and everything around it stay as they were (group A)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.attribution import attribute
from interp_widgets.methods.head_effects import head_effects
from interp_widgets.model import gate
from interp_widgets.widgets import channel
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.worker import worker_of
from tests.invariants import compare, our_hooks, photograph
from tests.unit import tiny_models
from tests.unit.conftest import Bench
from tests.unit.page import PROMPT

WRONG: list[tuple[Any, str]] = [
    (lambda: iw.Ablate("L9H0"), "L9"),
    (lambda: iw.Ablate("L1H99"), "H99"),
    (lambda: iw.Ablate("L-1H0"), "L-1H0"),
    (lambda: iw.Ablate(5), "5"),  # pyright: ignore[reportArgumentType]
    (lambda: iw.Ablate(True), "True"),  # pyright: ignore[reportArgumentType]
    (lambda: iw.Ablate("L" + "9" * 400 + "H0"), "9"),
    (lambda: iw.Steer("L1", [1.0] * 31), "31"),
    (lambda: iw.Steer("L1", []), ""),
    (lambda: iw.Steer("L1", [float("nan")] * 32), "finite"),
]


def fail(_x: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("own code gave up")


@pytest.mark.case("A01")
def test_own_code_that_raises_at_a_layer_shows_its_error_and_no_number(bench: Bench) -> None:
    bench.page.calm()
    bench.session.set(iw.Edit("L1", fail, name="mine"))
    bench.page.wait(lambda: bench.page.state.get("error"), "the error")
    assert "own code gave up" in bench.page.state["error"]
    assert "the edit 'mine' at L1" in bench.page.state["error"], "of several, which one it was is not said"
    with pytest.raises(ZeroDivisionError) as caught:
        _ = bench.session.answer
    assert (caught.traceback[-1].name, caught.value.__notes__) == ("fail", ["raised by the edit 'mine' at L1"])
    assert bench.page.state["answer"] is None, "a result is shown as if it were good"
    assert bench.page.state["busy"] is False
    bench.session.clear()
    bench.page.calm()
    assert bench.page.state["error"] is None
    assert bench.page.metric == pytest.approx(bench.plain(), abs=1e-5)


@pytest.mark.case("A02")
def test_an_error_of_the_model_itself_keeps_its_type_and_its_line(bench: Bench) -> None:
    attention, original = bench.model.transformer.h[1].mlp, bench.model.transformer.h[1].mlp.forward

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise ArithmeticError("inside the model")

    bench.page.calm()
    attention.forward = broken
    bench.session.refresh()
    with pytest.raises(ArithmeticError, match="inside the model") as caught:
        _ = bench.session.answer
    assert caught.traceback[-1].name == "broken"
    bench.page.wait(lambda: bench.page.state.get("error"), "the error on the page")
    assert "inside the model" in bench.page.state["error"]
    attention.forward = original
    del attention.forward
    bench.session.refresh()


@pytest.mark.case("A03", "A04", "A05", "A11")
def test_of_several_interventions_one_wrong_one_installs_none_and_says_why(bench: Bench) -> None:
    before, hooks = (bench.session.revision, bench.session.interventions), our_hooks(bench.model)
    for wrong, words in WRONG:
        with pytest.raises((iw.InterpError, TypeError)) as caught:
            bench.session.set(iw.Ablate("L0H0", mode="zero"), iw.Ablate("L1H0", mode="zero"), wrong())
        assert words in str(caught.value)
        assert (bench.session.revision, bench.session.interventions) == before
        assert our_hooks(bench.model) == hooks


@pytest.mark.case("A05")
def test_one_head_twice_is_refused_and_all_heads_of_all_layers_are_finite(bench: Bench) -> None:
    with pytest.raises(iw.InterventionError, match="L1H2 is named twice"):
        bench.session.set(iw.Ablate("L1H2", mode="zero"), iw.Ablate("L1H2", mode="zero"))
    bench.session.set(*(iw.Ablate(f"L{layer}H{head}", mode="zero") for layer in range(3) for head in range(4)))
    every = bench.session.answer
    assert abs(every.metric) < 1e6
    assert every.metric != every.plain_metric
    assert {receipt.state for receipt in every.receipts} <= {"acted", "cannot reach"}


@pytest.mark.case("A06")
def test_two_interventions_at_one_place_act_in_their_order_bit_for_bit(bench: Bench) -> None:
    push = iw.Steer("L1", torch.linspace(-1, 1, 32), 2.0, positions="all")
    cut = iw.Steer("L1", torch.ones(32), 1.0, mode="project_out", positions="all")
    read = [bench.session.model.run(PROMPT, order, read=["L1"])["L1"] for order in ((push, cut), (cut, push))]
    x = bench.session.model.run(PROMPT, (), read=["L1"])["L1"]
    v, unit = torch.linspace(-1, 1, 32), torch.ones(32) / torch.ones(32).square().sum().sqrt()

    def projected(y: torch.Tensor) -> torch.Tensor:
        return y - (y * unit).sum(-1, keepdim=True) * unit

    assert torch.equal(read[0], projected(x + 2.0 * v))
    assert torch.equal(read[1], projected(x) + 2.0 * v)
    assert not torch.equal(read[0], read[1])


@pytest.mark.case("A09")
@pytest.mark.parametrize("first", ["transformers", "ours"])
def test_recorded_hidden_states_are_what_the_next_block_got_whoever_hooked_first(first: str) -> None:
    model = tiny_models.gpt2()
    ids = torch.tensor([[5, 9, 12]])
    if first == "transformers":
        with torch.no_grad():
            model(ids, output_hidden_states=True)
    session = iw.open(model, tiny_models.tokenizer())
    session.set(iw.Steer("L0", torch.ones(32), 3.0, positions="all"))
    with torch.no_grad(), session.applied():
        states = model(ids, output_hidden_states=True).hidden_states
    read = session.model.run([5, 9, 12], session.interventions, read=["L0"])["L0"]
    assert torch.allclose(states[1][0], read, atol=1e-5), "the steered stream is invisible in hidden_states"
    session.close()


@pytest.mark.case("A14")
def test_a_users_hook_that_writes_in_place_does_not_reach_what_we_read(bench: Bench) -> None:
    first = bench.session.model.run(PROMPT, (), read=["L0"])["L0"]
    copy = first.clone()

    def wipe(_module: Any, args: Any) -> None:
        args[0].mul_(0)

    handle = bench.model.transformer.h[1].register_forward_pre_hook(wipe)
    wiped = bench.session.model.run(PROMPT, (), read=["L0"])["L0"]
    handle.remove()
    assert torch.equal(wiped, copy), "what was read is the tensor that the hook wrote over, not a copy of it"
    assert torch.equal(first, copy)


@pytest.mark.case("A07", "A14")
def test_a_users_hook_that_writes_in_place_acts_once_in_every_answer(bench: Bench) -> None:
    def halve(_module: Any, args: Any) -> None:
        args[0].mul_(0.5)

    bench.page.calm()
    handle = bench.model.transformer.h[2].register_forward_pre_hook(halve)
    bench.session.set(iw.Ablate("L1H2", mode="zero"))
    expected = bench.zeroed(1, 2)
    for _ in range(3):
        bench.session.refresh()
        assert bench.session.answer.metric == pytest.approx(expected, abs=1e-4)
        bench.page.calm()
        assert bench.page.metric == pytest.approx(expected, abs=1e-4)
    handle.remove()
    bench.session.clear()


@pytest.mark.case("A16", "A17", "A18", "A19", "F07")
def test_attribution_in_any_mode_of_the_caller_is_the_same_and_moves_no_gradient(bench: Bench) -> None:
    expected = iw.attribute(bench.session, steps=4).scores
    for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            again = iw.attribute(bench.session, steps=4).scores
            state = bench.session.model.run(PROMPT, (), read=["L0"])["L0"]
        assert again.tolist() == expected.tolist()
        assert not state.is_inference()
        assert not state.requires_grad
    weight = torch.ones(32, requires_grad=True)
    (state @ weight).sum().backward()
    assert weight.grad is not None
    bench.model.requires_grad_(requires_grad=False)
    assert iw.attribute(bench.session, steps=4).scores.tolist() == expected.tolist()
    bench.model.requires_grad_(requires_grad=True)
    bench.model.transformer.h[0].mlp.c_fc.weight.requires_grad_(requires_grad=False)


@pytest.mark.case("A20", "A21")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_gradient_checkpointing_changes_no_attribution_and_tied_weights_stay_tied(bench: Bench) -> None:
    expected = iw.attribute(bench.session, steps=4).scores
    pointer = bench.model.lm_head.weight.data_ptr()
    bench.model.gradient_checkpointing_enable()
    again = iw.attribute(bench.session, steps=4).scores
    bench.model.gradient_checkpointing_disable()
    bench.model.disable_input_require_grads()  # transformers' own hook, which came with it
    assert again == pytest.approx(expected, abs=1e-5)
    assert bench.model.lm_head.weight.data_ptr() == pointer == bench.model.transformer.wte.weight.data_ptr()


@pytest.mark.case("A27")
def test_a_model_moved_to_another_dtype_between_two_requests_is_answered_in_the_new_one() -> None:
    model = tiny_models.gpt2()
    session = iw.open(model, tiny_models.tokenizer())
    session.ask(PROMPT, "w11", "w13")
    single = session.answer.metric
    model.to(torch.bfloat16)
    half = session.answer.metric
    assert half != single
    assert half == pytest.approx(single, abs=1.0)
    with torch.no_grad():
        logits = model(torch.tensor([list(session.question.first.ids)])).logits[0, -1].float()  # pyright: ignore[reportOptionalMemberAccess]
    assert half == pytest.approx(float(logits[11] - logits[13]), abs=0.1)
    session.close()


def to_half(model: Any) -> None:
    model.to(torch.bfloat16)


def load_others(model: Any) -> None:
    model.load_state_dict({k: v * 1.2 for k, v in model.state_dict().items()})


def train_a_step(model: Any) -> None:
    loss = model(torch.tensor([[2, 3, 4]])).logits.square().mean()
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    torch.optim.SGD(parameters, 0.1).step()


CHANGES = [to_half, load_others, train_a_step]


@pytest.mark.case("A27", "A28")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("asked", ["answer", "run", "attribution", "effects"])
def test_a_model_that_changes_while_it_runs_gives_a_sentence_and_no_number_of_two_models(
    change: Callable[[Any], None], asked: str
) -> None:
    model = tiny_models.gpt2()
    session = iw.open(model, tiny_models.tokenizer())
    question = session.ask(PROMPT, "w11", "w13")
    left = [change]

    def meanwhile(x: torch.Tensor) -> torch.Tensor:
        if left:
            other = threading.Thread(target=left.pop(), args=(model,))
            other.start()
            other.join()
        return x.clone()

    live, edits = session.model, [iw.Edit("L1", meanwhile, name="meanwhile")]
    ask: dict[str, Callable[[], object]] = {
        "answer": lambda: live.answer(question.first, edits),
        "run": lambda: live.run(PROMPT, edits),
        "attribution": lambda: attribute(live, question, edits),
        "effects": lambda: head_effects(live, question, edits, mode="zero"),
    }
    before = session.answer.metric
    with pytest.raises(iw.ModelChangedError, match="changed"):
        ask[asked]()
    assert live.run(PROMPT, edits).receipts[0].fired == 1, "the next one works"
    with torch.no_grad():
        logits = model(torch.tensor([list(question.first.ids)])).logits[0, -1].float()
    assert session.answer.metric == pytest.approx(float(logits[11] - logits[13]), abs=0.1)
    assert session.answer.metric != before
    session.close()


@pytest.mark.case("A27", "A28")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_text_goes_on_with_the_cache_of_one_model_only(change: Callable[[Any], None], use_cache: bool) -> None:
    model = tiny_models.gpt2()
    session = iw.open(model, tiny_models.tokenizer())
    live = session.model
    text = live.generate(PROMPT, (), 8, use_cache, ignore_eos=True)
    kept = [next(text).id for _ in range(3)]
    change(model)
    if use_cache:
        with pytest.raises(iw.ModelChangedError, match="changed"):
            next(text)
        assert ([token.id for token in text.tokens], text.ended) == (kept, "error")
    else:  # every step reads the whole text: the next token is the changed model's
        assert next(text).id == next(live.generate(PROMPT, (), 1, use_cache, continued=kept, ignore_eos=True)).id
    session.close()


@pytest.mark.case("A24", "A27")
@pytest.mark.parametrize("part", ["transformer.h.1.mlp", ""])
def test_weights_that_are_moved_to_the_meta_device_give_a_sentence_and_no_number_of_whatever_is_in_memory(
    part: str,
) -> None:
    model = tiny_models.gpt2()
    session = iw.open(model, tiny_models.tokenizer())
    question = session.ask(PROMPT, "w11", "w13")
    model.get_submodule(part).to("meta")
    for ask in (
        lambda: session.answer,
        lambda: session.model.run(PROMPT),
        lambda: attribute(session.model, question),
        lambda: head_effects(session.model, question, mode="zero"),
        lambda: next(session.model.generate(PROMPT)),
    ):
        with pytest.raises(iw.ModelChangedError, match="meta device"):
            ask()
    session.close()


@pytest.mark.case("A28")
def test_a_cell_that_trains_the_model_gives_the_page_another_answer_though_nobody_asked(bench: Bench) -> None:
    bench.page.calm()
    state, before = {k: v.clone() for k, v in bench.model.state_dict().items()}, bench.page.metric
    bench.model.load_state_dict({k: v * 1.1 for k, v in state.items()})
    assert bench.page.metric == before
    channel.look_all()
    bench.page.wait(lambda: bench.page.metric not in (None, before), "another answer")
    bench.page.calm()
    assert bench.page.metric == pytest.approx(bench.plain(), abs=1e-4)
    revision = bench.session.revision
    channel.look_all()
    assert worker_of(bench.session.model).wait(5)
    assert bench.session.revision == revision, "a look at a model that is as it was is a change"
    bench.model.load_state_dict(state)
    channel.look_all()
    bench.page.wait(lambda: bench.page.metric == before, "the answer from before")


@pytest.mark.case("A27")
def test_a_model_that_a_cell_changes_under_a_view_is_said_and_answered_when_the_cell_has_ended(bench: Bench) -> None:
    bench.page.calm()
    state, inside, go = (
        {k: v.clone() for k, v in bench.model.state_dict().items()},
        threading.Event(),
        threading.Event(),
    )

    def slow(x: torch.Tensor) -> torch.Tensor:
        inside.set()
        go.wait(10)
        return x.clone()

    bench.session.set(iw.Edit("L1", slow, name="slow"))
    assert inside.wait(10)
    bench.model.load_state_dict({k: v * 1.1 for k, v in state.items()})
    go.set()
    bench.page.wait(lambda: "changed" in str(bench.page.state.get("error")), "the sentence")
    assert bench.page.metric is None, "a number of two models is shown"
    channel.look_all()
    bench.page.wait(lambda: bench.page.metric is not None, "the answer of the new model")
    assert bench.page.metric == pytest.approx(bench.plain(), abs=1e-4)
    bench.session.clear()
    bench.model.load_state_dict(state)
    channel.look_all()


@pytest.mark.case("A28")
def test_weights_that_are_loaded_while_a_view_is_open_give_another_answer_everywhere(bench: Bench) -> None:
    bench.page.calm()
    before, state = bench.session.answer.metric, {k: v.clone() for k, v in bench.model.state_dict().items()}
    other = {
        k: v + 0.05 * torch.sin(torch.arange(v.numel()).view(v.shape)) if v.is_floating_point() else v
        for k, v in state.items()
    }
    bench.model.load_state_dict(other)
    after = bench.session.answer.metric
    assert after != before
    assert after == pytest.approx(bench.plain(), abs=1e-4)
    bench.page.calm()
    assert bench.page.metric == after, "the page still shows the answer of the old weights"
    bench.model.load_state_dict(state)
    assert bench.session.answer.metric == before


@pytest.mark.case("A13")
def test_no_module_of_ours_edits_a_parameter() -> None:
    import re
    from pathlib import Path

    package = Path(iw.__file__).parent
    # Training writes weights; what opens a model of the user's never does.
    files = [p for folder in ("model", "methods", "widgets") for p in (package / folder).rglob("*.py")]
    edits = re.compile(
        r"\.weight(\.data)?(\[[^\]]*\])?\s*([-+*/]?=)(?!=)|\.weight\.\w+_\(|\.(copy|mul|add|zero)_\(|\.backward\("
    )
    found = [
        f"{p.name}:{n}"
        for p in files
        for n, line in enumerate(p.read_text("utf-8").splitlines(), 1)
        if edits.search(line)
    ]
    assert edits.search("w.weight -= d"), "the search finds nothing"
    assert found == []


@pytest.mark.case("A34")
def test_what_a_view_generates_draws_no_random_number_of_the_users(bench: Bench) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    bench.page.drag(1.0, final=True)
    bench.page.calm()
    texts = bench.page.panel(bench.sliders)["data"]["continuation"]["edited"]
    assert len(texts) == 6
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.case("F16")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        MemoryError("no memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_memory_that_runs_out_is_said_and_the_next_smaller_wish_works(bench: Bench, error: BaseException) -> None:
    import sys

    def hungry(_x: torch.Tensor) -> torch.Tensor:
        raise error

    bench.page.calm()
    bench.session.set(iw.Edit("L2", hungry, name="hungry"))
    bench.page.wait(lambda: bench.page.state.get("error"), "the sentence")
    assert "memory" in bench.page.state["error"]
    assert "try again" in bench.page.state["error"]
    assert getattr(sys, "last_exc", None) is None, "the exception, and with it activations, is kept"
    bench.session.clear()


@pytest.mark.case("F17")
def test_a_gpu_that_has_lost_its_state_is_said_with_what_to_do(bench: Bench) -> None:
    def asserted(_x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    bench.page.calm()
    bench.session.set(iw.Edit("L2", asserted, name="asserted"))
    bench.page.wait(lambda: bench.page.state.get("error"), "the sentence")
    assert "restart the kernel" in bench.page.state["error"]
    bench.session.clear()


@pytest.mark.case("A30")
def test_ten_thousand_random_interventions_many_of_them_wrong_leave_nothing() -> None:
    import random

    rng, model = random.Random(4), tiny_models.gpt2(n_layer=2, n_embd=16, n_head=2)
    before = photograph(model)
    session = iw.open(model, tiny_models.tokenizer())
    session.ask("w5 w9", "w11", "w13")
    plain = session.answer.metric
    failed = active = wrong = 0
    ids = torch.tensor([[5, 9]])
    with torch.no_grad():
        logits = model(ids).logits
    for n in range(10_000):
        try:
            session.model.answer(session.question.first, [random_intervention(rng)])  # pyright: ignore[reportOptionalMemberAccess]
        except (iw.InterpError, ZeroDivisionError, TypeError, ValueError, OverflowError):
            failed += 1
        active += gate.active() is not None
        if n % 20 == 0:
            with torch.no_grad():
                wrong += not torch.equal(model(ids).logits, logits)
    print(f"random interventions: 10000, {failed} of them failed, {active} active afterwards, {wrong} forwards wrong")
    assert failed >= 3000
    assert (active, wrong) == (0, 0)
    assert session.answer.metric == plain
    session.close()
    compare(before, photograph(model))
    assert our_hooks(model) == 0


def random_intervention(rng: Any) -> Any:
    layer, head = rng.choice([0, 1, 1, 5, -1]), rng.choice([0, 1, 7])
    kind = rng.randrange(4)
    if kind == 0:
        return iw.Ablate(f"L{layer}H{head}", mode=rng.choice(["zero", "zero", "nothing"]))
    if kind == 1:
        vector = [rng.choice([0.0, 1.0, -2.0])] * rng.choice([16, 16, 17])
        return iw.Steer(f"L{layer}", vector, rng.choice([0.0, 1.0, 1e30, float("nan")]), name="v")
    if kind == 2:
        return iw.Edit(
            f"L{abs(layer)}", rng.choice([fail, lambda x: x * 2, lambda x: x[:1], lambda x: None]), name="mine"
        )
    return iw.Patch(f"L{layer}", rng.choice(["w3 w4", "w3", ""]), positions=rng.choice(["all", 0, 9]))


def test_interventions_that_are_removed_without_a_finally_stay_when_they_fail() -> None:
    """The negative control: a naive intervention, one hook per call, fails the same figure within fifty."""
    model = tiny_models.gpt2(n_layer=2, n_embd=16, n_head=2)
    for n in range(50):
        handle = model.transformer.h[0].register_forward_hook(lambda _m, _a, out, n=n: fail(out) if n % 3 == 0 else out)
        try:
            model(torch.tensor([[5, 9]]))
            handle.remove()
        except ZeroDivisionError:
            pass
    assert len(model.transformer.h[0]._forward_hooks) > 0


def test_the_mirror_of_a_session_is_one(bench: Bench) -> None:
    assert mirror_of(bench.session) is mirror_of(bench.session)
