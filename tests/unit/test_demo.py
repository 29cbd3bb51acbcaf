"""`python -m interp_widgets demo`: a fresh copy that overwrites nothing, and a server on this machine alone."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from interp_widgets import demo


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tour of one word in place of the shipped one."""
    original = tmp_path / "shipped" / demo.TOUR
    original.parent.mkdir()
    original.write_text("tour")
    monkeypatch.setattr(demo, "tour", lambda: original)
    return original


def test_the_tour_is_there_to_copy() -> None:
    assert demo.tour().name == "tour.ipynb"


def test_the_copy_is_the_shipped_tour_byte_for_byte(tmp_path: Path, shipped: Path) -> None:
    assert demo.fresh_copy(tmp_path / "new" / "folder").read_bytes() == shipped.read_bytes()


def test_an_untouched_copy_is_used_again(tmp_path: Path, shipped: Path) -> None:
    assert demo.fresh_copy(tmp_path) == demo.fresh_copy(tmp_path)


def test_a_changed_copy_is_kept_and_the_fresh_one_gets_a_number(tmp_path: Path, shipped: Path) -> None:
    first = demo.fresh_copy(tmp_path)
    first.write_text("my notes")
    second = demo.fresh_copy(tmp_path)
    assert (first.name, second.name) == ("tour.ipynb", "tour-2.ipynb")
    assert (first.read_text(), second.read_text()) == ("my notes", "tour")


def test_the_server_listens_on_this_machine_alone_and_runs_this_python(tmp_path: Path) -> None:
    line = demo.command(tmp_path / "tour.ipynb", browser=False, port=9999)
    assert line[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--ServerApp.ip=127.0.0.1", "--no-browser", "--ServerApp.port=9999"} <= set(line)
    assert f"--ServerApp.root_dir={tmp_path}" in line
    assert not any("token" in option for option in line), "the address keeps its token"


def test_a_browser_opens_unless_told_otherwise(tmp_path: Path) -> None:
    assert "--no-browser" not in demo.command(tmp_path / "tour.ipynb")


def test_the_demo_becomes_jupyterlab_on_the_copy(
    tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: became.append(arguments))
    demo.main(["demo", "--no-browser", "--folder", str(tmp_path)])
    assert "--LabApp.default_url=/lab/tree/tour.ipynb" in became[0][1]
    assert str(tmp_path / "tour.ipynb") in capsys.readouterr().out


def test_without_jupyterlab_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert demo.main(["demo", "--folder", str(tmp_path)]) == 1
    assert 'pip install "interp_widgets[lab]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["demo", "--bogus"])
    assert "--bogus" in capsys.readouterr().err
