"""The session is the one truth: its history, its answer, and what it writes down about itself."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import interp_widgets as iw
from tests.invariants import our_hooks, untouched
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w5 w9 w12 w5 w30 w7"
OTHERS = ["w3 w4 w8 w11", "w20 w21 w22"]


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    module = {"gpt2": gpt2, "llama": llama}[request.param]()
    with untouched(module):
        opened = iw.open(module, tokenizer())
        opened.reference = OTHERS
        opened.ask(PROMPT, target="w11", foil="w13")
        yield opened
        opened.close()
        assert our_hooks(module) == 0


def vector(session: iw.Session, name: str = "push") -> iw.SteeringVector:
    made = iw.steering_vector(session, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], "L1", name=name)
    session.add_vector(made)
    return made


def test_the_answer_is_the_logit_difference_of_the_module_itself(session: iw.Session) -> None:
    question = session.question
    assert question is not None
    with torch.no_grad():
        logits = session.model.module(torch.tensor([question.first.ids])).logits[0, -1]
    target, foil = question.first.target[0].id, question.first.foil[0].id
    assert session.answer.metric == pytest.approx(float(logits[target] - logits[foil]), abs=1e-5)
    assert session.answer.metric == session.answer.plain_metric
    assert session.answer.rank == int((logits > logits[target]).sum()) + 1
    assert session.answer.target_probability == pytest.approx(float(logits.softmax(-1)[target]), abs=1e-6)
    assert session.answer.kl == 0.0


def test_a_toggle_and_back_restores_the_number_exactly(session: iw.Session) -> None:
    plain = session.answer.metric
    session.toggle("L1H2")
    edited = session.answer
    assert edited.metric != plain
    assert edited.plain_metric == plain
    assert [r.state for r in edited.receipts] == ["acted"]
    session.toggle("L1H2")
    assert session.answer.metric == plain
    assert session.interventions == ()


def test_undo_and_redo_walk_through_the_states(session: iw.Session) -> None:
    numbers = [session.answer.metric]
    for site in ("L0H1", "L1.mlp", "L2H3"):
        session.toggle(site, mode="zero")
        numbers.append(session.answer.metric)
    back = [session.answer.metric for _ in range(3) if session.undo()]
    assert back == numbers[2::-1]
    forward = [session.answer.metric for _ in range(3) if session.redo()]
    assert forward == numbers[1:]
    assert not session.redo()


def test_a_drag_is_one_step_of_the_history(session: iw.Session) -> None:
    vector(session)
    steps = len(session.history.moments)
    for value in (0.1, 0.2, 0.3):
        session.strength("push", value, final=False)
    session.strength("push", 0.4)
    assert len(session.history.moments) == steps + 1
    session.strength("push", 0.0)
    assert session.answer.metric == session.answer.plain_metric
    assert session.answer.receipts[0].state == "idle"


def test_every_change_raises_the_revision_and_is_told(session: iw.Session) -> None:
    told: list[int] = []
    stop = session.listen(lambda s, what: told.append(s.revision))
    session.toggle("L0H0")
    session.clear()
    session.undo()
    assert told == sorted(set(told))
    assert len(told) == 3
    stop()
    session.redo()
    assert len(told) == 3


def test_a_refusal_names_the_example_only_where_there_are_several(session: iw.Session) -> None:
    with pytest.raises(iw.InterpError, match=r"^The target 'w5 w6' is 2 tokens"):
        session.ask(PROMPT, target="w5 w6")
    with pytest.raises(iw.InterpError, match=r"^Example 1: The target 'w5 w6'"):
        session.ask([iw.Example(PROMPT, "w5"), iw.Example(PROMPT, "w5 w6")])


def test_a_refused_wish_changes_nothing(session: iw.Session) -> None:
    vector(session)
    session.toggle("L0H0")
    before = (session.revision, session.interventions, session.question)
    wrong: list[Any] = [
        lambda: session.ask(""),
        lambda: session.ask(PROMPT, target="w5 w6"),
        lambda: session.ask(PROMPT, target="nowhere"),
        lambda: session.ask(PROMPT, target="w5", foil="w5"),
        lambda: session.ask(" ".join(["w5"] * 65)),
        lambda: session.ask(PROMPT, target="w5", position=6),
        lambda: session.toggle("L9H0"),
        lambda: session.toggle("L0H9"),
        lambda: session.strength("push", float("nan")),
        lambda: session.strength("nobody", 1.0),
        lambda: session.set(iw.Ablate("L0H1"), iw.Steer("L1", [1.0])),
        lambda: session.set_mode("median"),  # pyright: ignore[reportArgumentType]
    ]
    for wish in wrong:
        with pytest.raises(iw.InterpError) as error:
            wish()
        assert str(error.value).endswith(
            (
                ".",
                "?",
                "'",
            )
        ) or "'" in str(error.value)
    assert (session.revision, session.interventions, session.question) == before


def test_without_a_target_the_models_own_top_token_is_the_target(session: iw.Session) -> None:
    question = session.ask(PROMPT)
    assert question.first.target[0].id == session.answer.top[0].id
    assert question.label == "logit over the mean logit"


def test_a_prompt_set_gives_the_mean_and_its_interval(session: iw.Session) -> None:
    examples = [
        iw.Example(PROMPT, "w11", "w13"),
        iw.Example("w2 w3 w4", "w11", "w13"),
        iw.Example("w8 w8", "w12", "w13"),
    ]
    session.ask(examples)
    answer = session.answer
    assert len(answer.values) == 3
    assert answer.metric == pytest.approx(sum(answer.values) / 3)
    assert answer.interval is not None and answer.interval > 0
    session.ask(PROMPT, "w11", "w13")
    assert session.answer.metric == pytest.approx(answer.values[0], abs=1e-6)
    assert session.answer.interval is None


def test_several_targets_are_read_by_logsumexp(session: iw.Session) -> None:
    session.ask(PROMPT, target=["w11", "w12"], foil="w13")
    question = session.question
    assert question is not None
    row = session.model.answer(question.first).logits
    expected = row[list(question.first.metric.target)].logsumexp(-1) - row[question.first.metric.foil[0]]
    assert session.answer.metric == pytest.approx(float(expected), abs=1e-6)


def test_a_metric_of_ones_own_is_any_function_of_the_logits(session: iw.Session) -> None:
    session.ask(PROMPT, metric=lambda logits: float(logits.max()))
    assert session.answer.metric == pytest.approx(float(session.model.answer(session.question.first).logits.max()))  # pyright: ignore[reportOptionalMemberAccess]


def test_the_users_own_call_runs_under_the_interventions_in_this_context_only(session: iw.Session) -> None:
    module: Any = session.model.module
    ids = torch.tensor([session.question.first.ids])  # pyright: ignore[reportOptionalMemberAccess]
    session.set(iw.Ablate("L1H2", mode="zero"), iw.Steer("L0", torch.ones(32), 0.5))
    with torch.no_grad():
        plain = module(ids).logits
        with session.applied() as receipts:
            inside = module(ids).logits
        assert torch.equal(module(ids).logits, plain)
    assert torch.allclose(inside[0], session.model.run(PROMPT, session.interventions).logits, atol=1e-5)
    assert [r.state for r in receipts] == ["acted", "acted"]


def test_the_users_own_generate_is_edited_at_every_position_once(session: iw.Session) -> None:
    module: Any = session.model.module
    ids = torch.tensor([session.question.first.ids])  # pyright: ignore[reportOptionalMemberAccess]
    session.set(iw.Steer("L1", torch.linspace(-1, 1, 32) * 3, 1.0, positions="all"))
    with session.applied():
        cached = module.generate(
            ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(ids), pad_token_id=0
        )
    with session.applied():
        fresh = module.generate(
            ids, max_new_tokens=6, do_sample=False, use_cache=False, attention_mask=torch.ones_like(ids), pad_token_id=0
        )
    assert cached.tolist() == fresh.tolist()
    ours = [t.id for t in session.model.generate(PROMPT, session.interventions, 6, ignore_eos=True)]
    assert cached[0, ids.shape[1] :].tolist() == ours


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_the_script_of_plain_torch_hooks_gives_the_same_number(session: iw.Session, mode: Any) -> None:
    session.set(
        iw.Ablate("L1H2", mode=mode, positions=[1, 4]),
        iw.Ablate("L0.mlp", mode=mode),
        iw.Ablate("L0.heads", mode=mode, positions=-1),
        iw.Ablate("L2.attn", mode=mode),
        iw.Ablate("L1.mlp.7", mode=mode),
        iw.Steer("L1", torch.ones(32), 0.3),
        iw.Steer("L0", torch.linspace(-1, 1, 32), 1.0, mode="project_out"),
        iw.Steer("embed", torch.ones(32), 0.1),
        iw.Patch("L2.pre", "w1 w2 w3 w4 w5 w6", positions=[0, 2]),
    )
    scope: dict[str, Any] = {"model": session.model.module}
    exec(session.to_code("torch"), scope)
    assert scope["metric"] == pytest.approx(session.answer.metric, abs=1e-4)
    assert "interp" not in session.to_code("torch")


def test_a_session_written_as_json_comes_back_the_same(session: iw.Session) -> None:
    session.set(
        iw.Ablate("L1H2", reference=OTHERS, positions=iw.tokens("w5")),
        iw.Ablate("L0H1", mode="zero", positions="prompt[-2]"),
        iw.Steer("L1", torch.linspace(0, 1, 32), -0.5, positions=[1, 2], name="push"),
        iw.Patch("L0", "w1 w2 w3 w4 w5 w6", positions=slice(0, 2)),
    )
    again = iw.Session.from_json(session.to_json(), session.model.module, tokenizer())
    assert again.interventions == session.interventions
    assert again.question == session.question
    assert again.answer.metric == session.answer.metric
    again.close()


def test_own_code_is_never_loaded_from_json(session: iw.Session) -> None:
    session.set(iw.Edit("L0", lambda x: x, name="mine"))
    text = session.to_json()
    assert json.loads(text)["left_out"] == ["edit L0, mine (own code)"]
    with pytest.warns(UserWarning, match="own code is never loaded"):
        again = iw.Session.from_json(text, session.model.module, tokenizer())
    assert again.interventions == ()
    again.close()
    for bad in ("", "[]", '{"format": 99}', '{"format": 1, "interventions": [{"kind": "Edit"}]}'):
        with pytest.raises(iw.InterventionError):
            iw.Session.from_json(bad, session.model.module, tokenizer())


def test_a_second_session_on_a_module_shares_the_model_and_closes_alone(session: iw.Session) -> None:
    other = iw.open(session.model.module, tokenizer())
    assert other.model is session.model
    hooks = our_hooks(session.model.module)
    other.close()
    assert our_hooks(session.model.module) == hooks
    assert session.answer is not None


def test_a_closed_session_says_so(session: iw.Session) -> None:
    session.close()
    session.close()
    with pytest.raises(iw.ClosedError, match=r"iw\.open"):
        session.toggle("L0H0")


def test_a_forgotten_session_lets_the_model_go() -> None:
    module = gpt2()
    session = iw.open(module, tokenizer())
    session.ask(PROMPT, "w11", "w13")
    session.toggle("L0H0", mode="zero")
    assert session.answer.metric != 0
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    assert our_hooks(module) == 0
    freed = weakref.ref(module)
    del module
    gc.collect()
    assert freed() is None


def test_what_is_not_a_model_is_refused_in_a_sentence() -> None:
    with pytest.raises(iw.ModelRefusedError, match="tokenizer too"):
        iw.open(gpt2())
    with pytest.raises(iw.ModelRefusedError, match="not int"):
        iw.open(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(iw.ModelRefusedError, match="could not be loaded"):
        iw.open("no/such-model-anywhere")


def test_a_layer_of_heads_and_its_heads_are_switched_on_and_off_as_one_thing(session: iw.Session) -> None:
    def off() -> list[str]:
        return [i.site.name for i in session.interventions]

    heads = len(session.model.run(session.question.first.prompt, read=["L1.heads"])["L1.heads"][0])  # pyright: ignore[reportOptionalMemberAccess]
    session.set(iw.Ablate("L1.heads", "zero"), iw.Ablate("L0H1", "zero"), iw.Ablate("L1H0", "zero"))
    session.toggle("L1H2")
    assert off() == [*(f"L1H{h}" for h in range(1, heads) if h != 2), "L0H1", "L1H0"]
    assert all(i.mode == "zero" for i in session.interventions if isinstance(i, iw.Ablate))
    session.switch(["L1.heads"], off=False)
    assert off() == ["L0H1"]
    session.undo()
    session.undo()
    assert off() == ["L1.heads", "L0H1", "L1H0"]
    session.toggle("L1.heads")
    assert off() == ["L0H1"]


def numbers_shown(session: iw.Session) -> list[float | None]:
    """The number of every state of the history, as it is known without asking again."""
    return [session.history.metrics.get(i) for i in range(len(session.history.moments))]


def numbers_true(session: iw.Session) -> list[float]:
    """The number of every state of the history, by going back to each."""
    here, found = session.history.index, list[float]()
    while session.undo():
        pass
    for i in range(len(session.history.moments)):
        found.append(session.answer.metric if session.question is not None else float("nan"))
        session.redo()
        assert i <= session.history.index
    while session.history.index > here:
        session.undo()
    return found


def another_reference(session: iw.Session) -> None:
    session.reference = ["w33 w34 w35"]


def weights_seen_by_a_look(session: iw.Session) -> None:
    heavier(session)
    assert session.look()


def weights_seen_by_no_look(session: iw.Session) -> None:
    heavier(session)
    session.toggle("L2H1", "zero")
    session.compute(session.snapshot())  # as a worker does, which has not looked


def heavier(session: iw.Session) -> None:
    with torch.no_grad():
        session.model.anatomy.layers[1].module.get_parameter(
            next(name for name, _ in session.model.anatomy.layers[1].module.named_parameters())
        ).mul_(1.5)


@pytest.mark.parametrize("change", [another_reference, weights_seen_by_a_look, weights_seen_by_no_look])
def test_the_history_shows_no_number_that_coming_back_would_not_give(change: Any) -> None:
    session = iw.open(llama(), tokenizer())  # its own: the weights are changed
    session.reference = OTHERS
    session.ask(PROMPT, target="w11", foil="w13")
    session.set(iw.Ablate("L1H2", "mean"))
    assert session.answer.metric == numbers_shown(session)[-1]
    session.toggle("L0H0", "mean")
    before = [*numbers_shown(session)[:-1], session.answer.metric]
    mark = session.mark()
    told: list[list[float | None]] = []
    session.listen(lambda s, _what: told.append(numbers_shown(s)))
    change(session)
    shown = numbers_shown(session)
    assert told and (shown[2] is None or shown[2] != before[2])
    session.answer  # noqa: B018  # asked for, as a page does
    true = numbers_true(session)
    assert true[2] != pytest.approx(before[2], abs=1e-4), (
        "the number does not depend on what changed: the test shows nothing"
    )
    assert all(s is None or s == pytest.approx(t, abs=1e-5) for s, t in zip(shown, true, strict=True))
    session.rewind(mark)
    assert numbers_shown(session) == [None] * len(session.history.moments)
    session.close()


def test_a_refresh_forgets_the_numbers_of_earlier_states_too(session: iw.Session) -> None:
    session.set(iw.Ablate("L1H2", "zero"))
    assert session.answer.metric == numbers_shown(session)[-1]
    session.toggle("L0H0", "zero")
    session.refresh()
    assert numbers_shown(session) == [None] * len(session.history.moments)
    session.undo()
    assert session.answer.metric == numbers_shown(session)[session.history.index]
