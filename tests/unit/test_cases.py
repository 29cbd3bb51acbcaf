"""The table of cases in `tests/README.md` is the one that the marks of the tests give."""

from __future__ import annotations

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
