"""Edits act by their place in the forward, with values of their own prompt, and receipts say what each prompt's answer saw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import interp_widgets as iw
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Intervention
from tests.unit import tiny_models

SIX, THREE = "w3 w4 w5 w6 w7 w8", "w9 w10 w11"
V = torch.randn(32, generator=torch.Generator().manual_seed(3))
KINDS: dict[str, Callable[[], Any]] = {"gpt2": tiny_models.gpt2, "llama": tiny_models.llama}


@pytest.fixture(params=KINDS)
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open(KINDS[request.param](), tiny_models.tokenizer())
    opened.ask(SIX, "w9", "w10")
    yield opened
    opened.close()


def answer(session: iw.Session, *interventions: Intervention) -> float:
    session.set(*interventions)
    return session.answer.metric


# ---- the middle of a block -----------------------------------------------------------------------------------------


def by_hooks(session: iw.Session, mid: Callable[[torch.Tensor], torch.Tensor], attn: bool, pre: bool) -> float:
    """The answer where block 1 goes on with `mid` of its stream behind attention, by plain torch hooks."""
    model: Any = session.model.module
    block = model.transformer.h[1] if hasattr(model, "transformer") else model.model.layers[1]
    attention = block.attn if hasattr(block, "attn") else block.self_attn
    entered: list[torch.Tensor] = []

    def enter(_module: Any, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        x = x + 2.0 * V if pre else x
        entered[:] = [x]
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    def wrote(_module: Any, _args: Any, out: Any) -> Any:
        added = torch.zeros_like(out[0]) if attn else out[0]
        return (mid(entered[0] + added) - entered[0], *out[1:])

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True), attention.register_forward_hook(wrote)]
    try:
        with torch.no_grad():
            logits = model(torch.tensor([list(session.question.first.ids)])).logits[0, -1]  # pyright: ignore[reportOptionalMemberAccess]
    finally:
        for handle in handles:
            handle.remove()
    return float(logits[9] - logits[10])


MIDS: dict[str, tuple[Intervention, Callable[[torch.Tensor], torch.Tensor]]] = {
    "patched": (iw.Patch("L1.mid", torch.zeros(6, 32)), torch.zeros_like),
    "steered": (iw.Steer("L1.mid", V, 2.0, positions="all"), lambda x: x + 2.0 * V),
    "edited": (iw.Edit("L1.mid", lambda x: x * 0.5, positions="all"), lambda x: x * 0.5),
}


@pytest.mark.parametrize("kind", MIDS)
@pytest.mark.parametrize("where", ["L0", "L1.pre"])
def test_the_middle_of_a_block_comes_behind_what_enters_it_and_what_attention_writes_in_any_order_of_the_list(
    session: iw.Session, kind: str, where: str
) -> None:
    model: Any = session.model.module
    edit, mid = MIDS[kind]
    others = {
        "pre": iw.Steer(where, V, 2.0, positions="all"),
        "attn": iw.Ablate("L1.attn", "zero"),
    }
    for names in ([], ["pre"], ["attn"], ["pre", "attn"]):
        want = by_hooks(session, mid, "attn" in names, "pre" in names)
        for order in itertools.permutations([edit, *(others[name] for name in names)]):
            assert answer(session, *order) == pytest.approx(want, abs=2e-4), [one.label for one in order]
            assert all(r.state == "acted" for r in session.answer.receipts)
            with session.applied(), torch.no_grad():
                logits = model(torch.tensor([list(session.question.first.ids)])).logits[0, -1]  # pyright: ignore[reportOptionalMemberAccess]
            assert float(logits[9] - logits[10]) == pytest.approx(want, abs=2e-4), [one.label for one in order]


def test_what_is_read_beside_an_edit_of_the_middle_is_what_stands_there(session: iw.Session) -> None:
    plain = session.model.run(SIX, read=["L1.attn", "L1.mid", "L1.pre"])
    push = iw.Steer("L1.mid", V, 2.0, positions="all")
    for reads in itertools.permutations(["L1.attn", "L1.mid", "L1.pre"]):
        run = session.model.run(SIX, [push], read=reads)
        assert torch.equal(run["L1.attn"], plain["L1.attn"])
        assert torch.equal(run["L1.pre"], plain["L1.pre"])
        assert torch.allclose(run["L1.mid"], plain["L1.mid"] + 2.0 * V, atol=1e-5)


def test_a_curve_over_what_a_patched_middle_hides_is_flat(session: iw.Session) -> None:
    session.set(iw.Patch("L1.mid", torch.zeros(6, 32)))
    curve = iw.dose_response(session, iw.Steer("L0", V, 1.0, positions="all"), [-1.0, 0.0, 2.0])
    assert curve.metric == pytest.approx([session.answer.metric] * 3, abs=1e-4)


# ---- several prompts at once -----------------------------------------------------------------------------------------

DEPENDING: dict[str, Intervention] = {
    "resample": iw.Ablate("L0H1", "resample", ["w20 w21 w22 w23 w24 w25", "w30 w31 w32"]),
    "a prompt's patch": iw.Patch("L0", "w20 w21 w22 w23 w24 w25"),
    "numbers": iw.Patch("L0", torch.zeros(6, 32)),
    "a mean by position": iw.Ablate("L0H1", "mean", iw.Reference("r", ("w20 w21 w22 w23 w24 w25",), True)),
    "an edge": iw.Ablate("L0H1", "edge", edge=(4, 1)),
    "a vector": iw.Steer("L0", V, 1.0, positions="content"),
    "zero": iw.Ablate("L0H1", "zero"),
}


@pytest.mark.parametrize("name", DEPENDING)
def test_a_prompt_in_a_list_has_the_numbers_the_receipts_and_the_refusals_that_it_has_alone(
    session: iw.Session, name: str
) -> None:
    live, what = session.model, [DEPENDING[name]]
    prompts = [SIX, THREE, "w40 w41 w42 w43 w44 w45"]
    refused = [p for p in prompts if _refusal(lambda p=p: live.run(p, what))]
    if refused:
        assert _refusal(lambda: live.run(prompts, what)) == _refusal(lambda: live.run(refused[0], what))
        prompts = [p for p in prompts if p not in refused]
    together = live.run(prompts, what)
    for prompt, run in zip(prompts, together, strict=True):
        alone = live.run(prompt, what)
        assert torch.allclose(run.logits, alone.logits, atol=1e-4), prompt
        (got,), (want,) = run.receipts, alone.receipts
        assert (got.state, got.positions, got.fired) == (want.state, want.positions, want.fired)
        assert (got.norm_before, got.norm_after, got.change) == pytest.approx(
            (want.norm_before, want.norm_after, want.change), rel=1e-4
        )


def _refusal(act: Callable[[], object]) -> str:
    try:
        act()
    except InterventionError as error:
        return str(error)
    return ""


def test_patching_heads_under_a_resample_takes_each_prompts_own_values(session: iw.Session) -> None:
    corrupt, other = "w3 w40 w5 w6 w7 w8", "w50 w51 w52 w53 w54 w55"
    session.ask(SIX, "w9", "w10", corrupt=corrupt)
    ablate = iw.Ablate("L0.attn", "resample", iw.Reference("r", (corrupt, other)))
    session.set(ablate)
    found = iw.patching(session, over="heads")

    def metric(prompt: str, interventions: list[Intervention]) -> float:
        logits = session.model.run(prompt, interventions).logits[-1]
        return float(logits[9] - logits[10])

    clean, spoilt = metric(SIX, [ablate]), metric(corrupt, [ablate])
    source = session.model.run(corrupt, [ablate], read=["L1.heads"])
    for head in range(4):
        moved = metric(SIX, [ablate, iw.Patch(f"L1H{head}", source)])
        assert found.noise[1, head] == pytest.approx((clean - moved) / (clean - spoilt), abs=2e-3)


# ---- what a patch may be -----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, tuple[int, ...], str]] = {
    "half of the stream": ("L1", (6, 16), r"shape \[6, 16\].*needs \[6, 32\], or \[32\]"),
    "a head's values in the stream": ("L1", (6, 8), r"needs \[6, 32\]"),
    "too wide": ("L1", (40,), r"needs \[6, 32\]"),
    "too wide by position": ("L1", (6, 40), r"needs \[6, 32\]"),
    "too short": ("L1", (4, 32), "4 positions and the prompt 6"),
    "heads of another width": ("L1.heads", (6, 4, 4), r"needs \[6, 4, 8\]"),
    "a stream in a head": ("L1H0", (6, 32), r"needs \[6, 8\]"),
    "a pattern of another prompt": ("L1.pattern", (4, 4, 4), "4 positions and the prompt 6"),
    "a number without a place": ("L1", (), r"needs \[6, 32\]"),
}


@pytest.mark.parametrize("name", [name for name in WRONG if WRONG[name][1]])
def test_a_patch_that_does_not_fit_is_refused_with_both_shapes(session: iw.Session, name: str) -> None:
    site, shape, words = WRONG[name]
    with pytest.raises(InterventionError, match=words):
        answer(session, iw.Patch(site, torch.ones(shape)))


@pytest.mark.parametrize("prompt", [SIX, "w3 w4 w5 w6"], ids=["six tokens", "as many tokens as heads"])
@pytest.mark.parametrize(
    "site", ["embed", "L0", "L1.pre", "L1.mid", "L1.attn", "L1.mlp", "L1.heads", "L1H2", "L1.mlp.3", "L1.neurons"]
)
def test_a_patch_from_another_run_puts_in_place_what_was_read_there(
    session: iw.Session, site: str, prompt: str
) -> None:
    n = len(prompt.split())
    session.ask(prompt, "w9", "w10")
    other = session.model.run(" ".join(f"w{20 + i}" for i in range(n)), read=[site])
    moved = session.model.run(prompt, [iw.Patch(site, other)], read=[site])
    assert torch.allclose(moved[site], other[site], atol=1e-6)
    alike = iw.Patch(site, other[site][0])
    assert torch.allclose(session.model.run(prompt, [alike], read=[site])[site], other[site][:1], atol=1e-6)


@pytest.mark.parametrize("prompt", [SIX, "w3 w4 w5 w6"], ids=["six tokens", "as many tokens as heads"])
@pytest.mark.parametrize("site", ["L1.pattern", "L1H2.pattern"])
def test_a_pattern_of_another_run_is_put_in_place_whole(session: iw.Session, site: str, prompt: str) -> None:
    n = len(prompt.split())
    other = session.model.run(" ".join(f"w{20 + i}" for i in range(n)), read=[site])
    moved = session.model.run(prompt, [iw.Patch(site, other)], read=[site])
    assert torch.allclose(moved[site], other[site], atol=1e-6)


# ---- receipts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "what"),
    [
        (-1, iw.Ablate("L2H0", "edge", edge=(2, 1))),
        (2, iw.Ablate("L1H0", "edge", edge=(5, 1))),
        (-1, iw.Patch("L2.pattern", "w20 w21 w22 w23 w24 w25", positions=[1])),
        (-1, iw.Edit("L2.pattern", lambda x: x * 0, positions=[1])),
    ],
    ids=["an edge elsewhere in the last block", "a later edge", "a patched pattern", "an edited pattern"],
)
def test_an_edit_that_the_answer_cannot_see_says_so(session: iw.Session, position: int, what: Intervention) -> None:
    session.ask(SIX, "w9", "w10", position=position)
    plain = session.answer.metric
    assert answer(session, what) == plain
    assert session.answer.receipts[0].state == "cannot reach"


@pytest.mark.parametrize("edge", [(5, 1), (2, 1)])
def test_an_edge_that_the_answer_sees_acted(session: iw.Session, edge: tuple[int, int]) -> None:
    plain = session.answer.metric
    assert answer(session, iw.Ablate("L1H0", "edge", edge=edge)) != plain
    assert session.answer.receipts[0].state == "acted"


def test_an_edge_takes_no_positions_beside_its_own() -> None:
    with pytest.raises(InterventionError, match="names its positions itself"):
        iw.Ablate("L1H0", "edge", edge=(5, 1), positions=[0])


def test_the_receipt_of_a_prompt_set_says_what_was_done_to_any_of_its_prompts(session: iw.Session) -> None:
    session.ask([iw.Example(SIX, "w9", "w10"), iw.Example("w20 w21 w22", "w9", "w10")])
    session.set(iw.Steer("L1", V, 1.0, positions=iw.tokens("w20")))
    found = session.answer
    (receipt,) = found.receipts
    assert found.values[0] == found.plain_values[0]
    assert found.values[1] != found.plain_values[1]
    assert (receipt.state, receipt.reason, receipt.positions) == ("acted", "", 1)
    alone = session.model.run("w20 w21 w22", session.interventions).receipts[0]
    assert (receipt.norm_before, receipt.change) == pytest.approx((alone.norm_before, alone.change), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_float64_has_the_features_and_the_numbers_that_it_has_in_float32(kind: str) -> None:
    found: list[Any] = []
    for model in (KINDS[kind](), KINDS[kind]().double()):
        opened = iw.open(model, tiny_models.tokenizer())
        opened.ask(SIX, "w9", "w10")
        effects = iw.head_effects(opened, mode="zero").effects
        scores = [
            iw.attribute(opened, method=m).scores for m in ("integrated_gradients", "gradient_x_input", "occlusion")
        ]
        direct = iw.direct_attribution(opened).by_token
        found.append((set(opened.model.report.off), opened.answer.metric, effects, *scores, direct))
        opened.close()
    (off, *single), (wide_off, *wide) = found
    assert wide_off <= off
    for one, other in zip(single, wide, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
