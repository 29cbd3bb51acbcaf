"""Every architecture of the installed `transformers`, opened and held to the engine's identities; and the table of docs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from interp_widgets.model.live import LiveModel
from tests import architectures, identities, matrix

FULLY, OPENED = 105, 160
MAY_LACK = {"patterns are those of eager attention", "cached text is uncached text"}  # no eager twin, no cache


@functools.cache
def verdict(name: str) -> matrix.Verdict:
    return matrix.examine(name)


@pytest.mark.parametrize("name", architectures.names())
def test_what_is_on_is_right_and_what_is_off_has_a_reason(name: str) -> None:
    found = verdict(name)
    assert not found.wrong, found.wrong
    assert found.status in matrix.ORDER
    assert (found.status == "fully verified") == (not found.reasons)
    assert all(len(reason) > 20 for _, reason in found.reasons), found.reasons
    if found.status == "fully verified":
        assert set(found.lacking) <= MAY_LACK, found.lacking
        assert found.heads > 0


def test_more_than_a_hundred_architectures_are_fully_verified() -> None:
    found = [verdict(name) for name in architectures.names()]
    fully = [v.name for v in found if v.status == "fully verified"]
    opened = [v.name for v in found if v.status in ("fully verified", "partly")]
    assert len(fully) >= FULLY, len(fully)
    assert len(opened) >= OPENED, len(opened)
    assert {"gpt2", "llama", "mistral", "qwen3", "gpt_neox", "gemma3_text", "mixtral", "olmo2", "phi3"} <= set(fully)


def test_the_table_of_docs_and_the_readme_are_current() -> None:
    found = [verdict(name) for name in architectures.names()]
    assert matrix.TABLE.read_text() == matrix.table(found), "run `make matrix`"
    assert matrix.README.read_text() == matrix.readme(found, matrix.README.read_text()), "run `make matrix`"


# ---- the checks can fail ------------------------------------------------------------------------------------------------


@pytest.fixture
def bench() -> Any:
    model = architectures.build("llama").model
    made = identities.Bench(model)
    made.live = matrix.open_model(made.module, matrix.tokenizer(architectures.VOCAB))
    yield made
    made.live.release()


def test_an_engine_that_edits_the_wrong_head_is_found_out(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = LiveModel.run

    def shifted(self: LiveModel, prompt: Any, interventions: Any = (), read: Any = ()) -> Any:
        moved = [type(i)(f"L{i.site.layer}H0", mode="zero") if i.site.index else i for i in interventions]
        return run(self, prompt, moved, read)

    assert (identities.ablated_head(bench) or 0.0) < 2e-6
    monkeypatch.setattr(LiveModel, "run", shifted)
    assert (identities.ablated_head(bench) or 0.0) > 1e-3


def test_an_engine_that_moves_the_plain_run_is_found_out(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identities.nothing_on(bench) == 0.0
    with torch.no_grad():
        bench.module.lm_head.weight[0, 0] += 1e-3
    assert identities.nothing_on(bench) > 0.0


def test_a_replay_that_starts_too_late_is_found_out(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp_widgets.model import reading

    assert identities.replay_is_whole(bench) < 2e-6
    monkeypatch.setattr(reading, "first_block", lambda anatomy, _site: len(anatomy.layers))
    assert identities.replay_is_whole(bench) > 1e-3


def test_what_is_left_on_the_model_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp_widgets.model.gate import Gate

    monkeypatch.setattr(Gate, "remove", lambda _self: None)
    assert any("hooks of ours" in problem for problem in matrix.examine("gpt2").wrong)


def test_the_table_shows_what_is_wrong_before_everything_else() -> None:
    good = matrix.Verdict("good", "Good", "fully verified")
    bad = matrix.Verdict("bad", "Bad", "wrong", wrong=("replay is the whole model: off by 1.3e-01",))
    reasons = (
        ("direct", "a norm | a matrix (off by 2.6e-03)"),
        ("replay", "a = b: error 1.2e-01 where rounding gives 3e-06"),
    )
    off = matrix.Verdict("some", "Some", "partly", reasons)
    rows = [line for line in matrix.table([good, bad, off]).splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["bad", "good", "some"]
    assert "replay is the whole model" in rows[0]
    assert rows[2].endswith("| direct: a norm / a matrix<br>replay: a = b does not hold |  |")
    text = f"head\n{matrix.BEGIN}\nold\n{matrix.END}\ntail\n"
    new = matrix.readme([good, off], text)
    assert new.startswith("head\n")
    assert new.endswith("\ntail\n")
    assert "1 fully verified, 1 partly" in new
    assert "`good`" in new
    assert matrix.readme([good, off], new) == new
    with pytest.raises(ValueError, match="put it back"):
        matrix.readme([good], "no markers")
