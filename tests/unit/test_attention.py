"""Attention patterns: scores with known answers, value weights by the projection itself, and what goes over the wire."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.attention import Attention, attention
from interp_widgets.model.question import Token
from interp_widgets.widgets.attention_patterns import AttentionPatterns, cells_of, large_of, pooled, thumbnails
from interp_widgets.widgets.pattern_overview import exact_layer, measure
from tests.unit.comm import RecordingComm, Sent, Wire
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w5 w9 w12 w5 w30 w7"


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open({"gpt2": gpt2, "llama": llama}[request.param](), tokenizer())
    opened.ask(PROMPT, target="w11", foil="w13")
    yield opened
    opened.close()


def made(rows: list[list[float]], ids: list[int]) -> Attention:
    return Attention(tuple(Token(i, str(i)) for i in ids), np.array([[rows]], dtype=np.float32))


def test_scores_of_hand_made_patterns_are_known() -> None:
    previous = made([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [3, 4, 3, 4])
    assert previous.previous_token[0, 0] == 1.0
    assert previous.duplicate_token[0, 0] == 0.0
    assert previous.induction[0, 0] == 1.0
    duplicate = made([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], [3, 4, 3, 4])
    assert duplicate.duplicate_token[0, 0] == 1.0
    assert duplicate.induction[0, 0] == 0.0
    assert np.isnan(made([[1, 0], [1, 0]], [3, 4]).induction[0, 0])


def test_rows_sum_to_one_and_nobody_looks_ahead(session: iw.Session) -> None:
    question = session.question
    assert question is not None
    patterns = attention(session.model, question.first).patterns
    assert np.allclose(patterns.sum(-1), 1, atol=1e-5)
    assert (np.triu(patterns, 1) == 0).all()


def test_value_weights_are_norms_through_the_models_own_projection(session: iw.Session) -> None:
    question, live = session.question, session.model
    assert question is not None
    found = attention(live, question.first, value_weighted=True)
    run = live.run(PROMPT, read=["L1.v"])
    part = live.anatomy.layers[1].attention
    assert part is not None and found.weights is not None
    v = run["L1.v"].repeat_interleave(4 // run["L1.v"].shape[1], dim=1)
    alone = torch.zeros(6, 32)
    alone[:, 16:24] = v[:, 2]
    with torch.no_grad():
        expected = (part.output(alone[None]) - part.output(torch.zeros(1, 6, 32)))[0].norm(dim=-1)
    assert np.allclose(found.weights[1, 2], expected, atol=1e-5)


def test_patterns_follow_the_interventions(session: iw.Session) -> None:
    question = session.question
    assert question is not None
    plain = attention(session.model, question.first).patterns
    edited = attention(session.model, question.first, [iw.Ablate("L0.heads", mode="zero")]).patterns
    assert np.array_equal(plain[0], edited[0])
    assert not np.allclose(plain[1], edited[1], atol=1e-4)


def test_thumbnails_keep_the_largest_of_what_they_cover_and_large_ones_are_exact() -> None:
    rng = np.random.default_rng(0)
    values = np.tril(rng.random((1, 2, 200, 200))).astype(np.float32)
    small = thumbnails(values, 1.0, signed=False)
    assert small.shape == (1, 2, 64 * 65 // 2)
    assert small.max() == np.rint(values.max() * 255)
    assert np.array_equal(large_of(values, 0, 1)["values"], values[0, 1][np.tril_indices(200)])
    signed = thumbnails(np.array([[[[0.0]]]], dtype=np.float32), 1.0, signed=True)
    assert signed.tolist() == [[[128]]]


def test_the_view_sends_triangles_and_refuses_a_head_that_is_not_there(session: iw.Session, wire: Wire) -> None:
    view = AttentionPatterns(session)
    mirror = next(w for w in session.widgets if type(w).__name__ == "SessionWidget")
    page = wire.of(mirror)

    def done() -> bool:
        return any(s.content.get("kind") == "panel" and s.content["status"] == "done" for s in page.custom)

    page.wait(done, "the patterns")
    last = next(s for s in reversed(page.custom) if s.content.get("kind") == "panel" and s.content["data"])
    assert last.content["data"]["thumbs:1"]["shape"] == [4, 21]
    wish = {"panel": view.panel, "action": "head", "layer": 1, "head": 9}
    page.receive(
        {"kind": "intent", "client": "a", "seq": 1, "name": "panel", "key": f"panel:{view.panel}", "args": wish}
    )
    page.wait(
        lambda: any(s.content.get("kind") == "refused" and "L1H9" in s.content["message"] for s in page.custom),
        "the refusal",
    )


def test_a_cut_edge_takes_that_source_away_from_that_destination_alone(session: iw.Session) -> None:
    plain = session.answer.metric
    session.cut("L1H2", 5, 1)
    question = session.question
    assert question is not None
    edited = attention(session.model, question.first, session.interventions).patterns
    before = attention(session.model, question.first).patterns
    assert edited[1, 2, 5, 1] == 0.0
    changed = np.abs(edited - before).max(-1) > 0
    assert changed[1].sum() == 1
    assert changed[1, 2, 5]
    assert session.answer.metric != plain
    assert [r.state for r in session.answer.receipts] == ["acted"]
    session.cut("L1H2", 5, 1, off=False)
    assert session.answer.metric == plain


def test_a_cut_edge_does_not_pass_for_a_head_that_is_off(session: iw.Session) -> None:
    session.cut("L1H2", 5, 1)
    session.toggle("L1H2")
    assert len(session.interventions) == 2
    session.toggle("L1H2")
    assert [i.label for i in session.interventions] == ["ablate L1H2, edge 5 ← 1"]


@pytest.mark.parametrize(
    ("site", "dest", "src", "words"),
    [("L1H2", 1, 5, "looks back"), ("L1H2", 9, 1, "has 6 tokens"), ("L1H9", 3, 1, "L1H9"), ("L1.mlp", 3, 1, "a head")],
)
def test_an_edge_that_is_not_there_is_refused_in_a_sentence(
    session: iw.Session, site: str, dest: int, src: int, words: str
) -> None:
    revision = session.revision
    with pytest.raises(iw.InterpError, match=words):
        session.cut(site, dest, src)
    assert session.revision == revision


def test_the_page_cuts_and_mends_an_edge(session: iw.Session, wire: Wire) -> None:
    AttentionPatterns(session)
    page = wire.of(next(w for w in session.widgets if type(w).__name__ == "SessionWidget"))
    edge = {"site": "L1H2", "dest": 5, "src": 1}
    wish = {"kind": "intent", "client": "a", "name": "edge", "key": "edge:L1H2:5:1"}
    page.receive({**wish, "seq": 1, "args": {**edge, "off": True}})
    assert [i.label for i in session.interventions] == ["ablate L1H2, edge 5 ← 1"]
    page.receive({**wish, "seq": 2, "args": {**edge, "off": False}})
    assert session.interventions == ()
    page.receive({**wish, "seq": 3, "args": {**edge, "dest": -1, "off": True}})
    page.wait(lambda: any("position from 0" in s.content.get("message", "") for s in refusals(page)), "the refusal")


def refusals(page: RecordingComm) -> list[Sent]:
    return [s for s in page.custom if s.content.get("kind") == "refused"]


def test_another_head_is_drawn_without_another_run(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = AttentionPatterns(session, layer=0, head=1)
    page = wire.of(next(w for w in session.widgets if type(w).__name__ == "SessionWidget"))

    def larges() -> list[tuple[int, int]]:
        sent = [s.content["data"] for s in page.custom if s.content.get("kind") == "panel" and s.content["data"]]
        return [(d["large"]["layer"], d["large"]["head"]) for d in sent if "large" in d]

    page.wait(lambda: larges() == [(0, 1)], "the head that was asked for")
    monkeypatch.setattr("interp_widgets.methods.attention.forward", None)
    wish = {"panel": view.panel, "action": "head", "layer": 1, "head": 3}
    page.receive({"kind": "intent", "client": "a", "seq": 1, "name": "panel", "key": "panel", "args": wish})
    page.wait(lambda: larges()[-1] == (1, 3), "another head")
    view.head = 2
    page.wait(lambda: larges()[-1] == (1, 2), "a head chosen from Python")


def test_a_head_that_is_not_there_is_refused_when_the_view_opens(session: iw.Session, wire: Wire) -> None:
    with pytest.raises(iw.InterventionError, match="L7H0 does not exist"):
        AttentionPatterns(session, layer=7)


@pytest.mark.parametrize(
    ("tokens", "heads", "size"), [(6, 8, 6), (512, 144, 64), (512, 48 * 64, 19), (2048, 100 * 96, 10)]
)
def test_all_thumbnails_and_a_large_pattern_fit_into_one_message(tokens: int, heads: int, size: int) -> None:
    assert cells_of(tokens, heads) == size
    assert heads * size * (size + 1) // 2 <= 600_000
    values = np.ones((1, 1, tokens, tokens), dtype=np.float32)
    large = large_of(values, 0, 0)
    assert large["values"].nbytes <= 300_000
    assert large["size"] == min(tokens, 547)


@pytest.mark.parametrize("tokens", [386, 387, 512, 547])
def test_every_value_of_a_large_pattern_is_right_to_the_last_digit_that_is_shown(tokens: int) -> None:
    values = np.tril(np.random.default_rng(1).random((1, 1, tokens, tokens)) ** 8).astype(np.float32)
    large = large_of(values, 0, 0)
    read = large["values"].astype(np.float64)
    if "low" in large:
        read = large["low"] + read * (large["high"] - large["low"]) / 65_535
    assert large["size"] == tokens
    assert np.abs(read - values[0, 0][np.tril_indices(tokens)]).max() <= (0 if tokens == 386 else 1e-5)


@pytest.mark.parametrize("show", ["now", "difference", "value-weighted"])
def test_a_model_too_large_to_hold_all_patterns_shows_the_same_a_layer_at_a_time(
    session: iw.Session, monkeypatch: pytest.MonkeyPatch, show: str
) -> None:
    question = session.question
    assert question is not None
    on = [iw.Ablate("L0H1", mode="zero"), iw.Ablate("L1H2", mode="edge", edge=(4, 1))]
    held = measure(session.model, question.first, on, show)
    monkeypatch.setattr("interp_widgets.widgets.pattern_overview.KEPT", 4 * 4 * 6 * 6)
    layered = measure(session.model, question.first, on, show, chosen=1)
    assert sorted(held.exact) == list(range(len(session.model.anatomy.layers)))
    assert sorted(layered.exact) == [1], "only the layer that is drawn large is held"
    told, expected = layered.told(), held.told()
    assert told["limit"] == expected["limit"]
    for name, value in expected.items():
        if name.startswith("thumbs"):
            assert np.array_equal(told[name], value)
    for name, scores in expected["scores"].items():
        assert np.array_equal(told["scores"][name], scores, equal_nan=True)
    for layer, values in held.exact.items():
        assert np.array_equal(exact_layer(session.model, question.first, on, show, layer), values)


def test_a_head_of_a_layer_that_is_not_held_is_measured_again(
    session: iw.Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp_widgets.widgets.pattern_overview.KEPT", 1)
    view = AttentionPatterns(session, layer=0, head=1)
    page = wire.of(next(w for w in session.widgets if type(w).__name__ == "SessionWidget"))

    def newest() -> Sent:
        return next(s for s in reversed(page.custom) if "large" in (s.content.get("data") or {}))

    def shown() -> tuple[int, int]:
        large = newest().content["data"]["large"]
        return large["layer"], large["head"]

    page.wait(lambda: any("large" in (s.content.get("data") or {}) for s in page.custom), "the first head")
    assert shown() == (0, 1)
    wish = {"panel": view.panel, "action": "head", "layer": 1, "head": 3}
    page.receive({"kind": "intent", "client": "a", "seq": 1, "name": "panel", "key": "panel", "args": wish})
    page.wait(lambda: shown() == (1, 3), "another layer's head")
    sent = newest()
    values = np.frombuffer(sent.buffers[sent.content["data"]["large"]["values"]["$array"]], np.float32)
    assert np.array_equal(values, iw.attention(session)[1, 3][np.tril_indices(6)])


def test_a_pooled_pattern_keeps_the_largest_of_every_block_with_its_sign() -> None:
    values = np.zeros((1, 1, 7, 7), dtype=np.float32)
    values[0, 0, 5, 1], values[0, 0, 6, 3] = -0.5, 0.25
    small = pooled(values, 3)[0, 0]
    assert small.shape == (3, 3)
    assert sorted(small[small != 0].tolist()) == [-0.5, 0.25]
    assert small[2, 0] == -0.5


def test_the_public_function_gives_the_patterns_of_the_state_on_screen(session: iw.Session) -> None:
    plain = iw.attention(session)
    assert plain.shape == (len(session.model.anatomy.layers), 4, 6, 6)
    session.cut("L1H2", 5, 1)
    assert iw.attention(session)[1, 2, 5, 1] == 0.0
    assert np.array_equal(iw.attention(session.model, session.question), plain)
    assert not np.allclose(iw.attention(session, value_weighted=True).sum(-1), 1)
