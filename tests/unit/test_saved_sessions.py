"""A session that is saved and loaded, or printed and executed, gives the same number."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.model.live import open_model
from interp_widgets.moment import Entry
from tests.invariants import our_hooks
from tests.unit import tiny_models

PROMPT, CORRUPT = "w3 w4 w5 w6 w7 w8", "w20 w21 w22 w23 w24 w25"
TEMPLATE = (
    "{% for m in messages %}w50 {{ m['content'] }} w53 {% endfor %}{% if add_generation_prompt %}w50 w52{% endif %}"
)
SHIPPED = ("When Mary and John went to the store, John gave a drink to", " Mary", " John")
PUSH = torch.randn(32, generator=torch.Generator().manual_seed(3))


OWN = iw.Reference("own", tuple(" ".join(f"w{n + k}" for k in range(n)) for n in range(2, 13)))


def talking() -> Any:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def session() -> Iterator[iw.Session]:
    opened = iw.Session(open_model(tiny_models.gpt2(), talking(), reference=OWN))
    yield opened
    opened.close()
    assert our_hooks(opened.model.module) == 0


def loaded(session: iw.Session, text: str | None = None) -> iw.Session:
    return iw.Session.from_json(text or session.to_json(), session.model.module, session.model.tokenizer)


def executed(session: iw.Session, **own: Any) -> iw.Session:
    """The session that the printed code makes, with what a reader has to define put where the code says it with `...`."""
    code = session.to_code()
    for name, value in own.items():
        code = code.replace(f"{name} = ...", f"{name} = _{name}")
        own = own | {f"_{name}": value}
    scope: dict[str, Any] = {"model": session.model.module, "tokenizer": session.model.tokenizer, **own}
    exec(code, scope)
    found = scope["session"]
    assert isinstance(found, iw.Session)
    return found


def same(again: iw.Session, session: iw.Session) -> None:
    assert again.answer.metric == session.answer.metric
    assert again.answer.values == session.answer.values
    assert again.question == session.question
    assert again.interventions == session.interventions
    assert [r.positions for r in again.answer.receipts] == [r.positions for r in session.answer.receipts]
    again.close()


def one(prompt: Any = PROMPT, **more: Any) -> Callable[[iw.Session], object]:
    return lambda session: session.ask(prompt, "w9", "w10", **more)


def several(
    *prompts: str, corrupt: tuple[str | None, ...] = (None, None), **more: Any
) -> Callable[[iw.Session], object]:
    examples = [iw.Example(p, "w9", "w10", c) for p, c in zip(prompts, corrupt, strict=True)]
    return lambda session: session.ask(examples, **more)


def put_together(session: iw.Session) -> object:
    """A set that no single call of `ask` makes: each example is read in its own way."""
    asked = [
        session.ask(PROMPT, "w9", "w10", position=1, bos=True),
        session.ask("w3 w4 w9", ["w9", "w11"]),
        session.ask([{"role": "user", "content": "w20 w21"}], "w9", "w10"),
    ]
    return session.put(iw.Question(tuple(q.first for q in asked)))


MESSAGES = [{"role": "user", "content": "w20 w21"}, {"role": "user", "content": "w53 w30"}]
QUESTIONS: dict[str, Callable[[iw.Session], object]] = {
    "one prompt": one(),
    "a target list and no foil": lambda session: session.ask(PROMPT, ["w9", 1]),
    "the model's own target": lambda session: session.ask(PROMPT),
    "a position": one(position=2),
    "bos": one(bos=True),
    "bos and a position from the end": one(bos=True, position=-3),
    "ids": one([3, 0, 5, 1]),
    "a corrupt prompt": one(corrupt=CORRUPT),
    "a corrupt prompt and bos": one(corrupt=CORRUPT, bos=True),
    "a chat": one(MESSAGES[:1]),
    "a chat of several messages": one(MESSAGES),
    "a set whose second prompt is longer": several(PROMPT, "w3 w4 w7 w5 w6 w20 w21 w22"),
    "a set whose second prompt is shorter": several(PROMPT, "w3 w4"),
    "a set with bos": several(PROMPT, "w3 w4 w9 w5 w6 w7", bos=True),
    "a set at one position": several(PROMPT, "w3 w4 w9", position=1),
    "a set at one position from the end": several(PROMPT, "w3 w4 w9", position=-2),
    "a set with corrupt prompts": several(PROMPT, "w13 w4 w5 w3 w7 w8", corrupt=(CORRUPT, "w30 w31 w32 w33 w34 w35")),
    "a set put together": put_together,
}
ACTS: dict[str, tuple[iw.Ablate | iw.Steer, ...]] = {
    "nothing": (),
    "mean": (iw.Ablate("L1H2", "mean", positions=[0, 1]), iw.Ablate("L0.mlp")),
    "resample": (iw.Ablate("L1H2", "resample"),),
    "content": (iw.Steer("L1", PUSH, 2.0, name="push"),),
}


@pytest.mark.parametrize("acts", ACTS)
@pytest.mark.parametrize("asks", QUESTIONS)
def test_every_question_gives_the_same_number_when_it_is_loaded_and_when_its_code_is_executed(
    session: iw.Session, asks: str, acts: str
) -> None:
    QUESTIONS[asks](session)
    session.set(*ACTS[acts])
    number = session.answer.metric
    same(loaded(session), session)
    again = executed(session, push=PUSH)
    if acts == "content":  # the reader's own numbers have no name of their own
        assert again.answer.metric == number
        again.close()
    else:
        same(again, session)


def test_a_metric_of_ones_own_is_named_as_left_out_and_said_to_be_missing(session: iw.Session) -> None:
    def loudest(logits: torch.Tensor) -> float:
        return float(logits.max())

    session.ask(PROMPT, "w9", "w10", metric=loudest)
    session.set(iw.Edit("L1", lambda x: x * 2, positions=[1]))
    text = session.to_json()
    assert json.loads(text)["left_out"] == ["metric loudest (own code)", "edit L1, edit (own code)"]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again = loaded(session, text)
    assert {w.filename for w in told} == {__file__}
    never = "own code is never loaded; set it again by hand."
    assert [str(w.message) for w in told] == [
        f"metric loudest (own code): {never} Until then the answer is the logit difference.",
        f"edit L1, edit (own code): {never}",
    ]
    again.ask(PROMPT, "w9", "w10", metric=loudest)
    again.set(*session.interventions)
    same(again, session)


@pytest.mark.parametrize("question", ["one", "set"])
def test_own_functions_stand_in_the_code_by_names_that_it_asks_the_reader_to_define(
    session: iw.Session, question: str
) -> None:
    def loudest(logits: torch.Tensor) -> float:
        return float(logits.max())

    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    halve: Callable[[torch.Tensor], torch.Tensor] = lambda x: x / 2  # noqa: E731  # because a lambda is called <lambda>
    back: Callable[[torch.Tensor], torch.Tensor] = lambda x: -x  # noqa: E731  # because there are two of them
    prompt: Any = PROMPT if question == "one" else [iw.Example(PROMPT, "w9"), iw.Example("w3 w4", "w9")]
    session.ask(prompt, *(["w9"] if question == "one" else []), metric=loudest)
    session.set(
        iw.Edit("L1", double, positions=[1]), iw.Edit("L0", halve, name="half"), iw.Edit("L0.mlp", back, positions=-1)
    )
    with pytest.raises(NameError):
        executed(session)
    said = [line for line in session.to_code().splitlines() if line.startswith("#")]
    assert [line.split()[2] for line in said] == ["loudest", "double", "fn", "fn_2"]
    same(executed(session, loudest=loudest, double=double, fn=halve, fn_2=back), session)


REFERENCES: dict[str, iw.Reference] = {
    "one prompt": iw.Reference("one prompt", (CORRUPT,)),
    "six prompts": iw.Reference("6 prompts", tuple(f"w{n} w4" for n in range(4, 10))),
    "by position": iw.Reference("aligned", (CORRUPT, "w23 w24 w25 w21 w22 w26"), by_position=True),
    "pairs": iw.Reference(
        "pairs", (CORRUPT, "w5 w6 w7 w8 w9 w3"), pairs=(((3, 4), (5, 6)), ((3, 4, 5, 6, 7, 8), (9, 8, 7, 6, 5, 4)))
    ),
}


@pytest.mark.parametrize("mode", ["mean", "resample"])
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("whose", ["session", "intervention"])
def test_a_reference_is_the_same_when_it_is_loaded_and_when_its_code_is_executed(
    session: iw.Session, name: str, mode: Any, whose: str
) -> None:
    if (name, mode) == ("six prompts", "resample"):
        session.ask("w3 w4", "w9", "w10")
    else:
        session.ask(PROMPT, "w9", "w10")
    if whose == "session":
        session.reference = REFERENCES[name]
        session.set(iw.Ablate("L1H2", mode), iw.Ablate("L0.mlp", mode))
    else:
        other = iw.Reference("others", tuple(f"w{n} w4" for n in range(14, 20))) if mode == "mean" else REFERENCES[name]
        other = REFERENCES[name] if name == "by position" else other
        session.set(iw.Ablate("L1H2", mode, REFERENCES[name]), iw.Ablate("L0.mlp", mode, other))
    for again in (loaded(session), executed(session)):
        assert again.reference == session.reference
        same(again, session)


def test_the_shipped_models_own_reference_and_one_that_was_assigned_come_back() -> None:
    session = iw.open()
    session.ask(*SHIPPED, corrupt="When Mary and John went to the store, Mary gave a drink to")
    session.set(iw.Ablate("L1.heads"))
    same(iw.Session.from_json(session.to_json()), session)
    same(executed(session), session)
    session.ask(*SHIPPED)
    plain = session.answer.metric
    same(executed(session), session)
    session.reference = ["The cat sat on the mat."]
    assert session.answer.metric != plain
    same(iw.Session.from_json(session.to_json()), session)
    same(executed(session), session)
    session.close()


def test_another_reference_than_the_one_that_was_saved_with_is_said(session: iw.Session) -> None:
    session.ask(PROMPT, "w9", "w10")
    session.set(iw.Ablate("L1H2", "zero"))
    data = json.loads(session.to_json())
    data["used"] = ["corpus mix", "0" * 12]
    same(loaded(session, json.dumps(data)), session)
    session.set(iw.Ablate("L1H2", "mean", CORRUPT))
    data = json.loads(session.to_json()) | {"used": data["used"]}
    same(loaded(session, json.dumps(data)), session)
    data["interventions"][0]["reference"] = None
    with pytest.warns(UserWarning, match="'corpus mix' where this session was saved, and have the reference 'own'"):
        loaded(session, json.dumps(data)).close()


def test_the_mode_and_what_is_switched_off_come_back_and_undo_goes_to_the_bare_question(session: iw.Session) -> None:
    session.ask(PROMPT, "w9", "w10")
    plain = session.answer.metric
    made = iw.steering_vector(session, ["w3 w4 w5", "w6 w7"], ["w8 w9", "w10 w11 w12"], "L1", name="mood")
    session.add_vector(made)
    session.set_mode("zero")
    session.toggle("L1H2")
    session.strength("mood", 1.5)
    session.steer_settings("mood", on=False)
    off = session.answer.metric
    again = loaded(session)
    assert again.answer.metric == off != plain
    assert again.mode == "zero"
    assert again.now.entries == session.now.entries
    assert [e.on for e in again.now.entries] == [True, False]
    assert again.vectors == session.vectors == {"mood": made}
    for both in (again, session):
        both.steer_settings("mood", on=True)
    same_number = again.answer.metric
    assert same_number == session.answer.metric != off
    for both in (again, session):
        both.toggle("L0H1")
    assert again.interventions == session.interventions
    assert all(again.undo() for _ in range(3))
    assert (again.answer.metric, again.interventions) == (plain, ())
    assert not [again.undo() for _ in range(2)][-1]
    again.close()
    session.set()
    assert executed(session).mode == "zero"


def test_a_named_vector_comes_back_under_its_name_with_all_that_it_says_of_itself(session: iw.Session) -> None:
    session.ask(PROMPT, "w9", "w10")
    made = iw.steering_vector(session, ["w3 w4 w5", "w6 w7"], ["w8 w9", "w10 w11 w12"], "L1", name="mood")
    plain = made.random_like(4)
    session.add_vector(made, "a mood")
    session.add_vector(plain)
    session.strength("a mood", 0.7)
    again = loaded(session)
    assert again.vectors == {"a mood": made, plain.name: plain}
    assert str(again.vectors["a mood"].separation) == str(made.separation)
    assert again.answer.metric == session.answer.metric
    again.strength("a mood", -0.4)
    session.strength("a mood", -0.4)
    same(again, session)


def test_vectors_and_patches_are_left_to_the_reader_under_a_name_each(session: iw.Session) -> None:
    session.ask(PROMPT, "w9", "w10")
    back = -0.5 * PUSH.flip(0)
    run = session.model.run(CORRUPT, read=["L0", "L0.mlp"])
    session.set(
        iw.Steer("L1", PUSH, 0.5, name="two words"),
        iw.Steer("L2", back, 0.5, name="class"),
        iw.Steer("L0", PUSH, 0.3, name="two words", positions=[1, 2]),
        iw.Steer("L0.mlp", PUSH, 0.3, "clamp", name="print", origin=0.0),
        iw.Patch("L0", run["L0"], positions=[2]),
        iw.Patch("L0.mlp", run["L0.mlp"], positions="prompt[-1]"),
        iw.Patch("L1.attn", CORRUPT, positions=iw.tokens("w5")),
    )
    same(loaded(session), session)
    made = iw.steering_vector(session, ["w3 w4 w5", "w6 w7"], ["w8 w9", "w10 w11 w12"], "L1")
    assert made.origin != 0
    clamped = iw.SteeringVector(iw.Steer("L0", PUSH).vector, "p", made.site, "", 3, "", origin=made.origin)
    again = executed(session, vector=PUSH, vector_2=back, print_2=clamped, source=run["L0"], source_2=run["L0.mlp"])
    assert again.answer.metric == session.answer.metric
    again.close()


def test_a_file_of_the_older_form_gives_the_number_that_was_saved(session: iw.Session) -> None:
    several(PROMPT, "w3 w4", corrupt=(CORRUPT, "w30 w31"))(session)
    session.set(iw.Ablate("L1H2", "mean"), iw.Ablate("L0H1", "resample"))
    assert session.question is not None
    data = json.loads(session.to_json())
    older: dict[str, Any] = {
        "format": 1,
        "model": data["model"],
        "mode": "zero",
        "question": [
            {
                "ids": list(a.ids),
                "prompt": a.prompt,
                "target": list(a.metric.target),
                "foil": list(a.metric.foil),
                "position": a.position,
                "corrupt": [t.id for t in a.corrupt] if a.corrupt else None,
            }
            for a in session.question.examples
        ],
        "interventions": [{key: value for key, value in one.items() if key != "on"} for one in data["interventions"]],
        "left_out": [],
    }
    again = loaded(session, json.dumps(older))
    assert again.mode == "zero"
    assert again.vectors == {}
    same(again, session)
    own = data["interventions"][0] | {"reference": ["aligned", [CORRUPT], False]}
    session.ask(PROMPT, "w9", "w10", bos=True)
    assert session.question is not None
    older["question"] = [
        older["question"][0] | {"ids": list(session.question.first.ids), "position": 6, "corrupt": None}
    ]
    older["interventions"] = [own]
    session.set(iw.Ablate("L1H2", "mean", iw.Reference("aligned", (CORRUPT,))))
    same(loaded(session, json.dumps(older)), session)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda d: d["question"][0].update(position=6), iw.InterventionError, "The saved position 6 does not exist"),
        (lambda d: d["question"][0].update(position=None), iw.InterventionError, "The saved position None does not"),
        (lambda d: d["question"][0].pop("target"), iw.InterventionError, "A saved question cannot be read: KeyError"),
        (lambda d: d["question"][0]["tokens"][0].__setitem__(0, 10**6), iw.PromptError, "Token id 1000000 does not"),
        (lambda d: d["question"][0]["tokens"][0].pop(), iw.InterventionError, "A saved question cannot be read"),
        (lambda d: d["interventions"][0].pop("site"), iw.InterventionError, "A saved intervention cannot be read"),
        (lambda d: d["interventions"][0].update(site="L9H0"), iw.SiteError, "L9"),
        (lambda d: d.update(vectors=[["mood", {}]]), iw.InterventionError, "A saved session cannot be read: KeyError"),
        (lambda d: d.update(mode="half"), iw.InterventionError, "no ablation mode 'half'"),
        (lambda d: d.update(reference=["none", [], False, []]), iw.InterventionError, "it has no prompts"),
        (lambda d: d.update(format=3), iw.InterventionError, "not a session saved by this version"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence_and_leaves_nothing_open(
    session: iw.Session, change: Callable[[Any], object], error: type[iw.InterpError], sentence: str
) -> None:
    session.ask(PROMPT, "w9", "w10")
    session.set(iw.Ablate("L1H2"))
    data = json.loads(session.to_json())
    users = session.model.users
    change(data)
    with pytest.raises(error, match=sentence):
        loaded(session, json.dumps(data))
    assert session.model.users == users
    same(loaded(session), session)


def test_a_switched_off_edit_is_named_too_and_every_other_entry_stays(session: iw.Session) -> None:
    session.ask(PROMPT, "w9", "w10")
    edit, ablation = iw.Edit("L1", lambda x: x * 2, name="double"), iw.Ablate("L1H2")
    session.set(edit, ablation)
    mark, off = session.mark(), (Entry(edit, on=False), Entry(ablation, on=False))
    session.rewind(replace(mark, moments=(*mark.moments[:-1], replace(mark.moments[-1], entries=off))))
    with pytest.warns(UserWarning, match="double .own code.: own code is never loaded"):
        again = loaded(session)
    assert again.now.entries == (Entry(ablation, on=False),)
    same(again, session)
