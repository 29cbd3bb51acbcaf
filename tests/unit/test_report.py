"""What `live.report` says, printed and in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import torch

from interp_widgets.model.gate import foreign_hooks
from interp_widgets.model.live import open_model
from interp_widgets.model.report import FAST_PATHS, Check, Report
from tests.unit.tiny_models import gpt2, llama, tokenizer


def report_of(model: Any) -> Report:
    live = open_model(model, tokenizer())
    live.release()
    return live.report


def halve(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
    return out * 0.5


def look(_module: Any, _args: Any, _out: Any) -> None:
    """See, and change nothing."""


def test_every_check_shows_its_error_and_the_noise_floor_stands_below() -> None:
    report = report_of(gpt2())
    text = str(report)
    assert report.ok
    assert text.splitlines()[0] == report.headline
    assert "nothing is off" in report.headline
    for check in report.checks:
        line = next(line for line in text.splitlines() if line.startswith(check.name))
        assert "holds" in line
        assert check.error is None or f"{check.error:.1e}" in line
    assert f"±{report.floor:.1e}" in text
    assert 0 < report.floor < 1e-3


def test_hooks_of_the_user_are_counted_and_those_of_the_library_are_named_as_such() -> None:
    model = llama()
    model(torch.tensor([[2, 3, 4]]), output_hidden_states=True)  # the library installs its capturing hooks
    model.model.layers[1].mlp.register_forward_hook(halve)
    for layer in model.model.layers:
        layer.register_forward_hook(look)
    report = report_of(model)
    rows = {row[3].split(" on ")[0]: row for row in report.rows() if "hook" in row[0]}
    assert set(rows) == {"transformers: output_capturing_hook", "halve", "look"}
    assert rows["halve"] == (
        "foreign hook",
        "counted",
        "",
        "halve on model.layers.1.mlp: counted as part of the plain model",
    )
    assert "model.layers.0, model.layers.1, model.layers.2 (3)" in rows["look"][3]
    kind, verdict, _, note = rows["transformers: output_capturing_hook"]
    assert (kind, verdict) == ("library's hook", "")
    assert "idle unless" in note
    assert len([row for row in report.rows() if "hook" in row[0]]) == 3  # one line each, however many modules


def test_our_own_hooks_are_never_foreign() -> None:
    model = llama()
    live = open_model(model, tokenizer())
    assert live.gate.count > 0
    assert foreign_hooks(model) == []
    live.release()


def test_what_is_off_says_why_and_what_is_only_slower_says_so() -> None:
    off = {"direct": "each layer normalises the stream", "replay": "replay = whole: error 2.0e-01"}
    checks = (
        Check("replay = whole", ok=False, error=0.2, feature="replay"),
        Check("heads add up", ok=True, error=1e-7),
    )
    report = Report(checks, 1e-6, (), off, ("The model is compiled: runs use the eager module inside.",))
    assert not report.ok
    assert report.missing == {"direct": off["direct"]}
    assert report.slower == {"replay": off["replay"]}
    assert "1 of 2 checks hold" in report.headline
    assert "off: direct" in report.headline
    assert "slower: replay" in report.headline
    rows = list(report.rows())
    assert ("direct", "off", "", off["direct"]) in rows
    assert any(row[:2] == ("replay", "slower") and "whole forwards" in row[3] for row in rows)
    assert ("replay = whole", "fails", "2.0e-01", "") in rows
    assert rows[-1][3] == "The model is compiled: runs use the eager module inside."


def test_a_reason_is_told_once() -> None:
    why = "attention of this model (eager) does not go through transformers' registry"
    report = Report(
        (Check("an edited pattern acts", False, None, "patterns written", why),), off={"patterns written": why}
    )
    assert str(report).count(why) == 1


class Cells(HTMLParser):
    """The text of every cell, and the tags in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_notebook_shows_the_same_table_with_nothing_of_a_name_taken_as_markup() -> None:
    report = Report((Check("a < b & c", ok=False, error=0.1),), off={"x": "<script>alert(1)</script>"})
    page = Cells()
    page.feed(report._repr_html_())
    assert not page.open
    assert "script" not in page.tags
    assert {"a < b & c", "<script>alert(1)</script>", report.headline} <= set(page.text)
    assert page.tags.count("strong") == 2  # what fails, and what is off
    shown = {text for row in report.rows() for text in row if text}
    assert shown <= set(page.text)


def test_every_fast_path_is_the_feature_of_a_check() -> None:
    features = {check.feature for check in report_of(llama()).checks}
    assert features >= FAST_PATHS - {"packed rows"}
