"""Whatever arrives on the wire: no uncaught exception, no other code, no other model, and a next wish that is answered (group D)."""

from __future__ import annotations

import random
from typing import Any

import anywidget
import pytest
import traitlets

import interp_widgets as iw
from interp_widgets.widgets import outbox
from interp_widgets.widgets.base import View
from interp_widgets.widgets.channel import mirror_of
from tests.unit.comm import Json, NotStrictJsonError, RecordingComm, Wire, strict
from tests.unit.conftest import Bench

WRONG_VALUES: list[tuple[str, Any]] = [
    ("steps", True),
    ("steps", 0),
    ("steps", 10**9),
    ("steps", 2.5),
    ("baseline", "\ud83d"),
    ("baseline", "x" * 2000),
]
WRONG_WISHES: list[tuple[str, str, Json, str]] = [
    ("ablate", "head:L9H9", {"site": "L9H9", "off": True, "mode": "zero"}, "L9H9"),
    ("ablate", "head:L1H1", {"site": "L1H1", "off": "yes", "mode": "zero"}, "yes"),
    ("ablate", "head:L1H1", {"site": "L1H1", "off": True, "mode": "median"}, "median"),
    ("strength", "strength:push", {"name": "push", "value": float("nan"), "final": True}, "finite"),
    ("strength", "strength:push", {"name": "push", "value": "nan", "final": True}, "nan"),
    ("strength", "strength:push", {"name": "push", "value": 10**400, "final": True}, ""),
    ("strength", "strength:push", {"name": "push", "value": True, "final": True}, "True"),
    ("ask", "ask", {"prompt": "", "target": None, "foil": None}, "empty"),
    ("ask", "ask", {"prompt": "w5", "target": "w5 w6", "foil": None}, "2 tokens"),
    ("mode", "mode", {"mode": "loud"}, "loud"),
    ("panel", "panel:x", {"panel": "x", "action": "generate"}, "closed"),
]
PROTECTED = (
    "_esm",
    "_css",
    "_view_name",
    "_view_module",
    "_model_module",
    "_model_name",
    "layout",
    "comm",
    "keys",
    "session",
    "panel",
)


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def junk(rng: random.Random) -> Any:
    """Any value that a page, or what poses as one, could send."""
    choice = rng.randrange(16)
    return [
        None, True, False, 0, -1, 10**400, rng.random() * 10, float("nan"), float("inf"), "", "L1H2", "\ud83d", "x" * 10_000,
        [], {"__proto__": {"x": 1}}, [1, ["a", {}], None],
    ][choice]  # fmt: skip


ACTIONS = [
    "stop", "generate", "compute", "branch", "drop", "settings", "first", "card", "head", "backups", "clear", "map",
    "target", "instead", "eval",
]  # fmt: skip


def message(rng: random.Random, widgets: list[Any]) -> tuple[Any, Json, list[Any]]:
    """A random message for a random widget: custom, update, or nonsense."""
    widget, kind = rng.choice(widgets), rng.randrange(10)
    panels = [one.panel for one in widgets if isinstance(one, View)]
    settings = sorted({name for one in widgets for name in one.settings})
    if kind == 0:
        data: Any = {
            "method": rng.choice(["update", None, 5, "backbone", "custom"]),
            "state": junk(rng),
            "content": junk(rng),
        }
    elif kind == 1:
        data = rng.choice([{}, {"method": "request_state"}, {"method": "update"}, None, [], 7])
    elif kind <= 4:
        keys = rng.sample([*PROTECTED, *settings, "no_such"], rng.randrange(1, 5))
        data = {"method": "update", "state": {key: junk(rng) for key in keys}, "buffer_paths": []}
        if rng.random() < 0.2:
            data["buffer_paths"] = rng.choice([[["__proto__", "x"]], [["mode"]], [[]], 5])
    else:
        data = {"method": "custom", "content": content(rng, panels)}
    return widget, data, [memoryview(b"\x00\xff")] if rng.random() < 0.1 else []


def content(rng: random.Random, panels: list[str]) -> Any:
    if rng.random() < 0.15:
        kind = rng.choice(["hello", "ping", "bye", "listening", "closed", None, 3])
        return {"kind": kind, "client": junk(rng), "id": junk(rng), "on": junk(rng), "listening": junk(rng)}
    name = rng.choice(
        ["ablate", "ablate_many", "edge", "mode", "strength", "vector", "ask", "clear", "undo", "redo", "eval", 5, []]
        + ["panel"] * 4
    )
    likely = {
        "site": rng.choice(["L1H2", "L9H9", "L0", "nothing"]), "off": rng.choice([True, False]), "mode": rng.choice(["zero", "mean"]),
        "sites": [rng.choice(["L0H0", "L1H1", "L7H7"]) for _ in range(3)], "name": rng.choice(["push", "nobody"]),
        "value": rng.uniform(-3, 3), "final": True, "prompt": rng.choice(["w3 w4", "", "w5 " * 100]), "target": "w11", "foil": "w13",
        "panel": rng.choice([*panels, "x"]), "action": rng.choice(ACTIONS), "positions": rng.choice(["all", [0], [9], "x"]),
        "dest": rng.randrange(5), "src": rng.randrange(5), "chat": rng.random() < 0.2, "on": rng.choice([True, None]),
        "layer": rng.randrange(4), "head": rng.randrange(5), "branch": rng.randrange(3), "at": rng.randrange(4),
        "token": rng.randrange(70), "id": rng.randrange(70), "output": rng.randrange(3), "rounds": rng.randrange(4),
        "what": rng.choice(["deletion", "occlusion", "nothing"]), "vector": rng.choice(["push", None, "nobody"]),
        "tokens": rng.randrange(8), "temperature": rng.choice([0.0, 1.0]), "seed": 3, "on_change": "restart",
    }  # fmt: skip
    args = {key: junk(rng) if rng.random() < 0.3 else value for key, value in likely.items() if rng.random() < 0.9}
    seq = rng.choice([rng.randrange(1, 20_000)] * 6 + [0, -1, True, 2**53, "1", None, 10**400])
    client = rng.choice(["fuzz", "fuzz", "fuzz", f"c{rng.randrange(200)}", "", "x" * 100, junk(rng)])
    key = rng.choice([f"head:{rng.randrange(5000)}", "k" * 2000, junk(rng), "strength:push"])
    return {
        "kind": "intent",
        "client": client,
        "seq": seq,
        "name": name,
        "key": key,
        "args": rng.choice([args] * 9 + [junk(rng)]),
    }


def deliver(comm: RecordingComm, data: Any, buffers: list[Any]) -> None:
    comm.handle_msg({"content": {"comm_id": comm.comm_id, "data": data}, "buffers": buffers, "metadata": {}})  # pyright: ignore[reportArgumentType]


@pytest.mark.case("D03", "D04", "D05", "D06", "D12")
def test_ten_thousand_random_messages_change_nothing_but_what_they_may(
    bench: Bench, wire: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "RATE", 1000.0)  # hundreds of refusals; their pace is `test_outbox`'s
    rng = random.Random(6)
    caplog.set_level("CRITICAL")
    mirror = mirror_of(bench.session)
    more = [
        iw.AttentionPatterns(bench.session),
        iw.Generation(bench.session, tokens=4),
        iw.SelfRepair(bench.session),
    ]
    views = [bench.heads, bench.tokens, bench.sliders, *more]
    widgets = [*[mirror] * len(views), *views]
    fixed = {widget: {key: getattr(widget, key, None) for key in PROTECTED} for widget in widgets}
    escaped: list[BaseException] = []
    for n in range(10_000):
        widget, data, buffers = message(rng, widgets)
        if n % 1000 == 0:
            data = {"method": "update", "state": {"mode": deep(5000)}, "buffer_paths": []}
        try:
            deliver(wire.of(widget), data, buffers)
        except BaseException as error:  # noqa: BLE001  # none may escape, whatever it is
            escaped.append(error)
    bench.page.wait(lambda: bench.page.of("refused"), "an answer to what was refused", 20)
    sent = wire.sent
    for one in sent:
        strict(one.data)
    print(
        f"fuzz: 10000 messages, {len(escaped)} exceptions escaped, {sum(w.dropped for w in set(widgets))} dropped, {len(sent)} sent"
    )
    assert escaped == []
    assert all(
        getattr(widget, key, None) is value or getattr(widget, key, None) == value
        for widget, keys in fixed.items()
        for key, value in keys.items()
    )
    assert max(one.size + sum(map(len, one.buffers)) for one in sent if one.kind == "comm_msg") <= 1_000_000
    bench.session.ask("w5 w9 w12 w5 w30 w7", "w11", "w13")
    bench.heads.mode = "zero"
    for view in more:
        view.close()


@pytest.fixture
def naive(wire: Wire) -> Any:
    class Plain(anywidget.AnyWidget):
        _esm = "export default {}"
        strength = traitlets.Float(0.0).tag(sync=True)
        text = traitlets.Unicode("").tag(sync=True)

    return Plain()


def test_a_plain_widget_lets_the_page_replace_its_code_and_sends_what_is_no_json(naive: Any, wire: Wire) -> None:
    """The negative control: what the same messages do to an ordinary widget."""
    comm = wire.of(naive)
    comm.receive_state(_esm="export default {render() { alert(1) }}")
    assert "alert" in naive._esm
    comm.receive_state(strength="nothing")
    assert (comm.state["strength"], naive.strength) == ("nothing", 0.0), "the page was told the truth"
    with pytest.raises(NotStrictJsonError):
        naive.text = "\ud83d"


@pytest.mark.case("D01", "D02")
def test_a_setting_that_makes_no_sense_is_answered_with_the_truth_and_a_sentence(bench: Bench, wire: Wire) -> None:
    bench.page.calm()
    comm = wire.of(bench.tokens)
    steps, method = bench.tokens.steps, bench.tokens.method
    for wrong in ["nothing", 5, None, ["zero"], True, {"a": 1}]:
        comm.receive_state(steps=7, method=wrong)
        assert (bench.tokens.steps, bench.tokens.method) == (steps, method), "half of a wrong message was taken"
        assert (comm.state["steps"], comm.state["method"]) == (steps, method), "the page was not told the truth"
    for name, value in WRONG_VALUES:
        before = getattr(bench.tokens, name)
        comm.receive_state(**{name: value})
        assert getattr(bench.tokens, name) == before
    comm.receive_state(method="nothing")
    bench.page.wait(
        lambda: "Method cannot be 'nothing'" in bench.page.panel(bench.tokens).get("message", ""),
        "the sentence in the view",
        1.0,
    )
    assert bench.page.panel(bench.tokens)["status"] == "failed"


@pytest.mark.case("D01")
def test_a_wish_that_makes_no_sense_is_refused_in_a_sentence_within_a_second(bench: Bench) -> None:
    bench.page.calm()
    before = bench.session.revision, bench.session.interventions, bench.page.metric
    for name, key, args, words in WRONG_WISHES:
        seq = bench.page.wish(name, key, **args)
        bench.page.wait(lambda seq=seq: bench.page.refusal(seq) is not None, f"the refusal of {name} {args}", 1.0)
        sentence = bench.page.refusal(seq) or ""
        assert words in sentence
        assert sentence[0].isupper() or sentence[0] in "'\""
        assert sentence.rstrip().endswith((".", "?", "'")), sentence
        bench.page.wait(lambda: bench.page.acknowledged, "the acknowledgement", 1.0)
    assert (bench.session.revision, bench.session.interventions, bench.page.metric) == before


@pytest.mark.case("D01", "D02")
def test_a_number_that_is_none_is_refused_from_the_page_and_from_python(bench: Bench, wire: Wire) -> None:
    view = iw.Generation(bench.session, tokens=2)
    bench.page.calm()
    for name in ("temperature", "top_p"):
        before = getattr(view, name)
        for wrong in (float("nan"), float("inf"), 10**400, True, "1", None):
            wire.of(view).receive_state(**{name: wrong})
            with pytest.raises(traitlets.TraitError):
                setattr(view, name, wrong)
            assert getattr(view, name) == before
        strict(view.get_state([name]))
    with pytest.raises(traitlets.TraitError, match="finite"):
        iw.Generation(bench.session, temperature=float("nan"))
    view.close()


@pytest.mark.case("D01", "D02")
def test_a_wish_of_one_view_that_makes_no_sense_is_refused_in_a_sentence_and_nothing_of_it_is_taken(
    bench: Bench,
) -> None:
    texts, repair = iw.Generation(bench.session, tokens=2), iw.SelfRepair(bench.session)
    bench.page.calm()
    wrong: list[tuple[View, str, Json, str]] = [
        (texts, "settings", {"seed": 7, "temperature": float("nan"), "tokens": 5}, "Temperature cannot be nan"),
        (texts, "settings", {"seed": 7, "tokens": "many"}, "Tokens cannot be 'many'"),
        (texts, "drop", {"branch": [1]}, "no such branch"),
        (texts, "branch", {"branch": 0, "at": 0, "token": 10**6}, "1000000"),
        (bench.sliders, "map", {"vector": ["push"]}, "There is no vector ['push']"),
        (bench.heads, "card", {"layer": 0, "head": True}, "does not exist"),
        (bench.tokens, "instead", {"output": {}, "id": 3}, "{} is not an output"),
        (bench.tokens, "compute", {"what": ["deletion"]}, "There is no ['deletion']"),
        (repair, "backups", {"rounds": 1e9}, "1000000000.0"),
    ]
    for view, action, args, words in wrong:
        seq = bench.page.wish("panel", f"panel:{view.panel}", panel=view.panel, action=action, **args)
        bench.page.wait(lambda seq=seq: bench.page.refusal(seq) is not None, f"the refusal of {action} {args}", 5.0)
        assert words in (bench.page.refusal(seq) or "")
        assert "Error" not in (bench.page.refusal(seq) or ""), "a sentence of Python's, not of ours"
    assert (texts.seed, texts.tokens) == (0, 2), "half of a wrong wish was taken"
    for view in (texts, repair):
        view.close()


@pytest.mark.case("D07")
def test_an_observer_of_the_users_that_raises_leaves_the_setting_as_it_was_and_says_so(
    bench: Bench, wire: Wire
) -> None:
    def angry(_change: Any) -> None:
        raise ValueError("not this one")

    bench.tokens.observe(angry, names="steps")
    wire.of(bench.tokens).receive_state(steps=9)
    assert bench.tokens.steps == 4
    assert wire.of(bench.tokens).state["steps"] == 4
    bench.page.wait(lambda: "not this one" in bench.page.panel(bench.tokens).get("message", ""), "the sentence", 1.0)
    bench.tokens.unobserve(angry, names="steps")
    told: list[str] = []

    def fails(_session: iw.Session, _what: str) -> None:
        raise ZeroDivisionError

    stop = [
        bench.session.listen(fails),
        bench.session.listen(lambda _s, what: told.append(what)),
    ]
    bench.session.toggle("L0H0", mode="zero")
    assert told == ["state"], "one listener that fails keeps the others from hearing"
    for end in stop:
        end()


@pytest.mark.case("D08")
def test_an_observer_that_sets_the_trait_again_does_not_loop(bench: Bench, wire: Wire) -> None:
    seen: list[int] = []

    def again(change: Any) -> None:
        seen.append(change["new"])
        bench.tokens.steps = 5

    bench.tokens.observe(again, names="steps")
    wire.of(bench.tokens).receive_state(steps=9)
    assert seen == [9, 5]
    assert bench.tokens.steps == 5
    bench.tokens.unobserve(again, names="steps")


@pytest.mark.case("D13")
def test_a_message_for_a_closed_view_or_session_changes_nothing_and_is_answered(bench: Bench, wire: Wire) -> None:
    view = iw.HeadAblation(bench.session, mode="zero")
    comm, panel = wire.of(view), view.panel
    view.close()
    comm.receive_state(mode="mean")
    assert view.mode == "zero"
    seq = bench.page.wish("panel", f"panel:{panel}", panel=panel, action="compute")
    bench.page.wait(lambda: "closed" in (bench.page.refusal(seq) or ""), "the refusal", 1.0)
    bench.session.close()
    bench.page.ablate("L0H0")
    assert bench.page.of("closed")


@pytest.mark.case("D11")
def test_two_pages_and_one_that_opens_later_show_the_same_within_a_second(bench: Bench, wire: Wire) -> None:
    from tests.unit.page import open_page

    other = open_page(wire, bench.session, "other")
    bench.page.ablate("L1H2")
    other.drag(1.0, final=True)
    bench.page.calm()
    before, views = len(bench.page.comm.custom), (bench.heads, bench.tokens, bench.sliders)
    later = open_page(wire, bench.session, "later")

    def panels() -> dict[str, set[str]]:
        sent = [one.content for one in later.comm.custom[before:]]
        return {one["panel"]: set(one["data"] or {}) for one in sent if one["kind"] == "panel"}

    later.wait(lambda: {view.panel for view in views} <= set(panels()), "all of it again", 1.0)
    again = later.comm.custom[before:]
    assert {"effects", "metrics"} <= panels()[bench.heads.panel]
    assert "scores" in panels()[bench.tokens.panel]
    assert {"vectors", "continuation"} <= panels()[bench.sliders.panel]
    states = [sent.content["state"] for sent in again if sent.content["kind"] == "state"]
    assert states[-1]["answer"]["metric"] == bench.session.answer.metric


@pytest.mark.case("D14", "D15")
def test_a_view_answers_a_page_that_says_hello_before_anything_is_computed(wire: Wire, model: Any) -> None:
    from tests.unit import tiny_models
    from tests.unit.page import open_page

    session = iw.open(model, tiny_models.tokenizer())
    view = iw.HeadAblation(session)
    page = open_page(wire, session)
    page.wait(lambda: page.of("state"), "a state with no question", 1.0)
    assert page.state["question"] is None
    assert page.state["version"] == iw.__version__, "a page of another version could not tell"
    assert page.state["busy"] is False
    assert view.comm is not None
    session.close()


@pytest.mark.case("D09")
def test_no_setting_is_a_list_that_could_be_changed_without_being_seen() -> None:
    kinds = (traitlets.List, traitlets.Dict, traitlets.Set)
    for name in dir(iw):
        view = getattr(iw, name)
        if isinstance(view, type) and issubclass(view, View):
            assert not [key for key in view.settings if isinstance(view.class_traits()[key], kinds)], view
