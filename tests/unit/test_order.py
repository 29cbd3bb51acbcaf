"""The state is that of the wishes in the order in which they were made, however they arrive (group E)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import interp_widgets as iw
from interp_widgets.widgets.channel import mirror_of
from interp_widgets.widgets.order import KEPT, KEYS, WEIGHT, Done, Order
from tests.unit import tiny_models
from tests.unit.comm import Json, Wire
from tests.unit.conftest import Bench
from tests.unit.page import PROMPT, REFERENCE

SITES = [f"L{layer}H{head}" for layer in range(3) for head in range(4)] + ["L0.mlp", "L2.mlp"]


def random_wishes(rng: random.Random, n: int) -> list[Json]:
    """What an impatient user does."""
    wishes: list[Json] = []
    for seq in range(1, n + 1):
        name = rng.choices(
            ["ablate", "ablate_many", "strength", "vector", "mode", "clear", "undo", "redo"],
            [30, 8, 30, 6, 4, 3, 12, 7],
        )[0]
        key, args = name, {}
        if name == "ablate":
            site = rng.choice(SITES)
            key, args = f"head:{site}", {"site": site, "off": rng.random() < 0.7, "mode": rng.choice(["zero", "mean"])}
        elif name == "ablate_many":
            which = rng.choice(["L0", "L1"])
            args = {"sites": [f"{which}H{h}" for h in range(4)], "off": rng.random() < 0.5, "mode": "zero"}
            key = f"heads:{which}"
        elif name == "strength":
            key, args = "strength:push", {"name": "push", "value": rng.uniform(-2, 2), "final": rng.random() < 0.3}
        elif name == "vector":
            key = "vector:push"
            args = {
                "name": "push",
                "on": rng.random() < 0.8,
                "site": rng.choice(["L0", "L1"]),
                "positions": "all",
                "mode": "add",
            }
        elif name == "mode":
            args = {"mode": rng.choice(["zero", "mean"])}
        wishes.append({"kind": "intent", "client": "page", "seq": seq, "name": name, "key": key, "args": args})
    return wishes


def late(rng: random.Random, wishes: Sequence[Json], by: int) -> list[Json]:
    """The same, each delayed by up to `by` places, every fifth one twice."""
    places = [(n + rng.uniform(0, by), wish) for n, wish in enumerate(wishes)]
    places += [(n + rng.uniform(0, 2 * by), wish) for n, wish in enumerate(wishes) if rng.random() < 0.2]
    return [wish for _, wish in sorted(places, key=lambda pair: pair[0])]


def opened(model: Any) -> iw.Session:
    session = iw.open(model, tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    session.add_vector(iw.steering_vector(session, ["w3 w4"], ["w7 w8"], "L1", name="push"))
    return session


def content(session: iw.Session) -> Any:
    """All that a session is, history included."""
    return [(m.entries, m.question) for m in session.history.moments], session.history.index, session.mode


@pytest.fixture
def pair(wire: Wire) -> Any:
    model = tiny_models.gpt2()
    one, other = opened(model), opened(model)
    yield one, other, wire
    one.close()
    other.close()


@pytest.mark.case("E02", "E03", "E04")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_wishes_shuffled_delayed_and_doubled_on_two_threads_end_as_in_their_order(
    pair: Any, seed: int
) -> None:
    session, reference, wire = pair
    rng = random.Random(seed)
    wishes = random_wishes(rng, 1000)
    straight, page = wire.of(mirror_of(reference)), wire.of(mirror_of(session))
    for wish in wishes:
        straight.receive(wish)
    arriving = late(rng, wishes, 40)
    assert [w["seq"] for w in arriving] != sorted(w["seq"] for w in arriving)
    in_threads(page.receive, arriving)
    assert content(session) == content(reference)
    assert session.answer.metric == reference.answer.metric

    def last() -> bool:
        newest = page.custom[-1].content if page.custom else {}
        return newest.get("acks", {}).get("page") == 1000 and newest["revision"] == session.revision

    page.wait(last, "the last acknowledgement, of the last state")
    painted = [sent.content["revision"] for sent in page.custom if sent.content["kind"] == "state"]
    assert painted == sorted(painted), "an older state was sent after a newer one"
    again = naive(opened_like(reference), arriving)
    print(f"order: {len(arriving)} messages for {len(wishes)} wishes, last of them {content(session)[1]} steps deep")
    assert again != content(reference), "the naive order would have done as well: the test shows nothing"


def in_threads(receive: Callable[[Json], None], messages: Sequence[Json]) -> None:
    """Half of the messages on a thread of their own, as with a main shell and a subshell; neither more than 40 ahead."""
    together = threading.Barrier(2)

    def work(queue: Sequence[Json]) -> None:
        for n, message in enumerate(queue):
            if n % 20 == 0:
                together.wait(30)
            receive(message)

    messages = [*messages, *messages[-(len(messages) % 2) :][: len(messages) % 2]]
    threads = [threading.Thread(target=work, args=(messages[half::2],)) for half in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def opened_like(session: iw.Session) -> iw.Session:
    return opened(session.model.module)


def naive(session: iw.Session, messages: Sequence[Json]) -> Any:
    """The negative control: every message is done when it comes."""
    for wish in messages:
        name, args = wish["name"], wish["args"]
        if name in ("ablate", "ablate_many"):
            session.switch(args.get("sites") or [args["site"]], off=args["off"], mode=args["mode"])
        elif name == "strength":
            session.strength("push", args["value"], final=args["final"])
        elif name == "vector":
            session.steer_settings(
                "push", on=args["on"], site=args["site"], positions=args["positions"], mode=args["mode"]
            )
        elif name == "mode":
            session.set_mode(args["mode"])
        else:
            getattr(session, name)()
    result = content(session)
    session.close()
    return result


@pytest.mark.case("E03")
def test_an_undo_that_comes_late_takes_back_what_came_before_it_and_not_the_newer_wish(bench: Bench) -> None:
    page = bench.page
    first, second = page.intent("ablate", "head:L0H1", site="L0H1", off=True, mode="zero"), page.intent("undo", "undo")
    third = page.intent("ablate", "head:L2H3", site="L2H3", off=True, mode="zero")
    for message in (first, third, second):
        page.comm.receive(message)
    assert [i.site.name for i in bench.session.interventions] == ["L2H3"]
    page.calm()
    assert page.metric == pytest.approx(bench.zeroed(2, 3), abs=1e-4)


@pytest.mark.case("D10", "E04")
def test_a_late_wish_after_a_change_from_python_leaves_what_is_newer_and_drops_a_late_undo(bench: Bench) -> None:
    page = bench.page
    late_undo, old = (
        page.intent("undo", "undo"),
        page.intent("strength", "strength:push", name="push", value=0.5, final=True),
    )
    new = page.intent("strength", "strength:push", name="push", value=1.5, final=True)
    other = page.intent("ablate", "head:L0H0", site="L0H0", off=True, mode="zero")
    page.comm.receive(new)
    bench.session.toggle("L1H1", mode="zero")
    page.comm.receive(page.intent("mode", "mode", mode="zero"))
    bench.session.toggle("L1H0", mode="zero")
    for message in (late_undo, old, other):
        page.comm.receive(message)
    assert {i.site.name for i in bench.session.interventions} == {"L1", "L1H1", "L1H0", "L0H0"}
    assert next(i.coefficient for i in bench.session.interventions if isinstance(i, iw.Steer)) == 1.5
    page.calm()
    assert page.shown["acks"]["page"] == page.seq


@pytest.mark.case("E05")
def test_an_undo_right_after_asking_takes_back_the_new_question_and_not_an_older_step(bench: Bench) -> None:
    page = bench.page
    page.ablate("L0H1")
    page.calm()
    with bench.session.model.lock:  # the model is busy: the new question has to wait
        page.wish("ask", "ask", prompt="w3 w4 w5", target=None, foil=None)
        page.wish("undo", "undo")
    page.calm()
    assert bench.session.question is not None
    assert bench.session.question.first.prompt == PROMPT
    assert [i.site.name for i in bench.session.interventions] == ["L0H1"], "the undo went past the question"


@pytest.mark.case("E05")
def test_a_page_is_busy_from_asking_until_the_question_is_the_new_one_or_it_was_stopped(bench: Bench) -> None:
    page = bench.page
    page.calm()
    with bench.session.model.lock:  # the model is busy: the new question has to wait
        page.wish("ask", "ask", prompt="w3 w4 w5", target=None, foil=None)
        page.wait(lambda: page.acknowledged and page.state["busy"], "the word that it is being asked")
        assert page.state["question"]["prompt"] == PROMPT
    page.calm()
    assert page.state["question"]["prompt"] == "w3 w4 w5"
    with bench.session.model.lock:
        page.wish("ask", "ask", prompt="w7 w8", target=None, foil=None)
        page.wish("ask", "ask", prompt="w8 w9", target=None, foil=None)
        page.wait(lambda: page.acknowledged and page.state["busy"], "the word that it is being asked")
        mirror_of(bench.session).stop("Stopped.")
        page.wait(lambda: not page.state["busy"], "the end of it")
    page.wish("ask", "ask", prompt=PROMPT, target="w11", foil="w13")
    page.calm()
    assert page.state["question"]["prompt"] == PROMPT


@pytest.mark.case("E05")
def test_an_answer_to_the_prompt_before_is_never_shown_for_the_new_one(bench: Bench) -> None:
    page = bench.page
    page.calm()
    for n in range(10):
        page.wish("ask", "ask", prompt=f"w3 w4 w{5 + n}", target="w11", foil="w13")
        page.ablate(f"L1H{n % 4}", off=n % 2 == 0)
    page.calm()
    for sent in page.of("state"):
        answer = sent.content["state"]["answer"]
        assert answer is None or answer["revision"] == sent.content["revision"]
    assert page.state["question"]["prompt"] == "w3 w4 w14"
    assert page.metric == bench.session.answer.metric
    page.wish("ask", "ask", prompt=PROMPT, target="w11", foil="w13")


def test_of_two_wishes_of_one_thing_the_newer_is_kept_and_memory_is_bounded() -> None:
    order: Order[str, int] = Order()
    assert order.newest("a", 2, ["k"]) == ["k"]
    assert order.newest("a", 1, ["k", "l"]) == ["l"]
    assert order.newest("b", 1, ["k"]) == ["k"]
    for n in range(3 * KEYS):
        assert order.take("c", 2 * n + 1)
        order.newest("c", n, [f"key {n}"])
        order.did(Done("c", 2 * n + 1, "wish", 0, n, n + 1))
    client = order._clients["c"]
    assert len(client.newest) <= KEYS
    assert len(client.seen) <= KEYS
    assert len(order._done) <= KEPT
    assert not order.take("c", 1), "a number that was taken in long ago counts as new"
    for n in range(1000):
        order.take(f"client {n}", 1)
    assert len(order.acks) <= 64


def test_of_heavy_states_fewer_are_kept_and_a_wish_from_before_them_cannot_be_put_in_place() -> None:
    order: Order[str, int] = Order()
    for n in range(1, 101):
        order.take("c", 2 * n)
        order.did(Done("c", 2 * n, "wish", 0, n, n + 1, weight=WEIGHT // 20))
    assert len(order._done) == 20
    assert order.after("c", 2 * 70 + 1, 101) is None
    assert len(order.after("c", 2 * 90 + 1, 101) or []) == 10
    order.did(Done("c", 202, "wish", 0, 101, 102, weight=2 * WEIGHT))
    assert len(order._done) == 1, "the last one is kept, however heavy"


def test_what_is_too_old_or_not_from_wishes_alone_cannot_be_put_in_place() -> None:
    order: Order[str, int] = Order()
    for seq, revision in ((1, 0), (3, 1), (4, 2)):
        order.take("a", seq)
        order.did(Done("a", seq, f"wish {seq}", revision, revision, revision + 1))
    assert order.late("a", 2)
    assert not order.late("a", 5)
    assert [one.seq for one in order.after("a", 2, 3) or []] == [3, 4]
    assert order.after("a", 2, 7) is None, "something else has changed the session"
