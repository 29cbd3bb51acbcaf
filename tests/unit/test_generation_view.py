"""The Generation view: both texts as `generate` gives them, exact numbers of the other run, branches, and stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import traitlets

import interp_widgets as iw
from interp_widgets.model.errors import CancelledError
from interp_widgets.model.generate import generate, score
from interp_widgets.widgets.generation import BRANCHES, Generation
from interp_widgets.worker import worker_of
from tests.unit.comm import RecordingComm, Wire
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w5 w9 w12 w5 w30 w7"
Json = dict[str, Any]


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open({"gpt2": gpt2, "llama": llama}[request.param](), tokenizer())
    opened.ask(PROMPT, target="w11", foil="w13")
    opened.set(iw.Ablate("L1H2", mode="zero"), iw.Ablate("L0.mlp", mode="zero"))
    yield opened
    opened.close()


def texts_of(told: Sequence[Json]) -> Json:
    """What a page knows after these messages: of every key the newest, and the branches in their order."""
    data: Json = {"order": [], "running": True}
    for one in told:
        data |= one
    return data | {"branches": [b for n in data["order"] if (b := data.get(f"branch:{n}")) is not None]}


class Page:
    """One view and what its page is told."""

    def __init__(self, session: iw.Session, wire: Wire, **settings: Any) -> None:
        self.view = Generation(session, **settings)
        mirror = next(w for w in session.widgets if type(w).__name__ == "SessionWidget")
        self.comm: RecordingComm = wire.of(mirror)
        self.seq = 0

    @property
    def last(self) -> Json:
        told = [s.content["data"] for s in self.comm.custom if s.content.get("kind") == "panel" and s.content["data"]]
        return texts_of(told)

    def wish(self, action: str, **args: Any) -> None:
        self.seq += 1
        wish = {"panel": self.view.panel, "action": action, **args}
        key = f"panel:{self.seq}"
        self.comm.receive({"kind": "intent", "client": "a", "seq": self.seq, "name": "panel", "key": key, "args": wish})

    def wait(self, holds: Callable[[Json], bool], what: str) -> Json:
        self.comm.wait(lambda: holds(self.last), what, 30)
        return self.last

    def done(self, branches: int = 2) -> Json:
        return self.wait(lambda d: not d["running"] and len(d["branches"]) == branches, f"{branches} texts")

    @property
    def refusals(self) -> list[str]:
        return [s.content["message"] for s in self.comm.custom if s.content.get("kind") == "refused"]


def ids(branch: Json) -> list[int]:
    return [t["id"] for t in branch["tokens"]]


def asked(session: iw.Session) -> list[int]:
    assert session.question is not None
    return list(session.question.first.ids)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_both_texts_are_what_generate_gives_for_each(session: iw.Session, wire: Wire, temperature: float) -> None:
    last = Page(session, wire, tokens=8, temperature=temperature, seed=3).done()
    options: Any = {"temperature": temperature, "seed": 3}
    for branch, uses in zip(last["branches"], ((), session.interventions), strict=True):
        expected = list(generate(session.model, asked(session), uses, 8, **options))
        assert ids(branch) == [t.id for t in expected]
        assert [t["probability"] for t in branch["tokens"]] == pytest.approx(
            [t.probability for t in expected], abs=1e-5
        )


def test_the_other_runs_number_is_exact_for_every_token(session: iw.Session, wire: Wire) -> None:
    plain, edited = Page(session, wire, tokens=8).done()["branches"]
    for branch, others in ((plain, session.interventions), (edited, ())):
        expected = score(session.model, asked(session), ids(branch), others).exp().tolist()
        assert [t["other"] for t in branch["tokens"]] == pytest.approx(expected, abs=1e-6)


def test_an_alternative_says_what_kind_of_token_it_is(session: iw.Session, wire: Wire) -> None:
    token = session.model.tokens.token
    for branch in Page(session, wire, tokens=4).done()["branches"]:
        assert all(kind == token(i).kind for one in branch["tokens"] for i, _, _, kind in one["top"])


def test_a_branch_goes_on_from_its_token_under_its_own_run(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire, tokens=8)
    edited = page.done()["branches"][1]
    token = edited["tokens"][3]["top"][2][0]
    page.wish("branch", branch=1, at=3, token=token)
    branch = page.done(3)["branches"][2]
    before = [*ids(edited)[:3], token]
    expected = generate(session.model, asked(session), session.interventions, 4, continued=before)
    assert ids(branch) == [token, *(t.id for t in expected)]
    assert (branch["parent"], branch["at"], branch["run"]) == (1, 3, "edited")
    other = score(session.model, asked(session), [*ids(edited)[:3], *ids(branch)], ()).exp().tolist()[3:]
    assert [t["other"] for t in branch["tokens"]] == pytest.approx(other, abs=1e-6)
    page.wish("branch", branch=2, at=1, token=token)
    child = page.done(4)["branches"][3]
    assert child["parent"] == 2
    assert len(child["tokens"]) == 8 - 3 - 1
    page.wish("drop", branch=2)
    assert [b["id"] for b in page.done(2)["branches"]] == [0, 1]


def test_a_change_writes_again_and_keeps_the_branches_as_old_ones(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire, tokens=6)
    first = page.done()
    page.wish("branch", branch=1, at=2, token=7)
    page.wish("branch", branch=0, at=2, token=7)
    page.done(4)
    session.toggle("L1H0", mode="zero")
    revision = session.revision
    page.comm.wait(
        lambda: any(
            s.content.get("revision") == revision and s.content.get("status") == "done" for s in page.comm.custom
        ),
        "the new texts",
        30,
    )
    last = page.last
    assert ids(last["branches"][0]) == ids(first["branches"][0])
    expected = generate(session.model, asked(session), session.interventions, 6)
    assert ids(last["branches"][1]) == [t.id for t in expected]
    assert [b["stale"] for b in last["branches"]] == [False, False, True, False]


def test_with_nothing_changed_one_text_is_written(session: iw.Session, wire: Wire) -> None:
    session.clear()
    plain, edited = Page(session, wire, tokens=5).done()["branches"]
    assert len(plain["tokens"]) == 5
    assert edited["tokens"] == []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Steps that take a while, so that a wish falls between two of them; set it to let them run."""
    from interp_widgets.model import generate as module

    free = threading.Event()
    step = module.Generation.__next__

    def slowly(self: module.Generation) -> Any:
        free.wait(0.05)
        return step(self)

    monkeypatch.setattr(module.Generation, "__next__", slowly)
    return free


def test_stop_ends_within_a_token_and_keeps_the_text(session: iw.Session, wire: Wire, slow: threading.Event) -> None:
    page = Page(session, wire, tokens=200)
    page.wait(lambda d: bool(d["branches"]) and len(d["branches"][0]["tokens"]) >= 2, "some text")
    start = time.monotonic()
    page.wish("stop")
    last = page.done()
    assert time.monotonic() - start < 2
    assert 2 <= len(last["branches"][0]["tokens"]) < 50
    assert {b["ended"] for b in last["branches"]} == {"stopped"}
    assert all(t["other"] is not None for b in last["branches"] for t in b["tokens"])
    page.wish("generate")
    slow.set()
    page.wait(lambda d: not d["running"] and d["branches"][0]["ended"] == "context", "the text again, to its end")


def test_from_here_goes_on_under_the_new_state_and_marks_the_place(
    session: iw.Session, wire: Wire, slow: threading.Event
) -> None:
    page = Page(session, wire, tokens=24, on_change="from here")
    page.wait(lambda d: len(d["branches"]) > 1 and len(d["branches"][1]["tokens"]) >= 3, "some text")
    session.toggle("L1H0", mode="zero")
    slow.set()
    edited = page.wait(lambda d: not d["running"] and bool(d["branches"][1]["marks"]), "the rest")["branches"][1]
    (mark,) = edited["marks"]
    assert 3 <= mark < 24
    assert len(edited["tokens"]) == 24
    rest = generate(session.model, asked(session), session.interventions, 24 - mark, continued=ids(edited)[:mark])
    assert ids(edited)[mark:] == [t.id for t in rest]


@pytest.mark.parametrize(
    ("action", "args", "words"),
    [
        ("branch", {"branch": 9, "at": 0, "token": 3}, "no such token"),
        ("branch", {"branch": 0, "at": 99, "token": 3}, "no such token"),
        ("branch", {"branch": 0, "at": 0, "token": 10**9}, "vocabulary"),
        ("branch", {"branch": 0, "at": 0, "token": "x"}, "token's id"),
        ("drop", {"branch": 0}, "no such branch"),
        ("settings", {"temperature": "hot"}, "Temperature cannot be"),
        ("fly", {}, "cannot do"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(
    session: iw.Session, wire: Wire, action: str, args: Json, words: str
) -> None:
    page = Page(session, wire, tokens=3)
    before = page.done()
    page.wish(action, **args)
    page.comm.wait(lambda: any(words in m for m in page.refusals), f"a refusal with {words!r}, not {page.refusals}")
    assert page.last == before


def test_there_is_an_end_to_branches(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire, tokens=2)
    page.done()
    for n in range(BRANCHES):
        page.wish("branch", branch=0, at=0, token=n + 2)
        page.done(n + 3)
    page.wish("branch", branch=0, at=0, token=40)
    page.comm.wait(lambda: any("drop one first" in m for m in page.refusals), "the refusal")


def test_an_error_in_the_middle_keeps_the_text_and_leaves_the_model_as_it_was(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp_widgets.model.written import Generation as Rows

    step, count = Rows._step, iter(range(10**6))

    def breaks(self: Rows, *args: Any) -> Any:
        if next(count) == 5:
            raise iw.InterpError("The logits are not finite from here on.")
        return step(self, *args)

    plain = session.model.run(PROMPT).logits
    monkeypatch.setattr(Rows, "_step", breaks)
    page = Page(session, wire, tokens=9)
    page.comm.wait(lambda: any(s.content.get("status") == "failed" for s in page.comm.custom), "the failure", 30)
    failed = next(s.content for s in page.comm.custom if s.content.get("status") == "failed")
    assert "not finite" in failed["message"]
    assert len(page.last["branches"][0]["tokens"]) == 5
    monkeypatch.setattr(Rows, "_step", step)
    assert (session.model.run(PROMPT).logits == plain).all()


@pytest.mark.case("E08")
def test_a_stop_that_comes_before_the_text_begins_is_a_stop_of_it(
    session: iw.Session, wire: Wire, slow: threading.Event
) -> None:
    slow.set()
    page = Page(session, wire, tokens=50)
    page.done()
    slow.clear()
    with session.model.lock:
        page.wish("generate")
        page.wish("stop")
    page.wait(lambda d: not d["running"] and {b["ended"] for b in d["branches"]} == {"stopped"}, "the end")
    with session.model.lock:
        session.toggle("L1H0", mode="zero")
        page.wish("stop")
    last = page.wait(lambda d: not d["running"] and {b["ended"] for b in d["branches"]} == {"stopped"}, "the end")
    assert max(len(b["tokens"]) for b in last["branches"]) <= 1
    slow.set()
    session.toggle("L1H1", mode="zero")  # what is changed later is written all the same
    page.wait(lambda d: not d["running"] and len(d["branches"][1]["tokens"]) > 3, "the text under the new state")


@pytest.mark.case("E07")
def test_a_branch_that_is_dropped_while_it_is_written_does_not_come_back(
    session: iw.Session, wire: Wire, slow: threading.Event
) -> None:
    page = Page(session, wire, tokens=40)
    slow.set()
    token = page.done()["branches"][1]["tokens"][2]["top"][1][0]
    slow.clear()
    page.wish("branch", branch=1, at=2, token=token)
    page.wait(lambda d: len(d["branches"]) == 3 and len(d["branches"][2]["tokens"]) > 3, "a branch that grows")
    page.wish("drop", branch=2)
    slow.set()
    assert worker_of(session.model).wait(20)
    assert [b["id"] for b in page.done()["branches"]] == [0, 1]
    assert page.refusals == []


def test_branches_that_are_wished_quickly_are_counted_too(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire, tokens=4)
    token = page.done()["branches"][0]["tokens"][1]["id"]
    for _ in range(BRANCHES + 8):
        page.wish("branch", branch=0, at=1, token=token)
    assert worker_of(session.model).wait(20)
    page.comm.wait(lambda: len(page.refusals) == 8, "eight refusals", 10)
    page.done(2 + BRANCHES)
    assert all("drop one first" in message for message in page.refusals)


@pytest.mark.case("G11")
def test_long_texts_and_their_branches_arrive_in_messages_below_the_limit(wire: Wire) -> None:
    opened = iw.open(gpt2(n_positions=2048), tokenizer())
    opened.ask(PROMPT, target="w11", foil="w13")
    opened.set(iw.Ablate("L1H2", mode="zero"))
    page = Page(opened, wire, tokens=512)
    page.comm.wait(lambda: not page.last["running"] and len(page.last["branches"]) == 2, "two texts", 60)
    for at in (1, 2, 3):
        page.wish("branch", branch=0, at=at, token=page.last["branches"][0]["tokens"][at]["top"][1][0])
        page.comm.wait(lambda at=at: not page.last["running"] and len(page.last["branches"]) == 2 + at, "a branch", 60)
    before = len(page.comm.sent)
    page.comm.receive({"kind": "hello", "client": "late", "version": "0"})

    def late() -> list[int]:
        told = [s.content["data"] for s in page.comm.sent[before:] if s.content.get("kind") == "panel"]
        return [len(b["tokens"]) for b in texts_of(told)["branches"]]

    page.comm.wait(lambda: len(late()) == 5, "all of it", 20)
    assert late() == [512, 512, 511, 510, 509]
    assert max(s.size for s in page.comm.custom) <= 1_000_000
    assert not any(s.content.get("status") == "failed" for s in page.comm.custom)
    opened.close()


def test_a_seed_is_one_that_the_sampler_takes(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire, tokens=4, temperature=1.0)
    page.done()
    with pytest.raises(traitlets.TraitError):
        page.view.seed = 1 << 48
    page.view.seed = (1 << 48) - 1
    assert worker_of(session.model).wait(20)
    page.comm.wait(lambda: page.last.get("seed") == (1 << 48) - 1 and not page.last["running"], "its text", 10)


@pytest.mark.case("E10")
def test_what_could_not_be_said_for_a_view_was_stopped_is_said_the_next_time(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(session, wire, tokens=6)
    page.done()
    publish, failed = page.view.publish, list[bool]()

    def once(*args: Any) -> None:
        if args[1] == "done" and not failed:
            failed.append(True)
            raise CancelledError
        publish(*args)

    monkeypatch.setattr(page.view, "publish", once)
    page.view.seed = 5
    assert worker_of(session.model).wait(20)
    assert failed
    page.wish("compute")
    last = page.wait(lambda d: not d["running"] and d.get("seed") == 5, "the texts")
    assert [len(b["tokens"]) for b in last["branches"]] == [6, 6]
    assert {b["ended"] for b in last["branches"]} == {"length"}
