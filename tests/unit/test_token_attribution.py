"""TokenAttribution as a page sees it: rough at once, then as chosen, with its evidence, for any target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import traitlets

import interp_widgets as iw
from interp_widgets.methods.agreement import agreement
from interp_widgets.methods.answers import attribute_answer
from interp_widgets.methods.attribution import METHODS, attribute
from interp_widgets.methods.deletion import delete, deletion_test, evidence
from interp_widgets.methods.direct_tokens import direct_by_source
from interp_widgets.widgets import token_attribution as module
from tests.unit import tiny_models
from tests.unit.comm import Json, Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page, record


@dataclass
class Bench:
    session: iw.Session
    page: Page
    view: iw.TokenAttribution

    @property
    def told(self) -> list[Json]:
        """The messages about the view that carry data, oldest first."""
        return [s.content for s in self.page.of("panel") if s.content["panel"] == self.view.panel and s.content["data"]]

    @property
    def data(self) -> Json:
        """Everything that the page knows of the view."""
        return self.page.panel(self.view)["data"]

    def array(self, name: str, *inner: str) -> Any:
        for sent in reversed(self.page.of("panel")):
            value = (sent.content["data"] or {}).get(name)
            for key in inner:
                value = value.get(key) if isinstance(value, dict) else None
            if sent.content["panel"] == self.view.panel and value is not None:
                return np.frombuffer(sent.buffers[value["$array"]], value["dtype"]).reshape(value["shape"])
        raise AssertionError(f"{name} was never sent")


@pytest.fixture
def bench(wire: Wire) -> Iterator[Bench]:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    view = iw.TokenAttribution(session, steps=4)
    page = open_page(wire, session)
    page.calm()
    yield Bench(session, page, view)
    session.close()


def test_every_method_gives_its_own_numbers_and_its_line_ends_with_the_evidence(bench: Bench) -> None:
    question = bench.session.question
    assert question is not None
    for method in METHODS:
        bench.view.method = method
        bench.page.wait(
            lambda method=method: (
                bench.page.panel(bench.view)["status"] == "done"
                and bench.page.panel(bench.view)["data"]["method"] == method
                and "evidence" in bench.page.panel(bench.view)["data"]["line"]
            ),
            method,
        )
        alone = attribute(bench.session.model, question, method=method, steps=4)
        np.testing.assert_allclose(bench.array("scores"), alone.scores, atol=1e-5)
        line = bench.page.panel(bench.view)["data"]["line"]
        assert line.startswith(alone.line)
        assert line.endswith(evidence(bench.session.model, question, alone.scores).line)
    assert bench.page.panel(bench.view)["data"]["methods"] == list(METHODS)


def test_the_evidence_is_one_point_of_the_deletion_test(bench: Bench) -> None:
    question = bench.session.question
    assert question is not None
    scores = attribute(bench.session.model, question).scores
    whole = deletion_test(bench.session.model, question, scores)
    for k in (1, 3, 99):
        one = evidence(bench.session.model, question, scores, k=k)
        assert one.cost == pytest.approx(whole.cost(one.k), abs=1e-5)
        assert one.random_cost == pytest.approx(whole.random_cost(one.k), abs=1e-5)
        assert one.line == whole.line(k)


def test_gradients_are_shown_until_the_finer_method_has_answered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = module.attribute

    def shown() -> str:
        return next(told["data"]["method"] for told in reversed(bench.told) if "method" in told["data"])

    def slowly(*args: Any, **kwargs: Any) -> Any:
        method = args[3]
        if method == "integrated_gradients":
            bench.page.wait(lambda: shown() == "gradient_x_input", "the rough scores")
        asked.append(method)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "attribute", slowly)
    bench.page.ablate("L0H1")
    bench.page.calm()
    assert asked[:2] == ["gradient_x_input", "integrated_gradients"]
    assert sorted(asked) == sorted(METHODS)  # each once: what is compared is what was shown
    assert shown() == "integrated_gradients"


def test_going_back_to_a_method_or_a_state_computes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.page.ablate("L0H1")
    bench.page.calm()
    for name in ("attribute", "evidences", "deletion_steps", "direct_by_source"):
        monkeypatch.setattr(module, name, lambda *_a, **_k: pytest.fail("computed again"))
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.panel(bench.view)["status"] == "done"
    assert "plain run" in bench.page.panel(bench.view)["data"]["line"]


def test_words_and_sentences_cover_every_token_once_in_order(bench: Bench) -> None:
    for by in ("word", "sentence", "line"):
        index = bench.array("groups", by)
        assert len(index) == len(bench.session.question.first.tokens)  # pyright: ignore[reportOptionalMemberAccess]
        assert index[0] == 0
        assert set(np.diff(index)) <= {0, 1}


def test_of_a_prompt_set_the_line_says_which_one_is_explained(bench: Bench) -> None:
    bench.session.ask([iw.Example(PROMPT, "w11", "w13"), iw.Example("w3 w4 w5", "w11", "w13")])
    bench.page.calm()
    assert bench.page.panel(bench.view)["data"]["line"].startswith("the first of 2 prompts · explains the plain run")


def test_another_next_token_becomes_the_target_and_the_foil_stays(bench: Bench) -> None:
    before = bench.session.answer.metric
    token = next(n.id for n in bench.session.answer.top if n.text not in ("w11", "w13"))
    bench.page.wish("panel", "target", panel=bench.view.panel, action="target", id=token)
    bench.page.calm()
    question = bench.page.state["question"]
    assert [t["id"] for t in question["target"]] == [token]
    assert [t["text"].strip() for t in question["foil"]] == ["w13"]
    assert question["prompt"] == PROMPT
    assert bench.page.metric != pytest.approx(before, abs=1e-3)
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.metric == pytest.approx(before, abs=1e-6)


def test_the_foil_as_the_target_changes_places_with_it(bench: Bench) -> None:
    before = bench.session.answer.metric
    foil = bench.page.state["question"]["foil"][0]["id"]
    bench.page.wish("panel", "target", panel=bench.view.panel, action="target", id=foil)
    bench.page.calm()
    assert bench.page.metric == pytest.approx(-before, abs=1e-5)


def test_what_is_no_token_is_refused_in_a_sentence(bench: Bench) -> None:
    for wrong in (-1, 10**9, "w11", True, None):
        seq = bench.page.wish("panel", "target", panel=bench.view.panel, action="target", id=wrong)
        bench.page.wait(lambda seq=seq: bench.page.refusal(seq), "a refusal")
        assert "is not the id of a token" in str(bench.page.refusal(seq))


def test_the_threshold_runs_over_real_answers_and_the_curves_are_the_deletion_tests(bench: Bench) -> None:
    live, asked = bench.session.model, bench.session.question.first  # pyright: ignore[reportOptionalMemberAccess]
    scores = attribute(live, asked, steps=4).scores
    whole = deletion_test(live, asked, scores)
    order, counts = bench.array("deletion", "order"), bench.array("deletion", "counts").tolist()
    assert order.tolist() == list(whole.order)
    assert counts == list(range(len(whole.order) + 1))
    assert bench.data["deletion"]["orders"] == len(whole.random_deletion)
    for name, own, drawn in (
        ("deletion", whole.deletion, whole.random_deletion),
        ("insertion", whole.insertion, whole.random_insertion),
    ):
        np.testing.assert_allclose(bench.array("deletion", name, "own"), own, atol=1e-5)
        np.testing.assert_allclose(bench.array("deletion", name, "low"), drawn.min(0), atol=1e-5)
        np.testing.assert_allclose(bench.array("deletion", name, "high"), drawn.max(0), atol=1e-5)
    assert bench.data["deletion"]["deletion"]["area"] == pytest.approx(whole.deletion_area, abs=1e-5)
    ids = [t["id"] for t in bench.data["deletion"]["tokens"]]
    table = bench.array("deletion", "probabilities")
    for count in (0, 2, len(order)):
        real = delete(live, asked, order[:count].tolist()).logits.softmax(-1)
        np.testing.assert_allclose(table[count], real[ids].numpy(), atol=1e-6)
        assert int(real.argmax()) in ids


def test_the_deletion_test_replaces_the_spans_that_scores_are_summed_over(bench: Bench) -> None:
    live, asked = bench.session.model, bench.session.question.first  # pyright: ignore[reportOptionalMemberAccess]
    scores = attribute(live, asked, steps=4).scores
    for spans, units, unit in (
        ("sentence", "sentence", "sentence"),
        ("selection", ((1, 3),), "span"),
        ("token", "token", "token"),
    ):
        bench.view.selection = ((1, 3),)
        bench.view.spans = spans
        expected = deletion_test(live, asked, scores, spans=units, orders=1)
        bench.page.wait(lambda u=unit: bench.data["deletion"].get("unit") == u, unit)
        bench.page.calm()
        assert bench.array("deletion", "order").tolist() == list(expected.order)
        assert bench.array("deletion", "units").tolist() == list(range(len(expected.units) + 1))
        np.testing.assert_allclose(bench.array("deletion", "deletion", "own"), expected.deletion, atol=1e-5)
    bench.view.selection = ((2, 99),)
    bench.view.spans = "selection"
    bench.page.wait(lambda: "outside the prompt" in bench.data["deletion"].get("note", ""), "a refusal")
    assert bench.page.panel(bench.view)["status"] != "failed"


def test_methods_stand_side_by_side_with_their_checks_and_their_rank_correlation(bench: Bench) -> None:
    live, asked = bench.session.model, bench.session.question.first  # pyright: ignore[reportOptionalMemberAccess]
    alone = {method: attribute(live, asked, method=method, steps=4) for method in METHODS}
    compare = bench.data["compare"]
    assert compare["methods"] == list(METHODS)
    table = bench.array("compare", "scores")
    for row, (method, result) in enumerate(alone.items()):
        np.testing.assert_allclose(table[row], result.scores, atol=1e-5)
        assert compare["lines"][row].startswith(result.line)
        assert compare["lines"][row].endswith(evidence(live, asked, result.scores).line), method
        found = evidence(live, asked, result.scores)
        assert bench.array("compare", "checks")[row] == pytest.approx(
            [found.k, found.cost, found.random_cost], abs=1e-5
        )
    ranked = agreement({method: result.scores for method, result in alone.items()})
    np.testing.assert_allclose(bench.array("compare", "correlations"), ranked.correlations, atol=1e-5)


def test_the_page_offers_the_baselines_that_there_are_and_the_scores_follow_the_choice(bench: Bench) -> None:
    assert bench.data["baselines"] == ["auto", "mean", "zero", "bos", "unk"]
    bench.session.ask(PROMPT, target="w11", foil="w13", corrupt="w3 w4 w5 w6 w7 w8")
    bench.page.calm()
    assert bench.data["baselines"] == ["auto", "mean", "zero", "bos", "unk", "corrupt"]
    for name, said in (("corrupt", "corrupt prompt"), ("bos", "BOS embedding")):
        bench.view.baseline = name
        bench.page.calm()
        assert f"baseline {said}" in bench.data["line"]
        asked = bench.session.question.first  # pyright: ignore[reportOptionalMemberAccess]
        alone = attribute(bench.session.model, asked, steps=4, baseline=name)
        np.testing.assert_allclose(bench.array("scores"), alone.scores, atol=1e-5)


def test_each_token_names_the_heads_that_carried_it_and_what_all_others_carried(bench: Bench) -> None:
    live, asked = bench.session.model, bench.session.question.first  # pyright: ignore[reportOptionalMemberAccess]
    parts = direct_by_source(live, asked)
    layers, heads, values, sums = (bench.array("carriers", name) for name in ("layers", "heads", "values", "sums"))
    for position in range(len(asked.tokens)):
        named = [(f"L{a}H{b}", v) for a, b, v in zip(layers[position], heads[position], values[position], strict=True)]
        expected = parts.carriers(position, len(named))
        assert [name for name, _ in named] == [name for name, _ in expected]
        assert [v for _, v in named] == pytest.approx([v for _, v in expected], abs=1e-6)
    np.testing.assert_allclose(sums, parts.by_token, atol=1e-6)
    layer_sums = bench.array("carriers", "layer_sums")
    np.testing.assert_allclose(layer_sums, parts.sources.sum(1).T, atol=1e-6)
    np.testing.assert_allclose(layer_sums.sum(1), sums, atol=1e-5)


def test_a_whole_answer_is_written_and_every_token_of_it_explained(bench: Bench) -> None:
    live, asked = bench.session.model, bench.session.question.first  # pyright: ignore[reportOptionalMemberAccess]
    bench.view.answer = 3
    bench.page.wait(lambda: bench.data.get("answer", {}).get("method") == "integrated_gradients", "the answer")
    bench.page.calm()
    written = [t.id for t in live.generate(list(asked.ids), max_new_tokens=3)]
    assert [t["id"] for t in bench.data["answer"]["outputs"]] == written
    table = attribute_answer(live, asked, written, method="integrated_gradients", steps=4)
    np.testing.assert_allclose(bench.array("answer", "scores"), table.scores, atol=1e-5)
    assert all(token["id"] == tops[0]["id"] for token, tops in zip(
        bench.data["answer"]["outputs"], bench.data["answer"]["tops"], strict=True
    ))  # fmt: skip


def test_a_token_that_might_have_been_written_is_explained_in_its_place(bench: Bench) -> None:
    bench.view.answer = 3
    bench.page.wait(lambda: bench.data.get("answer", {}).get("method") == "integrated_gradients", "the answer")
    bench.page.calm()
    rows, written = bench.array("answer", "scores"), bench.data["answer"]["outputs"]
    own, other = written[1]["id"], bench.data["answer"]["tops"][1][1]["id"]
    for token in (own, other):
        bench.page.wish("panel", "instead", panel=bench.view.panel, action="instead", output=1, id=token)
        bench.page.wait(lambda token=token: (bench.data.get("instead") or {}).get("id") == token, "the other token")
    live, asked = bench.session.model, bench.session.question.first  # pyright: ignore[reportOptionalMemberAccess]
    alone = attribute_answer(live, asked, [written[0]["id"], other], method="integrated_gradients", steps=4)
    row = bench.array("instead", "scores")
    assert len(row) == rows.shape[1]
    np.testing.assert_allclose(row[: len(alone.inputs)], alone.scores[1], atol=1e-5)
    assert not row[len(alone.inputs) :].any()
    assert not np.allclose(row, rows[1], atol=1e-4)


def test_a_pattern_is_found_or_refused_beside_its_field_and_costs_no_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "attribute", lambda *_a, **_k: pytest.fail("computed again"))
    bench.view.pattern = r"w\d\d"
    bench.page.wait(lambda: bench.data["matches"] is not None, "matches")
    index = bench.array("matches", "index").tolist()
    chosen = set(bench.array("matches", "chosen").tolist())
    tokens = [t["text"].strip() for t in bench.data["tokens"]]
    assert [key in chosen for key in index] == [len(text) == 3 for text in tokens]
    for wrong, sentence in (("(", "cannot be read"), ("zebra", "matches nothing")):
        bench.view.pattern = wrong
        bench.page.wait(lambda s=sentence: s in bench.data["matches_note"], sentence)
        assert bench.data["matches"] is None


@pytest.mark.parametrize("wrong", [[[2, 1]], [[0, 2], [1, 3]], [[0]], [["a", 2]], "token", [[-1, 2]], [[0, True]]])
def test_a_selection_that_makes_no_sense_is_refused_and_the_old_one_stays(bench: Bench, wrong: Any) -> None:
    bench.view.selection = ((0, 2), (3, 4))
    with pytest.raises(traitlets.TraitError):
        bench.view.selection = wrong
    assert bench.view.selection == ((0, 2), (3, 4))


def test_what_takes_long_asks_first_and_shows_something_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK", 0.0)
    bench.page.ablate("L0H1")
    bench.page.wait(lambda: bench.page.panel(bench.view)["status"] == "asking", "a question")
    assert bench.data["method"] == "gradient_x_input"
    assert bench.data["estimate_seconds"] > 0
    bench.page.wish("panel", "compute", panel=bench.view.panel, action="compute")
    bench.page.wait(lambda: bench.data["method"] == "integrated_gradients", "the method that was agreed to")
    bench.page.calm()
    waiting = {one["method"] for one in bench.data["compare"]["waiting"]}
    assert waiting >= {"occlusion"}
    assert bench.data["deletion"]["orders"] == 1
    assert bench.data["deletion"]["wait"] > 0
    bench.page.wish("panel", "compute", panel=bench.view.panel, action="compute", what="occlusion")
    bench.page.wait(lambda: "occlusion" in bench.data["compare"]["methods"], "occlusion")


@pytest.mark.parametrize("method", ["gradient_x_input", "lrp"])
def test_what_would_take_long_beside_a_quick_method_waits_for_a_yes_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(module, "ASK", 0.0)
    bench.view.method = method
    bench.page.wait(lambda: bench.data.get("compare", {}).get("waiting"), "the methods that wait")
    bench.page.calm()
    waiting = {one["method"]: one["seconds"] for one in bench.data["compare"]["waiting"]}
    assert set(waiting) >= {"integrated_gradients", "occlusion"}
    assert all(seconds > 0 for seconds in waiting.values())
    assert bench.data["deletion"]["orders"] == 1
    bench.view.method = "direct"
    bench.page.calm()
    bench.view.method = method  # from what is kept: still as long
    bench.page.calm()
    assert {one["method"] for one in bench.data["compare"]["waiting"]} >= {"integrated_gradients", "occlusion"}


def test_the_other_views_come_before_the_checks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = iw.HeadAblation(bench.session, mode="zero")
    bench.page.calm()
    told = record(monkeypatch, bench.session)
    bench.page.ablate("L0H1")
    bench.page.calm()
    done = next(i for i, said in enumerate(told) if said.panel == heads.panel and said.status == "done")
    deletion = next(i for i, said in enumerate(told) if "deletion" in said.data)
    assert done < deletion


def test_a_prompt_of_one_token_is_refused_where_the_scores_would_be_and_the_next_one_is_explained(bench: Bench) -> None:
    bench.session.ask("w5", target="w11", foil="w13")
    bench.page.wait(lambda: bench.page.panel(bench.view)["status"] == "failed", "a refusal")
    assert "a single token" in bench.page.panel(bench.view)["message"]
    bench.session.ask(PROMPT, target="w11", foil="w13")
    bench.page.calm()
    assert bench.page.panel(bench.view)["status"] == "done"
    assert "evidence" in bench.data["line"]


def test_target_and_foil_of_one_token_are_refused_and_the_old_question_stays(bench: Bench) -> None:
    before = bench.session.question
    with pytest.raises(iw.PromptError, match="both"):
        bench.session.ask(PROMPT, target="w11", foil="w11")
    assert bench.session.question is before


@pytest.mark.parametrize(
    "prompt",
    ["<script>alert(1)</script> & <b>x</b>", "שלום עולם said", "a 👍🏽 b\n\tc\u00a0d", "\u202eabc", "café\r\n"],
)
def test_whatever_the_text_its_tokens_are_told_literally_and_every_check_ends(wire: Wire, prompt: str) -> None:
    session = iw.open()
    session.ask(prompt)
    view = iw.TokenAttribution(session, method="gradient_x_input", answer=1)
    page = open_page(wire, session)
    page.calm(120)
    data = page.panel(view)["data"]
    tokens = session.question.first.tokens  # pyright: ignore[reportOptionalMemberAccess]
    assert [t["text"] for t in data["tokens"]] == [t.text for t in tokens]
    assert [t["kind"] for t in data["tokens"]] == [t.kind for t in tokens]
    assert page.panel(view)["status"] == "done"
    assert data["answer"].get("outputs") or data["answer"]["note"]
    session.close()
