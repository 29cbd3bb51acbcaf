"""The wheel: built, installed in an environment of its own without Node, and used there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from interp_widgets.version import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the files that git would give to a clone."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, env=without_node())
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and borrows torch and its like from here."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=os.name == "posix")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, env=without_node())
    # A .pth in a folder that is itself added by a .pth is not read: an editable install of this clone stays unseen.
    own = subprocess.run([python, "-c", PURELIB], check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"


def without_node() -> dict[str, str]:
    """The environment without Node on the PATH and without this clone on the Python path."""
    kept = [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "node").exists()]
    dropped = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"PATH": os.pathsep.join(kept)}


def run(python: Path, *arguments: str) -> str:
    """What a program in the clean environment prints, run far from this clone."""
    done = subprocess.run(
        [str(python), *arguments],
        cwd=python.parent,
        env=without_node(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_git(folder: str) -> set[str]:
    """The files of a folder that are committed or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    return {name for name in listed if name and (ROOT / name).exists()}


def test_the_wheel_holds_the_whole_package_and_the_tour_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == in_git("interp_widgets") | {"interp_widgets/examples/tour.ipynb"}


def test_the_bundles_the_models_and_the_type_marker_are_inside(wheel: Path) -> None:
    held = zipfile.ZipFile(wheel).namelist()
    for ending in ("static/session.js", "py.typed", "/model.safetensors", "/tokenizer.json", "LICENSE"):
        assert any(name.endswith(ending) for name in held), f"no {ending} in the wheel"


def test_node_is_out_of_reach_in_the_clean_environment() -> None:
    assert shutil.which("node", path=without_node()["PATH"]) is None


def test_the_installed_package_imports_and_is_the_wheels_own(clean: Path) -> None:
    told = run(clean, "-c", "import interp_widgets as iw; print(iw.__version__); print(iw.__file__)").split()
    assert told[0] == __version__
    assert Path(told[1]).is_relative_to(clean.parents[1])


def test_the_embedded_model_answers_in_the_clean_environment(clean: Path) -> None:
    program = """
import interp_widgets as iw
session = iw.open()
session.ask("When Mary and John went to the store, John gave a drink to", target=" Mary", foil=" John")
print(session.answer.metric > 0)
widget = iw.HeadAblation(session)
print(len(str(widget.code.text)) > 500)
"""
    assert run(clean, "-c", program).split() == ["True", "True"]


def test_the_demo_explains_itself_in_the_clean_environment(clean: Path) -> None:
    assert "--no-browser" in run(clean, "-m", "interp_widgets", "demo", "--help")


def test_front_end_and_package_have_one_version() -> None:
    assert json.loads((ROOT / "package.json").read_text())["version"] == __version__
