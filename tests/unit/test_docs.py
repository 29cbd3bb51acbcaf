"""The documents say what is: links lead somewhere, names exist, the README's code runs, versions agree."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import interp_widgets as iw

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "README.md", ROOT / "js" / "kit" / "README.md"]
)
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def cells(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def names_of(code: str) -> set[str]:
    """The public names that code reaches for: `iw.Name`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "iw"
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_name_in_the_readme_and_the_examples_is_public() -> None:
    pieces = [block for page in PAGES for block in code_blocks(page) if "iw." in block]
    pieces += [cell for notebook in NOTEBOOKS for cell in cells(notebook)]
    for piece in pieces:
        if "iw.HeadAblation(iw.open(" in piece:
            continue
        unknown = names_of(piece) - set(iw.__all__)
        assert not unknown, f"{sorted(unknown)} in\n{piece}"


def test_the_readmes_first_example_runs() -> None:
    block = next(b for b in code_blocks(ROOT / "README.md") if "session = iw.open()" in b)
    lines = [
        line
        for line in block.splitlines()
        if not re.match(r"iw\.(TokenAttribution|HeadAblation|SteeringSliders)\(", line)
    ]
    scope: dict[str, object] = {}
    exec("\n".join(lines), scope)
    session = scope["session"]
    assert isinstance(session, iw.Session)
    assert session.answer.rank == 1
    session.close()


def test_the_engine_pages_example_runs() -> None:
    block = next(b for b in code_blocks(ROOT / "docs" / "engine.md") if "live.run(" in b)
    scope: dict[str, object] = {}
    exec(block, scope)
    session = scope["session"]
    assert isinstance(session, iw.Session)
    session.close()


def test_every_public_name_is_documented_with_an_example() -> None:
    bare = [
        name
        for name in iw.__all__
        if callable(thing := getattr(iw, name))
        and not issubclass(thing if isinstance(thing, type) else object, Exception)
        if not (thing.__doc__ or "").strip() or (not isinstance(thing, type) and ">>>" not in (thing.__doc__ or ""))
    ]
    assert not bare, f"without a docstring or an example: {bare}"


def test_the_front_ends_version_is_the_packages() -> None:
    assert json.loads((ROOT / "package.json").read_text("utf-8"))["version"] == iw.__version__


def test_notebooks_carry_no_outputs_and_name_their_kernel() -> None:
    for notebook in NOTEBOOKS:
        data = json.loads(notebook.read_text("utf-8"))
        assert data["metadata"]["kernelspec"]["name"] == "python3", notebook.name
        for cell in data["cells"]:
            assert not cell.get("outputs"), f"{notebook.name} was saved with outputs"
