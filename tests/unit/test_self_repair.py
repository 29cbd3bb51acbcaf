"""Self-repair: the sums are definitions, the figures closed forms."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator

import numpy as np
import pytest
import torch

from interp_widgets.builtin.known import KnownCircuit, known
from interp_widgets.methods.direct import direct_effects
from interp_widgets.methods.self_repair import RepairReport, self_repair, source_writes
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric, Question
from tests.unit import tiny_models
from tests.unit.sweep_models import FAMILIES, ask, opened

CIRCUITS = ["self-repair", "self-repair-backup", "self-repair-suppression", "self-repair-both"]


@contextlib.contextmanager
def circuit(name: str) -> Generator[tuple[LiveModel, Asked, KnownCircuit]]:
    module, words, about = known(name)
    live = open_model(module, words)
    tokens = live.tokens.encode(about.prompt)
    target, foil = (live.tokens.one("target", t) for t in (about.target, about.foil))
    try:
        yield (
            live,
            Asked(about.prompt, tokens, Metric((target.id,), (foil.id,)), (target,), (foil,), len(tokens) - 1),
            about,
        )
    finally:
        live.release()


def test_less_than_nothing_made_up_for_is_said_as_more_lost() -> None:
    none = np.zeros((1, 1))
    report = RepairReport(("L0H0",), "zero", 3.0, -0.5, 2.0, 3.5, -1.5, none, none[0], 0.0, -1.5, none)
    assert "3.500 in all, so nothing was made up for and 1.500 more was lost (75.0% of it): " in report.words
    report = dataclasses.replace(report, after=2.5, total=0.5, repaired=1.5)
    assert "0.500 in all, so 1.500 was made up for (75.0% of it): " in report.words


@pytest.mark.parametrize("name", CIRCUITS)
def test_on_the_bench_every_figure_is_its_closed_form(name: str) -> None:
    with circuit(name) as (live, asked, about):
        report = self_repair(live, asked, "L1H0", "zero")
        answers = about.answers
        assert report.before == pytest.approx(answers["plain"], abs=1e-3)
        assert report.after == pytest.approx(answers["zero:L1H0"], abs=1e-3)
        assert report.direct == pytest.approx(answers["direct:L1H0"], abs=1e-3)
        assert report.total == pytest.approx(answers["plain"] - answers["zero:L1H0"], abs=1e-3)
        assert report.repaired == pytest.approx(answers["repair:L1H0"], abs=1e-3)
        assert report.norm == pytest.approx(answers["repair:L1H0:norm"], abs=1e-3)
        assert report.heads[2, 0] == pytest.approx(answers.get("repair:L1H0:L2H0", 0.0), abs=1e-3)
        assert report.heads[2, 1] == pytest.approx(answers.get("repair:L1H0:L2H1", 0.0), abs=1e-3)
        assert report.heads[1, 0] == 0.0


def test_the_published_figures_of_the_bench_come_out() -> None:
    with circuit("self-repair-backup") as (live, asked, _):
        report = self_repair(live, asked, "L1H0", "zero")
        assert report.share == pytest.approx(1.109, abs=5e-4)
        assert report.heads[2, 0] == pytest.approx(48.990, abs=1e-3)
        assert report.norm == pytest.approx(-1.922, abs=1e-3)
        assert report.backups() == ["L2H0"]
        for figure in ("42.426", "47.068", "110.9%", "+48.990 by heads", "-1.922 by the final norm"):
            assert figure in report.words
    with circuit("self-repair-suppression") as (live, asked, _):
        assert self_repair(live, asked, "L1H0", "zero").share == pytest.approx(0.462, abs=5e-4)


def test_the_suppressing_head_suppresses_and_the_induction_head_copies() -> None:
    with circuit("self-repair-suppression") as (live, asked, _):
        score = self_repair(live, asked, "L1H0", "zero").suppression
        assert score[2, 1] == pytest.approx(20.26, abs=0.01)
        assert score[1, 0] == pytest.approx(-43.86, abs=0.01)


def test_ablating_the_backup_too_leaves_nothing_to_repair() -> None:
    with circuit("self-repair-backup") as (live, asked, _):
        report = self_repair(live, asked, ["L1H0", "L2H0"], "zero")
        assert report.after == pytest.approx(0.0, abs=1e-3)
        assert report.repaired == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_the_account_closes_on_every_family(family: str, mode: str) -> None:
    with opened(FAMILIES[family]()) as live:
        asked = ask(live)
        report = self_repair(live, asked, ["L0H1", "L1.mlp"], mode)  # pyright: ignore[reportArgumentType]
        assert report.repaired == pytest.approx(report.direct - report.total, abs=1e-9)
        parts = report.heads.sum() + report.mlps.sum() + report.other + report.norm
        assert parts == pytest.approx(report.repaired, abs=1e-9)
        off = [Ablate("L0H1", mode=mode), Ablate("L1.mlp", mode=mode)]  # pyright: ignore[reportArgumentType]
        assert report.after == pytest.approx(float(asked.metric.of(live.answer(asked, off).logits[None])[0]), abs=1e-5)
        attention = live.anatomy.layers[0].attention
        if attention is not None and attention.norm is None:  # else a norm of their sum ties the heads of a block
            assert np.abs(report.heads[0]).max() <= 1e-5  # nothing in its own block, or below, can answer to it
        assert np.abs(report.heads[2]).max() > 1e-5


def test_the_norm_s_share_is_what_its_changed_scale_does() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        report = self_repair(live, asked, "L1H2", "zero")
        before, after = direct_effects(live, asked), direct_effects(live, asked, [Ablate("L1H2", mode="zero")])
        moved = after.metric - after.bias
        assert report.norm == pytest.approx(moved - moved * after.scale / before.scale, abs=1e-4)


def test_what_else_is_on_stays_on_and_an_ablation_that_is_on_already_is_not_counted_twice() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        steer = Steer("L0", torch.linspace(-1, 1, 32), 0.5)
        report = self_repair(live, asked, "L1H2", "zero", [steer, Ablate("L1H2", mode="zero")])
        assert report.before == pytest.approx(
            float(asked.metric.of(live.answer(asked, [steer]).logits[None])[0]), abs=1e-5
        )
        assert report.direct == pytest.approx(direct_effects(live, asked, [steer]).heads[1, 2], abs=1e-5)


@pytest.mark.parametrize("build", [tiny_models.gpt2, tiny_models.llama])
def test_what_a_head_writes_for_each_source_adds_up_to_what_it_writes(build: object) -> None:
    with opened(build()) as live:  # type: ignore[operator]
        asked = ask(live)
        writes = source_writes(live, asked)[1]
        run = live.run(asked.prompt, read=["L1.attn", "L1.heads"])
        bias = run["L1.attn"][-1].double() - writes.sum((0, 1))
        zero = live.run(asked.prompt, [Ablate("L1.heads", mode="zero")], read=["L1.attn"])["L1.attn"][-1].double()
        torch.testing.assert_close(bias, zero, atol=1e-5, rtol=1e-5)


def test_all_heads_of_a_layer_and_the_same_head_twice_are_understood() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        whole = self_repair(live, asked, "L1.heads", "zero")
        assert whole.ablated == ("L1H0", "L1H1", "L1H2", "L1H3")
        assert (whole.heads[1] == 0).all()
        once, twice = self_repair(live, asked, "L1H0", "zero"), self_repair(live, asked, ["L1H0", "L1H0"], "zero")
        assert once.direct == twice.direct


def test_a_layer_that_is_off_as_a_whole_is_accounted_for_as_its_heads() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        whole, heads = Ablate("L1.heads", mode="zero"), [Ablate(f"L1H{h}", mode="zero") for h in range(4)]
        expected = self_repair(live, asked, "L1.heads", "zero")
        assert abs(expected.total) > 1e-3
        for on in ([whole], heads):
            report = self_repair(live, asked, "L1.heads", "zero", on)
            assert (report.before, report.direct) == (expected.before, expected.direct)
            assert report.total == pytest.approx(expected.total, abs=1e-5)
        one = self_repair(live, asked, "L1H2", "zero", [whole])
        others = self_repair(live, asked, "L1H2", "zero", [a for a in heads if a.site.index != 2])
        assert (one.before, one.after) == (others.before, others.after), "the other heads of the layer stay off"
        assert one.direct == others.direct


def test_ablations_are_taken_as_they_are_written_each_with_its_own_reference() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        on = [Ablate("L0H1", "mean", ["w3 w4"]), Ablate("L1H2", "mean", ["w20 w21 w22"])]
        report = self_repair(live, asked, on, interventions=on)
        plain, edited = (float(asked.metric.of(live.answer(asked, i).logits[None])[0]) for i in ((), on))
        assert report.before == pytest.approx(plain, abs=1e-5)
        assert report.after == pytest.approx(edited, abs=1e-5)
        same = self_repair(live, asked, ["L0H1", "L1H2"], reference=["w3 w4"])
        assert abs(same.after - edited) > 1e-4, "with one reference for both it is another answer"
        with pytest.raises(InterventionError, match="heads and MLPs"):
            self_repair(live, asked, Ablate("L1H0", "edge", edge=(3, 1)))


@pytest.mark.parametrize("parts", [[], "L1", "embed"])
def test_what_cannot_be_measured_is_refused_in_a_sentence(parts: str | list[str]) -> None:
    with (
        opened(tiny_models.gpt2()) as live,
        pytest.raises(InterventionError, match=r"heads and MLPs|at least one head"),
    ):
        self_repair(live, ask(live), parts, "zero")


def test_a_prompt_set_gives_means() -> None:
    with opened(tiny_models.gpt2()) as live:
        one, two = ask(live), dataclasses.replace(ask(live, "w8 w3 w40 w2"))
        both = self_repair(live, Question((one, two)), "L1H0", "zero")
        single = [self_repair(live, a, "L1H0", "zero") for a in (one, two)]
        assert both.repaired == pytest.approx((single[0].repaired + single[1].repaired) / 2)
        assert both.n == 2


def test_no_zero_in_the_sentence_has_a_minus_sign() -> None:
    nothing = np.full((1, 2), -1e-9)
    report = RepairReport(
        ("L0H0",), "zero", -1e-5, 2.0, -2e-4, 1.0, -1e-4, nothing, np.array([-3e-5]), -6e-4, -0.0, nothing, n=1
    )
    assert "-0.000" not in report.words
    assert "-0.0%" not in report.words
    assert "-0.001 by the rest" in report.words
