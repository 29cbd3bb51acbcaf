"""`live.report`: the checks on attach, each with its error; what is switched off, and why."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One check on attach.

    Attributes:
        name: what was checked, as a sentence part.
        ok: whether it held.
        error: the largest error found (relative where the name says so), None where there is no number.
        feature: what is switched off when it fails.
        note: more, in words.
    """

    name: str
    ok: bool
    error: float | None = None
    feature: str = ""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What was verified on this very model.

    Attributes:
        checks: in the order they were made.
        floor: the noise floor, in logits: how far the same run differs in other batch shapes and roundings.
        foreign: hooks that are not ours, `(module, function)`; they are part of "plain".
        off: features switched off, each with its reason.

    Example:
        >>> print(session.model.report)  # doctest: +SKIP
    """

    checks: tuple[Check, ...]
    floor: float = 0.0
    foreign: tuple[tuple[str, str], ...] = ()
    off: dict[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()

    @property
    def unverified(self) -> bool:
        """Whether no check has been made yet."""
        return not self.checks

    @property
    def ok(self) -> bool:
        """Whether everything held and nothing is off."""
        return all(c.ok for c in self.checks) and not self.off

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if name in (check.name, check.feature):
                return check
        raise KeyError(f"There is no check {name!r}; there are {', '.join(c.name for c in self.checks)}.")

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Name, verdict, error and note of every check, then the floor, the foreign hooks, and what is off."""
        for check in self.checks:
            error = "" if check.error is None else f"{check.error:.1e}"
            yield check.name, "holds" if check.ok else "fails", error, check.note
        yield "noise floor (logits)", "", f"±{self.floor:.1e}", "cells below it are neutral"
        for module, name in self.foreign:
            yield "foreign hook", "counted", "", f"{name} on {module or 'the model'}"
        for feature, reason in self.off.items():
            yield feature, "off", "", reason
        for note in self.notes:
            yield "note", "", "", note

    def __str__(self) -> str:
        rows = list(self.rows())
        widths = [max(len(r[i]) for r in rows) for i in range(3)]
        return "\n".join(
            f"{name:<{widths[0]}}  {verdict:<{widths[1]}}  {error:>{widths[2]}}  {note}".rstrip()
            for name, verdict, error, note in rows
        )

    def _repr_html_(self) -> str:
        cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in self.rows())
        return f"<table><thead><tr><th>check</th><th></th><th>error</th><th></th></tr></thead><tbody>{cells}</tbody></table>"
