"""The arrows of the house: held by import-linter's contracts, each of which is shown here to catch what it forbids."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts on the package in a folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def copy_of_the_package(folder: Path) -> Path:
    """The Python files of the package and the contracts, alone in a folder."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    only_python = shutil.ignore_patterns("__pycache__", "static", "*.safetensors", "*.json", "*.js", "*.css")
    shutil.copytree(ROOT / "interp_widgets", folder / "interp_widgets", ignore=only_python)
    return folder


def test_every_arrow_of_the_package_points_down() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("model/run.py", "import interp_widgets.methods.attribution", "Arrows point down"),
        ("model/run.py", "import ipywidgets", "The science knows no widgets"),
        ("model/errors.py", "from traitlets import HasTraits", "The science knows no widgets"),
        ("methods/__init__.py", "import interp_widgets.session", "Arrows point down"),
        ("methods/__init__.py", "import interp_widgets.builtin", "Arrows point down"),
        ("worker.py", "import interp_widgets.widgets", "Arrows point down"),
        ("builtin/words.py", "import interp_widgets.session", "stands on the science alone"),
        ("stray.py", "'''A part without a place.'''", "Arrows point down"),
    ],
)
def test_an_arrow_that_points_up_is_caught(tmp_path: Path, module: str, line: str, contract: str) -> None:
    package = copy_of_the_package(tmp_path) / "interp_widgets"
    with (package / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    broken = [one for one in done.stdout.splitlines() if " BROKEN" in one]
    assert any(contract in one for one in broken), done.stdout
