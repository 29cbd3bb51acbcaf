"""Writes the table of `tests/README.md` that says which tests cover which case: `python -m tests.cases`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"
OPEN, CLOSE = "<!-- cases -->", "<!-- /cases -->"
Case = str
# A test of the front end says so in the line above it: `// @case L08`.
FRONT = re.compile(r"^// @case ([A-Z0-9, ]+)\ntest(?:\.each\([^\n]*?\))?\(\s*\"([^\"]+)\"", re.MULTILINE)


def marks() -> dict[Case, list[str]]:
    """The tests of every case, `file::test` by case id, both in order."""
    found: dict[Case, list[str]] = {}
    for file in sorted(ROOT.rglob("test_*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        for test in ast.walk(tree):
            if isinstance(test, ast.FunctionDef | ast.ClassDef):
                for case in _cases(test):
                    found.setdefault(case, []).append(f"{file.relative_to(ROOT)}::{test.name}")
    for file in sorted((ROOT.parent / "js").rglob("*.test.ts")):
        for listed, name in FRONT.findall(file.read_text("utf-8")):
            for case in listed.replace(",", " ").split():
                found.setdefault(case, []).append(f"../{file.relative_to(ROOT.parent)}: {name}")
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _cases(test: ast.FunctionDef | ast.ClassDef) -> Iterator[Case]:
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.case":
            yield from (str(ast.literal_eval(argument)) for argument in mark.args)


def _order(case: Case) -> tuple[str, int]:
    letters = re.match(r"[A-Z]*", case)
    return (letters[0] if letters else "", int(re.sub(r"\D", "", case) or 0))


def table() -> str:
    """The table as it should be."""
    rows = [f"| {case} | {'<br>'.join(f'`{test}`' for test in tests)} |" for case, tests in marks().items()]
    return "\n".join(["| case | tests |", "|---|---|", *rows])


def with_table(text: str) -> str:
    """The README's text with the table as it should be."""
    before, rest = text.split(OPEN)
    return f"{before}{OPEN}\n{table()}\n{CLOSE}{rest.split(CLOSE)[1]}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8")), "utf-8")
