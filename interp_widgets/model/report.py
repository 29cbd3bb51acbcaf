"""`live.report`: the checks on attach, each with its error; what is switched off, and why."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field

FAST_PATHS = frozenset({"replay", "growing batch", "split block", "read position only", "packed rows"})
_IDLE = "part of the library; idle unless hidden states or attentions are asked for"


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
        foreign: hooks that are not ours, `(module, name)`, a library's named as such; they are part of "plain".
        off: features and fast paths switched off, each with its reason.
        notes: what is unusual about the model, as sentences.

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

    @property
    def missing(self) -> dict[str, str]:
        """What this model cannot have: features that are off, with their reasons."""
        return {feature: why for feature, why in self.off.items() if feature not in FAST_PATHS}

    @property
    def slower(self) -> dict[str, str]:
        """Fast paths that are off, with their reasons: the same numbers take more forwards."""
        return {feature: why for feature, why in self.off.items() if feature in FAST_PATHS}

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if name in (check.name, check.feature):
                return check
        raise KeyError(f"There is no check {name!r}; there are {', '.join(c.name for c in self.checks)}.")

    @property
    def headline(self) -> str:
        """All of it in a line."""
        held = sum(c.ok for c in self.checks)
        parts = [f"{held} of {len(self.checks)} checks hold", f"noise floor ±{self.floor:.1e} logits"]
        parts += [f"off: {', '.join(self.missing)}"] if self.missing else ["nothing is off"]
        parts += [f"slower: {', '.join(self.slower)}"] if self.slower else []
        return "; ".join(parts) + "."

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Name, verdict, error and note of every check, then the noise floor, hooks, and what is off."""
        for check in self.checks:
            error = "" if check.error is None else f"{check.error:.1e}"
            told = check.note and any(check.note in why for why in self.off.values())
            yield check.name, "holds" if check.ok else "fails", error, "" if told else check.note
        yield "noise floor (logits)", "", f"±{self.floor:.1e}", "cells below it are neutral"
        for name, where in self._hooks().items():
            shown = ", ".join(path or "the model" for path in where[:3]) + (", …" if len(where) > 3 else "")
            library = ":" in name
            what, why = ("library's hook", _IDLE) if library else ("foreign hook", "counted as part of the plain model")
            times = f" ({len(where)})" if len(where) > 1 else ""
            yield what, "" if library else "counted", "", f"{name} on {shown}{times}: {why}"
        for feature, reason in self.missing.items():
            yield feature, "off", "", reason
        for feature, reason in self.slower.items():
            yield feature, "slower", "", f"{reason}; whole forwards are used instead"
        for note in self.notes:
            yield "note", "", "", note

    def _hooks(self) -> dict[str, list[str]]:
        """Where each hook that is not ours sits, by its name."""
        found: dict[str, list[str]] = {}
        for path, name in self.foreign:
            found.setdefault(name, []).append(path)
        return found

    def __str__(self) -> str:
        rows = list(self.rows())
        widths = [max(len(r[i]) for r in rows) for i in range(3)]
        lines = (
            f"{name:<{widths[0]}}  {verdict:<{widths[1]}}  {error:>{widths[2]}}  {note}".rstrip()
            for name, verdict, error, note in rows
        )
        return "\n".join([self.headline, "", *lines])

    def _repr_html_(self) -> str:
        left = "text-align: left; vertical-align: top"
        wrap = f"{left}; white-space: normal; max-width: 60ch"
        number = "text-align: right; vertical-align: top; font-variant-numeric: tabular-nums"
        styles = (wrap, left, number, wrap)
        head = "".join(f'<th style="{s}">{t}</th>' for s, t in zip(styles, ("check", "", "error", ""), strict=True))
        body = "".join(_html_row(row, styles) for row in self.rows())
        caption = f'<caption style="text-align: left">{html.escape(self.headline)}</caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_row(row: tuple[str, str, str, str], styles: tuple[str, ...]) -> str:
    """One line; what does not hold stands out by weight, not by colour alone."""
    loud = row[1] in ("fails", "off")
    cells = [
        f"<strong>{html.escape(text)}</strong>" if loud and i == 1 else html.escape(text) for i, text in enumerate(row)
    ]
    return "<tr>" + "".join(f'<td style="{s}">{c}</td>' for s, c in zip(styles, cells, strict=True)) + "</tr>"
