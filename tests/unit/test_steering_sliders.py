"""SteeringSliders as a page sees it: one drag is one step, and what is written is shown for what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import interp_widgets as iw
from interp_widgets.methods import dose_response as dose_response_module
from interp_widgets.methods.coherence import coherence
from interp_widgets.methods.dose_response import dose_response
from interp_widgets.methods.steering import across
from interp_widgets.model.interventions import Steer
from interp_widgets.model.positions import Positions
from interp_widgets.widgets import steering_curves, steering_sliders
from tests.unit import tiny_models
from tests.unit.comm import Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page


@dataclass
class Bench:
    session: iw.Session
    page: Page
    view: iw.SteeringSliders

    @property
    def steps(self) -> list[str]:
        """The labels of the history."""
        return [moment.label for moment in self.session.history.moments]


@pytest.fixture
def bench(wire: Wire) -> Iterator[Bench]:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    vector = iw.steering_vector(session, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], "L1", name="push")
    view = iw.SteeringSliders(session, vectors={"push": vector}, tokens=6)
    page = open_page(wire, session)
    page.calm()
    yield Bench(session, page, view)
    session.close()


def test_a_drag_is_one_step_however_many_messages_it_was(bench: Bench) -> None:
    before = bench.steps
    for value in (0.1, 0.2, 0.3):
        bench.page.drag(value)
    bench.page.drag(0.4, final=True)
    bench.page.calm()
    assert bench.steps == [*before, "push +0.40"]


def test_a_second_drag_is_a_second_step_and_undo_takes_one_back(bench: Bench) -> None:
    before = bench.steps
    for value in (0.4, 0.8):
        bench.page.drag(value / 2)
        bench.page.drag(value, final=True)
    assert bench.steps == [*before, "push +0.40", "push +0.80"]
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.state["vectors"][0]["coefficient"] == pytest.approx(0.4)


def test_a_release_where_the_drag_began_leaves_no_step(bench: Bench) -> None:
    bench.page.drag(0.4, final=True)
    before = bench.steps
    bench.page.drag(0.7)
    bench.page.drag(0.4, final=True)
    bench.page.calm()
    assert bench.steps == before


def test_a_release_without_a_move_leaves_no_step(bench: Bench) -> None:
    bench.page.drag(0.4, final=True)
    before = bench.steps
    bench.page.drag(0.4, final=True)
    bench.page.calm()
    assert bench.steps == before
    assert bench.page.metric == pytest.approx(bench.session.answer.metric)


def test_a_written_token_says_of_what_kind_it_is(bench: Bench) -> None:
    written = bench.page.panel(bench.view)["data"]["continuation"]["plain"]
    assert written
    assert [one["kind"] for one in written] == [bench.session.model.tokens.token(one["id"]).kind for one in written]


# ---- a range of layers --------------------------------------------------------------------------------------------------


def place(bench: Bench, site: str, mode: str = "add", positions: str = "content") -> int:
    """Choose where and how the vector acts, as its row does."""
    args = {"name": "push", "on": True, "site": site, "positions": positions, "mode": mode}
    return bench.page.wish("vector", "vector:push", **args)


def test_a_slider_over_a_range_of_layers_moves_all_of_them_as_one(bench: Bench) -> None:
    live, vector = bench.session.model, bench.session.vectors["push"]
    bench.page.drag(0.8, final=True)
    bench.page.calm()
    place(bench, "L0–L2")
    bench.page.calm()
    shown = bench.page.state["vectors"][0]
    assert (shown["site"], shown["coefficient"]) == ("L0–L2", 0.8)
    before = bench.steps
    for value in (0.3, 0.5):
        bench.page.drag(value)
    bench.page.drag(0.6, final=True)
    bench.page.calm()
    assert bench.steps == [*before, "push +0.60"]
    wanted = across(live, Steer("L1", vector, 0.6, name="push"), range(3))
    assert bench.session.interventions == wanted
    assert bench.session.question is not None
    asked = bench.session.question.first
    right = float(asked.metric.of(live.answer(asked, wanted).logits[None])[0])
    assert bench.page.metric == pytest.approx(right, abs=1e-6)
    told = curve(bench)
    assert (told["site"], told["old"]) == ("L0–L2", False)
    np.testing.assert_allclose(told["metric"], dose_response(live, asked, wanted).metric, atol=1e-5)
    assert bench.session.to_code().count("push = ...") == 1
    assert bench.session.to_code().count('iw.Steer("L') + bench.session.to_code().count("iw.Steer('L") == 3
    again = iw.Session.from_json(bench.session.to_json(), live.module, live.tokenizer)
    assert again.interventions == wanted
    again.close()
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert [i.coefficient for i in bench.session.interventions if isinstance(i, Steer)] == [0.8] * 3
    place(bench, "L2")
    bench.page.calm()
    assert [(i.site.name, i.coefficient) for i in bench.session.interventions if isinstance(i, Steer)] == [("L2", 0.8)]


def test_a_slider_over_every_write_is_the_push_at_every_write_and_goes_back_to_one_place(bench: Bench) -> None:
    live, vector = bench.session.model, bench.session.vectors["push"]
    bench.page.drag(1.0, final=True)
    bench.page.calm()
    place(bench, "writes", "project_out")
    bench.page.calm()
    wanted = across(live, Steer("L1", vector, 1.0, "project_out", name="push"), "writes")
    assert bench.session.interventions == wanted
    assert bench.page.state["vectors"][0]["site"] == "writes"
    assert bench.session.question is not None
    asked = bench.session.question.first
    right = float(asked.metric.of(live.answer(asked, wanted).logits[None])[0])
    assert bench.page.metric == pytest.approx(right, abs=1e-6)
    told = curve(bench)
    assert (told["site"], told["old"]) == ("writes", False)
    np.testing.assert_allclose(told["metric"], dose_response(live, asked, wanted).metric, atol=1e-5)
    place(bench, "writes", "project_out", "all")
    bench.page.calm()
    assert bench.session.interventions == tuple(steer.placed(positions="all") for steer in wanted)
    place(bench, "L2")
    bench.page.calm()
    assert [(i.site.name, i.label) for i in bench.session.interventions if isinstance(i, Steer)] == [
        ("L2", "steer L2, push × 1")
    ]


def test_what_python_put_on_several_places_stays_there_when_the_slider_moves(bench: Bench) -> None:
    live, vector = bench.session.model, bench.session.vectors["push"]
    bench.session.set(*across(live, Steer("L1", vector, 0.4, "project_out", name="push"), "writes"))
    bench.page.calm()
    site = bench.page.state["vectors"][0]["site"]
    bench.page.drag(0.9, final=True)
    assert bench.page.wish(
        "vector", "vector:push", name="push", on=True, site=site, positions="all", mode="project_out"
    )
    bench.page.calm()
    found = [i for i in bench.session.interventions if isinstance(i, Steer)]
    assert [i.site for i in found] == [i.site for i in across(live, found[0], "writes")]
    assert {(i.coefficient, i.mode, str(i.positions)) for i in found} == {(0.9, "project_out", "all")}


@pytest.mark.parametrize(
    ("site", "words"), [("L2–L0", "backwards"), ("L1–L7", "L3"), ("L0–L999999", "more layers"), ("L0–", "not a site")]
)
def test_a_range_that_does_not_exist_is_refused_in_a_sentence_and_changes_nothing(
    bench: Bench, site: str, words: str
) -> None:
    before = bench.session.interventions
    refused = place(bench, site)
    bench.page.wait(lambda: bench.page.refusal(refused) is not None, "a refusal")
    assert words in str(bench.page.refusal(refused))
    assert bench.session.interventions == before


# ---- what is drawn ------------------------------------------------------------------------------------------------------


def data(bench: Bench) -> dict[str, Any]:
    """What the view has been told, its arrays read from their buffers."""
    out: dict[str, Any] = {}
    for sent in bench.page.of("panel"):
        if sent.content["panel"] == bench.view.panel:
            out |= {key: _read(value, sent.buffers) for key, value in (sent.content["data"] or {}).items()}
    return out


def _read(value: Any, buffers: Any) -> Any:
    if isinstance(value, dict) and "$array" in value:
        return np.frombuffer(buffers[value["$array"]], value["dtype"]).reshape(value["shape"])
    return {key: _read(one, buffers) for key, one in value.items()} if isinstance(value, dict) else value


def curve(bench: Bench) -> dict[str, Any]:
    return data(bench)["vectors"]["push"]


def test_the_curve_is_that_of_dose_response_with_random_vectors_beside_it(bench: Bench) -> None:
    assert bench.session.question is not None
    live, asked = bench.session.model, bench.session.question.first
    vector = bench.session.vectors["push"]
    right = dose_response(live, asked, Steer("L1", vector, 1.0, name="push"))
    told = curve(bench)
    for name in ("strengths", "metric", "kl", "random_low", "random_high"):
        np.testing.assert_allclose(told[name], getattr(right, name), atol=1e-5, err_msg=name)
    assert (told["label"], told["randoms"], told["old"]) == ("logit difference", 8, False)


def test_where_text_breaks_fills_in_after_the_curve_with_its_criterion(bench: Bench) -> None:
    assert bench.session.question is not None
    sent = [s.content["data"].get("vectors", {}).get("push", {}) for s in bench.page.of("panel") if s.content["data"]]
    assert any("metric" in one and "breaks" not in one for one in sent)
    told = curve(bench)
    steer = Steer("L1", bench.session.vectors["push"], 1.0, name="push")
    right = coherence(bench.session.model, bench.session.question.first, steer)
    assert np.asarray(told["breaks"]).astype(bool).tolist() == right.breaks.tolist()
    assert told["criterion"] == right.criterion
    np.testing.assert_allclose(told["loss"], right.loss, atol=1e-5)


def test_a_vectors_own_strength_leaves_its_curve_alone_and_another_intervention_does_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    real = steering_curves.dose_response

    def counted(*args: Any, **kwargs: Any) -> Any:
        runs.append("curve")
        return real(*args, **kwargs)

    monkeypatch.setattr(steering_curves, "dose_response", counted)
    before = curve(bench)["metric"]
    bench.page.drag(1.0, final=True)
    bench.page.calm()
    assert not runs
    assert np.array_equal(curve(bench)["metric"], before)
    bench.page.ablate("L0H1")
    bench.page.calm()
    assert runs == ["curve"]
    assert not np.allclose(curve(bench)["metric"], before)


def test_a_push_on_generated_text_alone_plots_a_quantity_of_the_text(bench: Bench) -> None:
    bench.page.wish("vector", "vector:push", name="push", on=True, site="L1", positions="generated", mode="add")
    bench.page.calm()
    told = curve(bench)
    assert told["label"] == "logit difference, mean over 16 generated tokens"
    assert len(set(np.round(np.asarray(told["metric"]), 6).tolist())) > 10


def test_a_map_on_request_is_the_curve_at_every_layer(bench: Bench) -> None:
    assert data(bench)["map"] is None
    bench.page.wish("panel", "panel:x", panel=bench.view.panel, action="map", vector="push")
    bench.page.wait(lambda: (data(bench)["map"] or {}).get("done"), "the map")
    told = data(bench)["map"]
    assert (told["vector"], told["layers"], told["done"]) == ("push", [0, 1, 2], True)
    np.testing.assert_allclose(np.asarray(told["metric"])[1], np.asarray(curve(bench)["metric"]), atol=1e-5)
    bench.page.wish("panel", "panel:x", panel=bench.view.panel, action="map", vector=None)
    bench.page.wait(lambda: data(bench)["map"] is None, "no map")
    seq = bench.page.wish("panel", "panel:x", panel=bench.view.panel, action="map", vector="nobody")
    bench.page.wait(lambda: bench.page.refusal(seq), "a refusal")
    assert "nobody" in str(bench.page.refusal(seq))


def test_what_would_take_long_asks_first_and_comes_after_a_yes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering_sliders, "ASK", -1.0)
    monkeypatch.setattr(dose_response_module, "ASK", -1.0)
    bench.page.ablate("L0H1")
    bench.page.wait(lambda: bench.page.panel(bench.view)["status"] == "asking", "the question")
    last = bench.page.panel(bench.view)
    assert last["status"] == "asking"
    assert last["data"]["estimate_seconds"] > 0
    told = curve(bench)
    assert (told["randoms"], "breaks" in told) == (0, False)
    bench.page.wish("panel", "panel:x", panel=bench.view.panel, action="compute")
    bench.page.wait(lambda: bench.page.panel(bench.view)["status"] == "done", "the rest")
    assert (curve(bench)["randoms"], "breaks" in curve(bench)) == (8, True)


def test_a_set_of_prompts_has_the_mean_of_its_curves(bench: Bench) -> None:
    prompts = [iw.Example(PROMPT, "w11", "w13"), iw.Example("w4 w6 w8", "w12", "w14")]
    bench.session.ask(prompts)
    bench.page.calm()
    assert bench.session.question is not None
    steer = Steer("L1", bench.session.vectors["push"], 1.0, name="push")
    each = [dose_response(bench.session.model, asked, steer).metric for asked in bench.session.question.examples]
    np.testing.assert_allclose(np.asarray(curve(bench)["metric"]), np.mean(each, axis=0), atol=1e-5)
    assert curve(bench)["label"] == "logit difference, mean over 2 prompts"


@pytest.mark.parametrize(
    ("typed", "label"),
    [("3:5", "slice(3, 5)"), ("-1", "-1"), ("1, 2", "[1, 2]"), ('"w9"', 'tokens("w9")'), ("gen[:3]", "gen[:3]")],
)
def test_positions_are_read_as_they_are_typed_and_as_they_are_shown(bench: Bench, typed: str, label: str) -> None:
    for text in (typed, label):
        bench.page.wish("vector", "vector:push", name="push", on=True, site="L1", positions=text, mode="add")
        bench.page.wait(lambda: bench.page.acknowledged, "an answer")
        assert bench.session.now.entries[0].intervention.positions == Positions.of(label)  # pyright: ignore[reportAttributeAccessIssue]
    seq = bench.page.wish("vector", "vector:push", name="push", on=True, site="L1", positions="nowhere", mode="add")
    bench.page.wait(lambda: bench.page.refusal(seq), "a refusal")
    assert "nowhere" in str(bench.page.refusal(seq))


def test_a_flood_of_moves_is_painted_in_order_and_ends_on_the_last(bench: Bench) -> None:
    for n in range(1, 301):
        bench.page.drag(n / 200, final=n == 300)
    bench.page.calm(60)
    states = [sent.content["state"] for sent in bench.page.of("state")]
    painted = [(s["answer"]["revision"], s["vectors"][0]["coefficient"]) for s in states if s["answer"] is not None]
    assert painted == sorted(painted), "an older answer was sent after a newer one"
    assert painted[-1][1] == pytest.approx(1.5)
    assert bench.session.question is not None
    asked, last = bench.session.question.first, Steer("L1", bench.session.vectors["push"], 1.5)
    exact = float(asked.metric.of(bench.session.model.answer(asked, [last]).logits[None])[0])
    assert bench.page.metric == pytest.approx(exact, abs=1e-5)
    assert len(painted) < 300, "every move was computed, though newer ones had come"
