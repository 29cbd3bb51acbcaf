"""A session's state as the browser is told it; the shapes are those of docs/protocol.md."""

from __future__ import annotations

from typing import Any

from interp_widgets.answer import Answer
from interp_widgets.methods.steering import place_name
from interp_widgets.model.interventions import Ablate, Edit, Intervention, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Question, Token
from interp_widgets.model.receipts import Receipt
from interp_widgets.moment import Entry, Moment
from interp_widgets.session import Session
from interp_widgets.version import __version__

Json = dict[str, Any]
EXAMPLES = 1000  # whose own numbers are sent beside the mean
STEPS = 40  # of the history, around the present one
MANY = 32  # rows: what comes beyond is sent by columns
_LIMIT = 2.0  # sliders run from −2 to 2 times the vector as stored


def state_of(session: Session, *, busy: bool, error: str | None) -> Json:
    """The whole small state of a session."""
    answer = session.peek()
    return {
        "version": __version__,
        "model": _model(session.model),
        "question": None if session.question is None else _question(session.question),
        "interventions": _interventions(session.now),
        "vectors": [_vector(session, name) for name in session.vectors],
        "mode": session.mode,
        "reference": _reference(session),
        "answer": None if answer is None else _answer(session, answer),
        "history": _history(session),
        "busy": busy,
        "error": error,
        "closed": session.closed,
    }


def columns(rows: list[Json]) -> list[Json] | Json:
    """Rows of the same names; where there are many, name by name: once what all have, else a value for each."""
    if len(rows) <= MANY:
        return rows
    names = list(rows[0])
    same = {name: rows[0][name] for name in names if all(row[name] == rows[0][name] for row in rows)}
    return {"$rows": len(rows), "same": same, "each": {n: [row[n] for row in rows] for n in names if n not in same}}


def token_of(token: Token) -> Json:
    """One token."""
    return {"id": token.id, "text": token.text, "kind": token.kind}


def _model(live: LiveModel) -> Json:
    heads = live.anatomy.head_counts
    return {
        "name": live.name,
        "layers": len(heads),
        "heads": heads,
        "dtype": str(live.dtype).removeprefix("torch."),
        "device": str(live.device),
        "chat": bool(getattr(live.tokenizer, "chat_template", None)),
        "notes": [f"{feature} off: {reason}" for feature, reason in live.report.off.items()],
    }


def _question(question: Question) -> Json:
    first = question.first
    return {
        "prompt": first.prompt,
        "message": first.message,
        "tokens": [token_of(t) for t in first.tokens],
        "position": first.position,
        "target": [token_of(t) for t in first.target],
        "foil": [token_of(t) for t in first.foil],
        "label": question.label,
        "unit": "logits" if first.metric.fn is None else "",
        "examples": question.n,
        "corrupt": first.corrupt is not None,
    }


def _interventions(now: Moment) -> list[Json] | Json:
    moved = {name: now.moved_by(name) for name in now.vectors}
    return columns([intervention_of(e, moves=e in moved.get(_name(e) or "", (e,))) for e in now.entries])


def _name(entry: Entry) -> str | None:
    return entry.intervention.name if isinstance(entry.intervention, Steer) else None


def intervention_of(entry: Entry, *, moves: bool = True) -> Json:
    """One line of the list of interventions.

    Args:
        moves: whether a control of its name would move it; a push along another vector than the slider's of this name has none.
    """
    what: Intervention = entry.intervention
    return {
        "key": entry.key if moves else f"steer:{what.site.name}",
        "kind": type(what).__name__.lower(),
        "site": what.site.name,
        "label": what.label,
        "on": entry.on,
        "mode": what.mode if isinstance(what, (Ablate, Steer)) else "",
        "positions": str(what.positions),
        "coefficient": what.coefficient if isinstance(what, Steer) else None,
        "vector": _name(entry) if moves else None,
        "code": "own code" if isinstance(what, Edit) else what.code,
    }


def _vector(session: Session, name: str) -> Json:
    vector = session.vectors[name]
    group = session.steering(name)
    steer, on = group[0]
    return {
        "name": name,
        "site": place_name(session.model, [s.site for s, _ in group]),
        "norm": vector.norm,
        "difference": vector.difference if vector.contrastive else None,
        "residual_norm": vector.residual if vector.residual and steer.site == vector.site else 0.0,
        "origin": steer.origin,
        "span": steer.vector.norm,
        "coefficient": steer.coefficient,
        "on": on,
        "limit": _LIMIT,
        "mode": steer.mode,
        "positions": str(steer.positions),
        "source": vector.source,
    }


def _reference(session: Session) -> Json | None:
    reference = session.reference
    if reference is None:
        return None
    return {"name": reference.name, "n": reference.n, "pooled": not reference.by_position, "hash": reference.digest}


def _answer(session: Session, answer: Answer) -> Json:
    idle = [receipt_of(e.intervention, "idle", "switched off") for e in session.now.entries if not e.on]
    return {
        "revision": session.revision,
        "metric": answer.metric,
        "plain_metric": answer.plain_metric,
        "interval": answer.interval,
        "values": list(answer.values[:EXAMPLES]),
        "each": _each(answer) if len(answer.values) > 1 else None,
        "target_probability": answer.target_probability,
        "rank": answer.rank,
        "kl": answer.kl,
        "top": [
            {
                "id": t.id,
                "text": t.text,
                "kind": session.model.tokens.token(t.id).kind,
                "probability": t.probability,
                "plain_probability": t.plain_probability,
            }
            for t in answer.top
        ],
        "receipts": columns([_receipt(r) for r in answer.receipts] + idle),
        "milliseconds": answer.seconds * 1e3,
        "floor": session.model.report.floor,
    }


def _each(answer: Answer) -> Json:
    """What every example of a prompt set answers."""
    return {
        "chance": list(answer.target_probabilities[:EXAMPLES]),
        "rank": list(answer.ranks[:EXAMPLES]),
        "KL": list(answer.kls[:EXAMPLES]),
    }


def _receipt(receipt: Receipt) -> Json:
    base = receipt_of(receipt.intervention, receipt.state, receipt.reason)
    return base | {"fired": receipt.fired, "positions": receipt.positions, "change": receipt.change}


def receipt_of(what: Intervention, state: str, reason: str) -> Json:
    """A receipt without figures."""
    return {
        "label": what.label,
        "site": what.site.name,
        "state": state,
        "reason": reason,
        "fired": 0,
        "positions": 0,
        "change": 0.0,
    }


def _history(session: Session) -> Json:
    history = session.history
    first = max(0, min(history.index - STEPS // 2, len(history.moments) - STEPS))
    steps = list(enumerate(history.moments))[first : first + STEPS]
    items = [{"label": m.label, "metric": history.metrics.get(i)} for i, m in steps]
    return {"items": items, "index": history.index - first}
