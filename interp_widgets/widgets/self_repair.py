"""SelfRepair: what an ablation costs directly and in all, who makes up for it, and what happens when that goes too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from interp_widgets.methods.self_repair import RepairReport, self_repair
from interp_widgets.model.errors import CancelledError, InterventionError
from interp_widgets.model.interventions import Ablate, AblateMode
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.brief import brief
from interp_widgets.widgets.guard import bundle
from interp_widgets.widgets.head_tables import words_of
from interp_widgets.widgets.wire import Json

ROUNDS = 8
_WORTH = 0.05  # of the direct effect that was lost: what restores less is no backup worth switching off
_MOST = 5


@dataclass(frozen=True)
class Step:
    """One line of the log."""

    ablated: tuple[str, ...]
    label: str
    direct: float
    total: float
    repaired: float


class SelfRepair(View):
    """The microscope for self-repair: switch heads off, and see which later parts restore the answer.

    Definitions and signs are those of `interp_widgets.methods.self_repair` (McGrath et al. 2023; Rushing & Nanda 2024):
    direct − total = repaired = heads + MLPs + final norm + rest; positive restores the answer.

    Example:
        >>> session.toggle("L1H0", mode="zero")  # doctest: +SKIP
        >>> iw.SelfRepair(session)  # doctest: +SKIP
    """

    _bundle = "self_repair"
    _css = bundle("self_repair.css")
    settings: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, session: Session, **settings: Any) -> None:
        self._report: RepairReport | None = None
        self._asked: Any = None
        self._log: list[Step] = []
        self._measured = -1  # the revision of the report, or of why there is none
        self._why = ""
        self._rounds = 0
        self._expected: Any = (
            None  # what is asked and ablated when the next round begins; anything else ends the rounds
        )
        super().__init__(session, **settings)

    @property
    def report(self) -> RepairReport | None:
        """The last account, once there is one."""
        return self._report

    def act(self, action: str, args: Json) -> None:
        """`backups` also ablates the heads that restore most, `rounds` times at most; `stop` ends that; `clear` empties the log."""
        if action == "backups":
            rounds = args.get("rounds", 1)
            if type(rounds) is not int or not 1 <= rounds <= ROUNDS:
                raise InterventionError(f"Backups are ablated in 1 to {ROUNDS} rounds, not {brief(rounds)}.")
            self._need_backups()
            self._rounds = rounds
            self._next_round()
        elif action == "stop":
            self._rounds = 0
        elif action == "clear":
            self._log = self._log[-1:]
            self._mirror.compute_panel(self)
        else:
            super().act(action, args)

    def _need_backups(self) -> None:
        if self.session.question is None:
            raise InterventionError("Nothing has been asked yet, so there are no backups; ask a question first.")
        if self._measured != self.session.revision:
            raise InterventionError("The present state is still being measured; try again in a moment.")
        if self._report is None:
            raise InterventionError(f"There are no backups to ablate: {self._why}")
        if not candidates(self._report):
            raise InterventionError(
                f"There are no backups to ablate: no head restores {_WORTH:.0%} of the direct effect that was lost. Switch other "
                "heads off first."
            )

    def interrupted(self) -> None:
        """No further round begins."""
        self._rounds = 0

    def _next_round(self) -> None:
        backups = [] if self._report is None else candidates(self._report)
        if self._report is None or not backups or self._rounds <= 0:
            self._rounds = 0
            return
        self._rounds -= 1
        self._expected = (self._asked, {*self._report.ablated, *backups})
        self.session.switch(backups, off=True, mode=self._report.mode)  # pyright: ignore[reportArgumentType]  (a mode it is)

    def _none(self, snapshot: Snapshot, why: str) -> None:
        """There is no report of this state."""
        self._report, self._rounds, self._measured, self._why = None, 0, snapshot.revision, why

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """Two forwards and what they account for; then the next round, where one is wished."""
        assert snapshot.question is not None
        examples = tuple((asked.ids, asked.metric) for asked in snapshot.question.examples)
        if examples != self._asked:
            self._asked, self._log, self._report, self._rounds = examples, [], None, 0
        ablations = [i for i in snapshot.interventions if isinstance(i, Ablate) and _counts(i)]
        if not ablations:
            self._none(snapshot, "nothing is switched off. Switch a head off first.")
            self.publish(snapshot, "done", nothing(snapshot, self._log), 1.0)
            return
        self.publish(snapshot, "computing")
        try:
            report = self_repair(
                self.session.model,
                snapshot.question,
                ablations,
                one_mode(ablations),
                snapshot.interventions,
                reference=snapshot.reference,
                cancelled=cancelled,
            )
        except CancelledError:
            raise
        except BaseException as error:
            self._none(snapshot, str(error) or type(error).__name__)
            raise
        self._report, self._measured = report, snapshot.revision
        if not self._log or self._log[-1].ablated != report.ablated:
            self._log.append(step_of(report, self._log[-1] if self._log else None))
        used = dict.fromkeys(words_of(a.reference or snapshot.reference, report.mode) for a in ablations)
        self.publish(snapshot, "done", told(report, " and ".join(used), self._log), 1.0)
        if self._expected != (self._asked, set(report.ablated)):
            self._rounds = 0
        if self._rounds:
            self._next_round()


def _counts(ablation: Ablate) -> bool:
    return ablation.edge is None and ablation.site.part in ("z", "mlp")


def one_mode(ablations: Sequence[Ablate]) -> AblateMode:
    """How all of them are ablated.

    Raises:
        InterventionError: when they are not all ablated alike, and everywhere.
    """
    modes = sorted({a.mode for a in ablations})
    if len(modes) > 1:
        raise InterventionError(
            f"Self-repair is measured for one mode at a time, and these are ablated in {' and '.join(modes)}; choose one mode."
        )
    partly = next((a for a in ablations if str(a.positions) != "all"), None)
    if partly is not None:
        raise InterventionError(
            f"Self-repair is measured for parts ablated everywhere, and {partly.site.name} is ablated at {partly.positions} only."
        )
    return ablations[0].mode


def candidates(report: RepairReport) -> list[str]:
    """The heads worth ablating next: those that restore at least 5 % of what was lost directly, five at most."""
    least = _WORTH * abs(report.direct)
    found = [(v, f"L{i}H{h}") for (i, h), v in np.ndenumerate(report.heads) if np.isfinite(v) and v > max(least, 1e-6)]
    return [name for _, name in sorted(found, key=lambda item: -item[0])[:_MOST]]


def step_of(report: RepairReport, before: Step | None) -> Step:
    """A line of the log, named by what came new."""
    new = [name for name in report.ablated if before is None or name not in before.ablated]
    kept = before is not None and set(before.ablated) <= set(report.ablated)
    names = new if kept else list(report.ablated)
    label = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return Step(report.ablated, f"+ {label}" if kept else label, report.direct, report.total, report.repaired)


def told(report: RepairReport, reference: str, log: list[Step]) -> Json:
    """A report as the browser is told it."""
    return {
        "ablated": list(report.ablated),
        "mode": report.mode,
        "reference": reference,
        "before": report.before,
        "after": report.after,
        "direct": report.direct,
        "total": report.total,
        "repaired": report.repaired,
        "heads": np.asarray(report.heads, dtype=np.float32),
        "mlps": np.asarray(report.mlps, dtype=np.float32),
        "norm": report.norm,
        "other": report.other,
        "suppression": np.asarray(report.suppression, dtype=np.float32),
        "words": report.words.replace("-", "−"),
        "log": [{"label": s.label, "direct": s.direct, "total": s.total, "repaired": s.repaired} for s in log],
        "candidates": candidates(report),
    }


def nothing(snapshot: Snapshot, log: list[Step]) -> Json:
    """What is told while nothing is ablated."""
    lines = [{"label": s.label, "direct": s.direct, "total": s.total, "repaired": s.repaired} for s in log]
    return {
        "ablated": [],
        "mode": snapshot.mode,
        "words": "",
        "log": lines,
        "candidates": [],
        "heads": None,
        "mlps": None,
    }
