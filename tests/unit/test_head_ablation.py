"""HeadAblation as a page sees it: every number against a plain hook script, and every wish answered."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods import head_effects as sweeps
from interp_widgets.widgets import head_ablation as module
from tests.unit import tiny_models
from tests.unit.comm import Json, Sent, Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page, record

CORRUPT = "w5 w9 w13 w5 w31 w8"
LAYERS, HEADS = 3, 4
MODELS = {"gpt2": tiny_models.gpt2, "llama": tiny_models.llama, "deep": lambda: tiny_models.gpt2(n_layer=6)}
ONE = pytest.mark.parametrize("bench", ["gpt2"], indirect=True)
DEEP = pytest.mark.parametrize("bench", ["deep"], indirect=True)


@dataclass
class Script:
    """A copy of the model and plain hooks: what a careful reader would write to check the widget."""

    model: Any
    ids: list[int]

    def projection(self, layer: int) -> Any:
        """The module whose input is the heads' outputs, side by side."""
        if hasattr(self.model, "transformer"):
            return self.model.transformer.h[layer].attn.c_proj
        return self.model.model.layers[layer].self_attn.o_proj

    def logits(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()

    def inputs(self, layer: int, ids: list[int]) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handle = self.projection(layer).register_forward_pre_hook(lambda _m, args: seen.append(args[0][0].clone()))
        self.logits(ids)
        handle.remove()
        return seen[0]

    def without(
        self, layer: int, head: int, value: torch.Tensor | float, where: list[int] | None = None
    ) -> torch.Tensor:
        def cut(_module: Any, args: Any) -> Any:
            x = args[0].clone()
            width = x.shape[-1] // HEADS
            part = x[0, :, head * width : (head + 1) * width]
            at = list(range(len(part))) if where is None else where
            new = torch.as_tensor(value).expand(part.shape)
            part[at] = new[at]
            return (x,)

        handle = self.projection(layer).register_forward_pre_hook(cut)
        try:
            return self.logits(self.ids)
        finally:
            handle.remove()

    def value(self, mode: str, layer: int, head: int, others: list[list[int]]) -> torch.Tensor | float:
        if mode == "zero":
            return 0.0
        rows = [self.inputs(layer, ids).unflatten(-1, (HEADS, -1))[:, head] for ids in others]
        return rows[0] if mode == "resample" else torch.cat(rows).mean(0)


@dataclass
class Bench:
    session: iw.Session
    page: Page
    script: Script
    wire: Wire
    target: int
    foil: int

    def metric(self, logits: torch.Tensor) -> float:
        return float(logits[self.target] - logits[self.foil])

    def ids(self, text: str) -> list[int]:
        return [t.id for t in self.session.model.tokens.encode(text)]

    def array(self, view: iw.HeadAblation, name: str) -> Any:
        """An array of the panel as the page has it, out of the newest message that carries it."""
        for sent in reversed(self.page.of("panel")):
            value = (sent.content["data"] or {}).get(name)
            if sent.content["panel"] == view.panel and value is not None:
                return unpack(value, sent)
        raise AssertionError(f"{name} was never sent")


def unpack(value: Any, sent: Sent) -> Any:
    if isinstance(value, dict) and "$array" in value:
        return np.frombuffer(sent.buffers[value["$array"]], value["dtype"]).reshape(value["shape"])
    return {k: unpack(v, sent) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.fixture(params=["gpt2", "llama"])
def bench(request: pytest.FixtureRequest, wire: Wire) -> Iterator[Bench]:
    model = MODELS[request.param]()
    plain = copy.deepcopy(model)
    session = iw.open(model, tiny_models.tokenizer())
    session.reference = REFERENCE
    question = session.ask(PROMPT, target="w11", foil="w13")
    first = question.first
    page = open_page(wire, session)
    yield Bench(session, page, Script(plain, list(first.ids)), wire, first.target[0].id, first.foil[0].id)
    session.close()


def shown(bench: Bench, **settings: Any) -> iw.HeadAblation:
    view = iw.HeadAblation(bench.session, **settings)
    bench.page.calm()
    return view


def wish(bench: Bench, view: iw.HeadAblation, action: str, **args: Any) -> int:
    return bench.page.wish("panel", f"{action}:{view.panel}", panel=view.panel, action=action, **args)


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
def test_every_number_of_the_grid_is_what_a_plain_hook_script_gives(bench: Bench, mode: str) -> None:
    if mode == "resample":
        bench.session.reference = CORRUPT
    prompts = [CORRUPT] if mode == "resample" else REFERENCE
    others = [bench.ids(text) for text in prompts]
    view = shown(bench, mode=mode)
    base = bench.script.logits(bench.script.ids)
    before = base.log_softmax(-1)
    names = ("effects", "metrics", "kl", "ranks", "chances", "chance_effects", "rank_effects")
    tables = {name: bench.array(view, name) for name in names}
    for layer in range(LAYERS):
        for head in range(HEADS):
            logits = bench.script.without(layer, head, bench.script.value(mode, layer, head, others))
            after = logits.log_softmax(-1)
            at = (layer, head)
            assert tables["metrics"][at] == pytest.approx(bench.metric(logits), abs=1e-4)
            assert tables["effects"][at] == pytest.approx(bench.metric(base) - bench.metric(logits), abs=1e-4)
            assert tables["kl"][at] == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-4)
            assert tables["ranks"][at] == int((logits > logits[bench.target]).sum()) + 1
            assert tables["chances"][at] == pytest.approx(float(after[bench.target].exp()), abs=1e-4)
            lost = float(before[bench.target].exp() - after[bench.target].exp())
            assert tables["chance_effects"][at] == pytest.approx(lost, abs=1e-4)
            fallen = int((logits > logits[bench.target]).sum()) - int((base > base[bench.target]).sum())
            assert tables["rank_effects"][at] == fallen
    data = bench.page.panel(view)["data"]
    assert data["baseline"] == pytest.approx(bench.metric(base), abs=1e-4)
    assert data["baseline_chance"] == pytest.approx(float(before[bench.target].exp()), abs=1e-5)
    assert data["baseline_rank"] == int((base > base[bench.target]).sum()) + 1


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
def test_the_number_after_a_click_is_the_one_that_hovering_promised(bench: Bench, mode: str) -> None:
    if mode == "resample":
        bench.session.reference = CORRUPT
    others = [bench.ids(text) for text in ([CORRUPT] if mode == "resample" else REFERENCE)]
    view = shown(bench, mode=mode)
    promised = bench.array(view, "metrics")[1, 2]
    bench.page.ablate("L1H2", mode=mode)
    bench.page.calm()
    logits = bench.script.without(1, 2, bench.script.value(mode, 1, 2, others))
    assert bench.page.metric == pytest.approx(bench.metric(logits), abs=1e-4)
    assert bench.page.metric == pytest.approx(promised, abs=1e-4)
    assert bench.page.state["answer"]["rank"] == int((logits > logits[bench.target]).sum()) + 1
    assert bench.page.state["answer"]["target_probability"] == pytest.approx(
        float(logits.softmax(-1)[bench.target]), abs=1e-5
    )
    before = bench.script.logits(bench.script.ids).log_softmax(-1)
    kl = float((before.exp() * (before - logits.log_softmax(-1))).sum())
    assert bench.page.state["answer"]["kl"] == pytest.approx(kl, abs=1e-4)


def test_at_chosen_positions_grid_and_click_are_the_hook_scripts(bench: Bench) -> None:
    view = shown(bench, mode="zero", positions=[1, 4])
    table = bench.array(view, "metrics")
    for layer in range(LAYERS):
        for head in range(HEADS):
            logits = bench.script.without(layer, head, 0.0, [1, 4])
            assert table[layer, head] == pytest.approx(bench.metric(logits), abs=1e-4)
    bench.page.wish("ablate", "head:L0H1", site="L0H1", off=True, mode="zero", positions=[1, 4])
    bench.page.calm()
    assert bench.page.metric == pytest.approx(bench.metric(bench.script.without(0, 1, 0.0, [1, 4])), abs=1e-4)
    assert bench.page.state["interventions"][0]["positions"] == "[1, 4]"


@ONE
def test_positions_that_the_prompt_does_not_have_are_refused_and_nothing_is_lost(bench: Bench) -> None:
    bench.page.ablate("L1H1")
    for wrong in ([40], [], ["1"], [-1], [True], "somewhere"):
        seq = bench.page.wish("ablate", "head:L0H1", site="L0H1", off=True, mode="zero", positions=wrong)
        bench.page.wait(lambda seq=seq: bench.page.refusal(seq), "a refusal")
        assert "osition" in str(bench.page.refusal(seq))
    assert [i.site.name for i in bench.session.interventions] == ["L1H1"]


@ONE
def test_a_new_prompt_takes_the_chosen_positions_back(bench: Bench) -> None:
    view = shown(bench, mode="zero", positions=[5])
    bench.page.wish("ask", "ask", prompt="w3 w4", target="w11", foil="w13")
    bench.page.wait(lambda: bench.page.state["question"]["prompt"] == "w3 w4", "the new question")
    bench.page.calm()
    assert view.positions == ()
    assert bench.page.panel(view)["status"] == "done"


def test_direct_effects_come_before_the_first_ablation(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    keys = [set(s.content["data"] or {}) for s in bench.page.of("panel") if s.content["panel"] == view.panel]
    whole = [k for k in keys if "direct" in k]
    assert whole
    assert next(i for i, k in enumerate(keys) if "direct" in k) <= next(i for i, k in enumerate(keys) if "effects" in k)
    direct = bench.array(view, "direct")
    assert direct.shape == (LAYERS, HEADS)


def test_the_card_of_a_head_closes_on_its_direct_effect_and_names_its_siblings(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    wish(bench, view, "card", layer=1, head=2)
    bench.page.wait(lambda: "card" in bench.page.panel(view)["data"], "the card")
    card = bench.array(view, "card")
    assert (card["layer"], card["head"]) == (1, 2)
    assert card["contribution"].sum() == pytest.approx(bench.array(view, "direct")[1, 2], abs=1e-4)
    assert len(card["promotes"]) == 8
    assert card["siblings"] == ([] if hasattr(bench.script.model, "transformer") else ["L1H3"])
    assert bench.page.panel(view)["status"] == "done"


@ONE
def test_the_open_card_follows_the_state(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    wish(bench, view, "card", layer=2, head=0)
    bench.page.wait(lambda: "card" in bench.page.panel(view)["data"], "the card")
    before = bench.array(view, "card")["direct"]
    bench.page.ablate("L0H1")
    bench.page.calm()
    assert bench.array(view, "card")["direct"] != before


@ONE
def test_a_head_that_does_not_exist_is_refused_in_a_sentence(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    wrong: list[Json] = [{"layer": 9, "head": 0}, {"layer": 0, "head": 9}, {"layer": "0", "head": 0}, {}]
    for action in ("first", "card"):
        for site in wrong:
            seq = wish(bench, view, action, **site)
            bench.page.wait(lambda seq=seq: bench.page.refusal(seq), "a refusal")
            assert "does not exist" in str(bench.page.refusal(seq))


def test_the_grid_can_be_coloured_by_scores_that_are_read_off_the_patterns(bench: Bench) -> None:
    model = copy.deepcopy(bench.script.model)
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        ids = torch.tensor([bench.script.ids])
        patterns = torch.stack(model(ids, use_cache=False, output_attentions=True).attentions)[:, 0]
    view = shown(bench, mode="zero")
    for colour, expected in (
        ("previous-token", patterns.diagonal(-1, -2, -1).mean(-1)),
        ("duplicate-token", patterns[:, :, 3, 0]),  # w5 stands at 0 and at 3
        ("induction", patterns[:, :, 3, 1]),
    ):
        view.colour = colour
        bench.page.wait(lambda: "induction" in (bench.page.panel(view)["data"].get("scores") or {}), "the scores")
        np.testing.assert_allclose(bench.array(view, "scores")[colour], expected, atol=1e-5)
    view.colour = "copying"
    bench.page.wait(lambda: "copying" in (bench.page.panel(view)["data"].get("scores") or {}), "the copying scores")
    wish(bench, view, "card", layer=2, head=1)
    bench.page.wait(lambda: "card" in bench.page.panel(view)["data"], "the card")
    copying = bench.array(view, "scores")["copying"]
    assert copying[2, 1] == pytest.approx(bench.array(view, "card")["copying"], abs=1e-5)


def test_a_direct_effect_is_the_heads_write_through_the_final_norm_along_target_minus_foil(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    direct = bench.array(view, "direct")
    model, read = bench.script.model, len(bench.script.ids) - 1
    gpt2 = hasattr(model, "transformer")
    norm = model.transformer.ln_f if gpt2 else model.model.norm
    stream: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _m, args: stream.append(args[0][0, read].double()))
    bench.script.logits(bench.script.ids)
    handle.remove()
    x, unembed = stream[0], model.lm_head.weight.detach().double()
    row, gain = unembed[bench.target] - unembed[bench.foil], norm.weight.detach().double()
    scale = float(x.var(unbiased=False) + norm.eps if gpt2 else x.pow(2).mean() + norm.variance_epsilon) ** 0.5
    for layer in range(LAYERS):
        part = bench.script.projection(layer)
        weight = (part.weight if gpt2 else part.weight.T).detach().double()  # [head * d_head, d_model]
        z = bench.script.inputs(layer, bench.script.ids)[read].double().unflatten(-1, (HEADS, -1))
        for head in range(HEADS):
            write = z[head] @ weight.unflatten(0, (HEADS, -1))[head]
            write = write - write.mean() if gpt2 else write
            expected = float((write / scale * gain) @ row)
            assert direct[layer, head] == pytest.approx(expected, abs=1e-4)


def slow(monkeypatch: pytest.MonkeyPatch, ask: float = 0.0, say: float = 0.0) -> None:
    """Let every sweep count as one that takes long."""
    monkeypatch.setattr(sweeps, "ASK", ask)
    monkeypatch.setattr(module, "SAY", say)


@DEEP
def test_a_long_sweep_asks_and_shows_direct_effects_until_it_is_told_to(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    view = iw.HeadAblation(bench.session, mode="zero")
    bench.page.wait(lambda: bench.page.panel(view)["status"] == "asking", "the question")
    asked = bench.page.panel(view)
    assert asked["message"].startswith("All 24 heads take about")
    assert asked["data"]["meanwhile"] == "direct"
    assert asked["data"]["estimate_seconds"] > 0
    assert np.isnan(bench.array(view, "effects")[0]).all()
    wish(bench, view, "compute")
    bench.page.wait(lambda: bench.page.panel(view)["status"] == "done", "the sweep")
    assert np.isfinite(bench.array(view, "effects")).all()
    assert bench.page.panel(view)["data"]["meanwhile"] == ""


@DEEP
def test_a_sweep_of_some_seconds_says_so_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, ask=math.inf)
    told = record(monkeypatch, bench.session)
    view = shown(bench, mode="zero")
    assert bench.page.panel(view)["status"] == "done"
    assert any(said.message.startswith("All 24 heads take about") for said in told)
    assert bench.page.panel(view)["message"] == ""


@DEEP
def test_the_hovered_head_is_measured_before_its_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)
    view = iw.HeadAblation(bench.session, mode="zero")
    bench.page.wait(lambda: bench.page.panel(view)["status"] == "asking", "the question")
    wish(bench, view, "first", layer=0, head=3)
    bench.page.ablate("L2H2")
    bench.page.wait(
        lambda: (
            bench.page.panel(view)["status"] == "asking"
            and bench.page.panel(view)["revision"] == bench.session.revision
        ),
        "the question of the next state",
    )
    effects = bench.array(view, "effects")
    assert np.isfinite(effects[0, 3])
    assert np.isnan(effects[0, :3]).all()


@DEEP
def test_a_sweep_is_stopped_and_keeps_what_it_has(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    real = module.effects_of

    def slowly(*args: Any) -> Json:
        if not told:
            told.append("stop")
            view.act("stop", {})
        return real(*args)

    view = shown(bench, mode="zero")
    view._swept.clear()
    monkeypatch.setattr(module, "effects_of", slowly)
    bench.page.ablate("L2H2")
    bench.page.wait(lambda: "Stopped" in bench.page.panel(view)["message"], "the end of the sweep")
    effects = bench.array(view, "effects")
    assert np.isfinite(effects).any() and not np.isfinite(effects).all()
    wish(bench, view, "compute")
    bench.page.wait(lambda: bench.page.panel(view)["status"] == "done", "the whole sweep")
    assert np.isfinite(bench.array(view, "effects")).all()


@ONE
def test_going_back_needs_no_second_sweep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    view = shown(bench, mode="zero")
    bench.page.ablate("L1H2")
    bench.page.calm()
    before = bench.array(view, "metrics")
    monkeypatch.setattr(module, "head_effects", lambda *_a, **_k: pytest.fail("swept again"))
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.panel(view)["status"] == "done"
    assert not np.array_equal(bench.array(view, "metrics"), before)


def test_a_prompt_set_shows_its_mean_and_every_example(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    prompts = [PROMPT, "w5 w9 w12 w5", "w30 w7 w2"]
    bench.session.ask([iw.Example(p, "w11", "w13") for p in prompts])
    bench.page.calm()
    each, mean = bench.array(view, "each"), bench.array(view, "effects")
    assert each.shape == (3, LAYERS, HEADS)
    np.testing.assert_allclose(each.mean(0), mean, atol=1e-5)
    for n, prompt in enumerate(prompts):
        script = Script(bench.script.model, bench.ids(prompt))
        effect = bench.metric(script.logits(script.ids)) - bench.metric(script.without(1, 2, 0.0))
        assert each[n, 1, 2] == pytest.approx(effect, abs=1e-4)
    answer = bench.page.state["answer"]
    metrics = [bench.metric(bench.script.logits(bench.ids(p))) for p in prompts]
    assert answer["values"] == pytest.approx(metrics, abs=1e-4)
    assert answer["metric"] == pytest.approx(float(np.mean(metrics)), abs=1e-4)
    assert answer["interval"] == pytest.approx(1.96 * float(np.std(metrics, ddof=1)) / math.sqrt(3), abs=1e-4)


# ---- bad input: a sentence each, nothing lost ------------------------------------------------------------------------


@ONE
def test_all_heads_of_a_layer_off_is_answered(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    sites = [f"L1H{h}" for h in range(HEADS)]
    bench.page.wish("ablate_many", "heads:L1", sites=sites, off=True, mode="zero")
    bench.page.calm()

    def cut(_module: Any, args: Any) -> Any:
        return (torch.zeros_like(args[0]),)

    handle = bench.script.projection(1).register_forward_pre_hook(cut)
    whole = bench.metric(bench.script.logits(bench.script.ids))
    handle.remove()
    assert bench.page.metric == pytest.approx(whole, abs=1e-4)
    assert np.isfinite(bench.array(view, "effects")).all()


def test_a_click_on_a_head_of_a_layer_that_is_off_as_a_whole_brings_back_what_its_cell_promised(bench: Bench) -> None:
    view = shown(bench, mode="zero")
    bench.session.toggle("L1.heads", mode="zero")
    bench.page.calm()
    before, promised = bench.page.metric, bench.array(view, "effects")[1, 2]
    assert before is not None
    bench.page.ablate("L1H2", off=False)
    bench.page.calm()
    assert bench.page.metric == pytest.approx(before + promised, abs=1e-4)
    assert [i["site"] for i in bench.page.state["interventions"]] == ["L1H0", "L1H1", "L1H3"]

    def cut(_module: Any, args: Any) -> Any:
        x = args[0].clone().unflatten(-1, (HEADS, -1))
        x[:, :, [0, 1, 3]] = 0
        return (x.flatten(-2),)

    handle = bench.script.projection(1).register_forward_pre_hook(cut)
    assert bench.page.metric == pytest.approx(bench.metric(bench.script.logits(bench.script.ids)), abs=1e-4)
    handle.remove()
    bench.page.wish("undo", "undo")
    bench.page.calm()
    assert bench.page.metric == before


@ONE
def test_the_same_head_twice_is_refused_in_a_sentence(bench: Bench) -> None:
    bench.page.ablate("L0H0")
    seq = bench.page.wish("ablate_many", "heads:L1", sites=["L1H2", "L1H2"], off=True, mode="zero")
    bench.page.wait(lambda: bench.page.refusal(seq), "a refusal")
    assert "L1H2 is named twice" in str(bench.page.refusal(seq))
    with pytest.raises(iw.InterpError, match="L1H2 is named twice"):
        bench.session.set(iw.Ablate("L1H2", "zero"), iw.Ablate("L1H2", "mean"))
    assert [i.site.name for i in bench.session.interventions] == ["L0H0"]


@ONE
def test_a_reference_of_another_length_is_refused_in_a_sentence(bench: Bench) -> None:
    bench.session.reference = "w3 w4"
    view = shown(bench, mode="resample")
    panel = bench.page.panel(view)
    assert panel["status"] == "failed"
    assert "same length" in panel["message"]
    bench.session.reference = CORRUPT
    bench.page.calm()
    assert bench.page.panel(view)["status"] == "done"


@ONE
def test_a_set_by_position_of_other_lengths_is_refused_in_a_sentence(bench: Bench) -> None:
    bench.session.reference = iw.Reference("mixed", (PROMPT, "w3 w4"), by_position=True)
    view = shown(bench, mode="mean")
    panel = bench.page.panel(view)
    assert panel["status"] == "failed"
    assert len(panel["message"]) > 20 and panel["message"].rstrip().endswith(".")


@ONE
def test_a_prompt_set_with_an_empty_prompt_is_refused_and_the_old_question_stays(bench: Bench) -> None:
    with pytest.raises(iw.InterpError, match="Example 1"):
        bench.session.ask([iw.Example(PROMPT, "w11", "w13"), iw.Example("", "w11", "w13")])
    assert bench.session.question is not None
    assert bench.session.question.first.prompt == PROMPT
