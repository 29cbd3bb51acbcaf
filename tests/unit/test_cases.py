"""The table of cases in `tests/README.md` is the one that the marks of the tests give."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests import cases


def test_the_table_of_cases_is_up_to_date() -> None:
    text = cases.README.read_text("utf-8")
    assert cases.with_table(text) == text, "run: python -m tests.cases"


def test_a_mark_lands_in_the_table_in_catalogue_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_x.py").write_text('@pytest.mark.case("E10", "E02")\ndef test_order(): ...\n')
    monkeypatch.setattr(cases, "ROOT", tmp_path)
    assert cases.marks() == {"E02": ["test_x.py::test_order"], "E10": ["test_x.py::test_order"]}
    assert cases.table().splitlines()[2] == "| E02 | `test_x.py::test_order` |"


@pytest.mark.parametrize(("group", "rows"), [("A", 34), ("D", 15), ("E", 14), ("F", 17), ("L", 9)])
def test_every_case_of_these_groups_of_the_catalogue_has_a_test(group: str, rows: int) -> None:
    covered = cases.marks()
    assert [case for n in range(1, rows + 1) if (case := f"{group}{n:02}") not in covered] == []


# ---- no test only checks that nothing was raised --------------------------------------------------------------------


def looks(function: ast.FunctionDef | ast.AsyncFunctionDef, helpers: Iterable[str] = ()) -> bool:
    """Whether a function asserts something, by itself or by one of these helpers."""
    calls = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    return asserts or any(call in ("pytest.raises", "pytest.fail") or call.split(".")[-1] in helpers for call in calls)


def that_look_at_nothing(sources: Iterable[str]) -> set[str]:
    """The tests that assert nothing, nor call what does."""
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    helpers = {"assert_close"}
    while more := {f.name for f in functions if f.name not in helpers and looks(f, helpers) and f.name[:5] != "test_"}:
        helpers |= more
    return {one.name for one in functions if one.name.startswith("test_") and not looks(one, helpers)}


def test_every_test_looks_at_what_came_of_it() -> None:
    assert that_look_at_nothing(file.read_text("utf-8") for file in cases.ROOT.rglob("*.py")) == set()


def test_a_test_that_only_runs_something_would_be_found() -> None:
    source = "def same(a): assert a\ndef test_one(): same(run())\ndef test_two(): run()\ndef run(): return 1"
    assert that_look_at_nothing([source]) == {"test_two"}
