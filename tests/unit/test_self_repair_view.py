"""The SelfRepair view: closed forms reach the page, and the backups go one round after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import interp_widgets as iw
from interp_widgets.builtin.known import known
from interp_widgets.methods.self_repair import self_repair
from interp_widgets.widgets.self_repair import SelfRepair
from tests.unit.comm import RecordingComm, Wire
from tests.unit.tiny_models import gpt2, llama, tokenizer

Json = dict[str, Any]
CIRCUITS = ["self-repair", "self-repair-backup", "self-repair-suppression", "self-repair-both"]


def circuit(name: str) -> tuple[iw.Session, Any]:
    module, words, about = known(name)
    session = iw.open(module, words)
    session.ask(about.prompt, about.target, about.foil)
    return session, about


class Page:
    """One view and what its page is told."""

    def __init__(self, session: iw.Session, wire: Wire) -> None:
        self.session = session
        self.view = SelfRepair(session)
        mirror = next(w for w in session.widgets if type(w).__name__ == "SessionWidget")
        self.comm: RecordingComm = wire.of(mirror)
        self.seq = 0

    def wish(self, action: str, **args: Any) -> None:
        self.seq += 1
        wish = {"panel": self.view.panel, "action": action, **args}
        key = f"panel:{self.seq}"
        self.comm.receive({"kind": "intent", "client": "a", "seq": self.seq, "name": "panel", "key": key, "args": wish})

    def wait(self, holds: Callable[[Json], bool], what: str) -> Json:
        found: list[Json] = []

        def there() -> bool:
            found.clear()
            for sent in self.comm.custom:
                content = sent.content
                if (
                    content.get("kind") == "panel"
                    and content["status"] == "done"
                    and content["data"]
                    and holds(content["data"])
                ):
                    found.append(content["data"] | {"buffers": sent.buffers})
            return bool(found)

        self.comm.wait(there, what, 30)
        return found[-1]

    def told(self, *ablated: str) -> Json:
        return self.wait(lambda d: d.get("ablated") == list(ablated), f"the account of {ablated}")


def table(data: Json, name: str) -> Any:
    spec = data[name]
    return np.frombuffer(data["buffers"][spec["$array"]], dtype=spec["dtype"]).reshape(spec["shape"])


@pytest.mark.parametrize("name", CIRCUITS)
def test_the_closed_forms_reach_the_page(name: str, wire: Wire) -> None:
    session, about = circuit(name)
    page = Page(session, wire)
    assert page.told()["words"] == ""
    session.toggle("L1H0", mode="zero")
    data = page.told("L1H0")
    answers = about.answers
    assert data["direct"] == pytest.approx(answers["direct:L1H0"], abs=1e-3)
    assert data["total"] == pytest.approx(answers["plain"] - answers["zero:L1H0"], abs=1e-3)
    assert data["repaired"] == pytest.approx(answers["repair:L1H0"], abs=1e-3)
    assert data["norm"] == pytest.approx(answers["repair:L1H0:norm"], abs=1e-3)
    assert table(data, "heads")[2, 0] == pytest.approx(answers.get("repair:L1H0:L2H0", 0.0), abs=1e-3)
    assert "L1H0 (zero)" in data["words"]
    assert "-" not in data["words"], "a minus sign is a minus sign"
    assert data["reference"] == "", "zero has no reference, whatever the session's own mode is"
    session.close()


def test_the_backups_go_one_round_after_the_other_and_the_log_tells_what_the_total_did(wire: Wire) -> None:
    session, _ = circuit("self-repair-backup")
    page = Page(session, wire)
    session.toggle("L1H0", mode="zero")
    first = page.told("L1H0")
    assert first["candidates"] == ["L2H0"]
    page.wish("backups", rounds=8)
    second = page.told("L1H0", "L2H0")
    assert [step["label"] for step in second["log"]] == ["L1H0", "+ L2H0"]
    assert second["log"][0]["total"] == pytest.approx(first["total"])
    assert second["total"] > first["total"] + 1
    assert second["candidates"] == []
    assert [i.label for i in session.interventions] == ["ablate L1H0, zero", "ablate L2H0, zero"]
    session.undo()
    assert len(session.interventions) == 1, "each round is a step of the history"
    page.wait(lambda d: len(d["log"]) == 3, "a third line")
    page.wish("clear")
    page.wait(lambda d: len(d["log"]) == 1, "an empty log")
    session.close()


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open({"gpt2": gpt2, "llama": llama}[request.param](), tokenizer())
    opened.reference = ["w3 w4 w8 w11", "w20 w21 w22"]
    opened.ask("w5 w9 w12 w5 w30 w7", target="w11", foil="w13")
    yield opened
    opened.close()


def test_what_is_told_is_what_the_function_gives_with_all_else_on(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire)
    session.set(iw.Ablate("L0H1"), iw.Ablate("L0.mlp"), iw.Steer("L0", np.ones(32), 0.3))
    data = page.told("L0H1", "L0.mlp")
    report = self_repair(
        session.model,
        session.question,  # pyright: ignore[reportArgumentType]
        ["L0H1", "L0.mlp"],
        "mean",
        session.snapshot().interventions,
        reference=session.reference,
    )
    assert data["before"] - data["after"] == pytest.approx(data["total"], abs=1e-5)
    assert data["after"] == pytest.approx(session.answer.metric, abs=1e-4)
    for name in ("direct", "total", "repaired", "norm"):
        assert data[name] == pytest.approx(getattr(report, name), abs=1e-5)
    assert np.allclose(table(data, "heads"), report.heads, atol=1e-5)
    parts = np.nansum(table(data, "heads")) + table(data, "mlps").sum() + data["norm"] + data["other"]
    assert parts == pytest.approx(data["repaired"], abs=1e-4)


def test_another_question_begins_another_log(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire)
    session.toggle("L1H2")
    page.told("L1H2")
    session.ask("w7 w9 w3 w5", target="w11", foil="w13")
    page.wait(lambda d: d["ablated"] == ["L1H2"] and len(d["log"]) == 1, "one line")


@pytest.mark.parametrize(
    ("uses", "words"),
    [
        ((iw.Ablate("L0H1"), iw.Ablate("L1H1", "zero")), "mean and zero"),
        ((iw.Ablate("L0H1", positions=[2]),), "ablated at"),
    ],
)
def test_what_cannot_be_accounted_for_says_why(session: iw.Session, wire: Wire, uses: Any, words: str) -> None:
    page = Page(session, wire)
    session.set(*uses)
    page.comm.wait(lambda: any(words in (s.content.get("message") or "") for s in page.comm.custom), words, 30)


def test_a_cut_edge_is_no_ablation_of_its_head(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire)
    session.cut("L1H2", 5, 1)
    page.wait(lambda d: d["ablated"] == [], "nothing ablated")
    assert page.view.report is None


def test_nonsense_is_refused(session: iw.Session, wire: Wire) -> None:
    page = Page(session, wire)
    page.wish("backups", rounds=99)
    page.comm.wait(
        lambda: any("1 to 8 rounds" in (s.content.get("message") or "") for s in page.comm.custom), "the refusal"
    )
    with pytest.raises(TypeError, match="no setting"):
        SelfRepair(session, colour="red")
