"""A session as text: Python in this package's words, plain torch hooks, and JSON."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_widgets.model.errors import InterpError, InterventionError
from interp_widgets.model.interventions import Ablate, Edit, Intervention, Patch, Steer
from interp_widgets.model.positions import Positions, tokens
from interp_widgets.model.reference import Reference
from interp_widgets.model.vector import Vector

if TYPE_CHECKING:
    from interp_widgets.session import Session

FORMAT = 1


def to_session_code(session: Session) -> str:
    """Python that asks the same question under the same interventions."""
    lines = ["import interp_widgets as iw", "", f"session = iw.open({session.model.name!r})"]
    question = session.question
    if question is not None:
        for asked in question.examples[:1]:
            args = [repr(asked.prompt), f"target={_tokens(asked.target)}"]
            if asked.foil:
                args.append(f"foil={_tokens(asked.foil)}")
            lines.append(f"session.ask({', '.join(args)})")
    steers = [i for i in session.interventions if isinstance(i, Steer)]
    named = [f"{s.name if s.name.isidentifier() else 'vector'} = ...  # {s.vector!r}" for s in steers]
    lines += dict.fromkeys(named)  # once, also where it acts on a range of layers
    if session.interventions:
        lines.append("session.set(")
        lines += [f"    {i.code}," for i in session.interventions]
        lines.append(")")
    return "\n".join([*lines, "print(session.answer.metric)"]) + "\n"


def _tokens(found: Any) -> str:
    texts = [t.text for t in found]
    return repr(texts[0]) if len(texts) == 1 else repr(texts)


def to_torch_code(session: Session) -> str:
    """Plain torch hooks on the same model that give the same metric, with nothing of this package in them.

    Raises:
        InterventionError: when nothing is asked, or for an intervention that plain hooks of a few lines cannot express.
    """
    from interp_widgets.torch_code import render

    return render(session)


def to_json(session: Session) -> str:
    """The present state as JSON text; own code is left out and named under `"left_out"`."""
    question = session.question
    data: dict[str, Any] = {
        "format": FORMAT,
        "model": session.model.name,
        "mode": session.mode,
        "question": None
        if question is None
        else [
            {
                "ids": list(a.ids),
                "prompt": a.prompt,
                "target": list(a.metric.target),
                "foil": list(a.metric.foil),
                "position": a.position,
                "corrupt": [t.id for t in a.corrupt] if a.corrupt else None,
            }
            for a in question.examples
        ],
        "interventions": [_pack(i) for i in session.interventions if not isinstance(i, Edit)],
        "left_out": [i.label for i in session.interventions if isinstance(i, Edit)],
    }
    return json.dumps(data, allow_nan=False)


def _pack(intervention: Intervention) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": type(intervention).__name__, "site": intervention.site.name}
    data["positions"] = _pack_positions(intervention.positions)
    if isinstance(intervention, Ablate):
        reference = intervention.reference
        data |= {"mode": intervention.mode, "edge": intervention.edge}
        data["reference"] = (
            None if reference is None else [reference.name, list(reference.prompts), reference.by_position]
        )
    elif isinstance(intervention, Steer):
        data |= {"vector": _pack_vector(intervention.vector), "coefficient": intervention.coefficient}
        data |= {"mode": intervention.mode, "name": intervention.name, "origin": intervention.origin}
    elif isinstance(intervention, Patch):
        source = intervention.source
        data["source"] = source if isinstance(source, str) else _pack_vector(source)
    return data


def _pack_positions(p: Positions) -> dict[str, Any]:
    return {
        "kind": p.kind,
        "start": p.start,
        "stop": p.stop,
        "step": p.step,
        "at": list(p.at),
        "text": p.text,
        "label": p.label,
    }


def _pack_vector(vector: Vector) -> dict[str, Any]:
    return {
        "shape": list(vector.shape),
        "float32": base64.b64encode(vector.values.astype("<f4").tobytes()).decode("ascii"),
    }


def read_json(text: str) -> dict[str, Any]:
    """Parse `to_json`'s text.

    Raises:
        InterventionError: when it is not such a text.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InterventionError(f"This is not a saved session: {error}.") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InterventionError(f"This is not a session saved by this version (format {FORMAT}); save it again.")
    return data


def unpack(data: dict[str, Any]) -> Intervention:
    """One intervention from its JSON.

    Raises:
        InterventionError: for a kind that is unknown, `Edit` included: own code is never loaded.
    """
    try:
        positions = _unpack_positions(data["positions"])
        if data["kind"] == "Ablate":
            packed = data["reference"]
            reference = None if packed is None else Reference(packed[0], tuple(packed[1]), bool(packed[2]))
            edge = tuple(data["edge"]) if data["edge"] else None
            return Ablate(data["site"], data["mode"], reference, positions, edge)  # pyright: ignore[reportArgumentType]
        if data["kind"] == "Steer":
            vector, origin = _unpack_vector(data["vector"]), data.get("origin", 0.0)
            return Steer(data["site"], vector, data["coefficient"], data["mode"], positions, data["name"], origin)
        if data["kind"] == "Patch":
            source = data["source"]
            return Patch(data["site"], source if isinstance(source, str) else _unpack_vector(source), positions)
    except InterpError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InterventionError(f"A saved intervention cannot be read: {type(error).__name__} {error}.") from None
    raise InterventionError(f"Interventions of the kind {data.get('kind')!r} are not loaded from JSON.")


def _unpack_positions(p: dict[str, Any]) -> Positions:
    if p["kind"] == "text":
        return Positions.of(tokens(p["text"]))
    return Positions(p["kind"], p["start"], p["stop"], p["step"], tuple(p["at"]), p["text"], p["label"])


def _unpack_vector(data: dict[str, Any]) -> Vector:
    numbers = np.frombuffer(base64.b64decode(data["float32"], validate=True), dtype="<f4")
    return Vector(numbers.reshape(data["shape"]))
