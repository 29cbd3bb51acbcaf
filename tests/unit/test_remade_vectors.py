"""A vector that is given anew under a name that is used takes the old one's place; what only shares the name is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.dose_response import dose_response
from tests.unit import tiny_models
from tests.unit.comm import Wire
from tests.unit.page import PROMPT, REFERENCE, Page, open_page

OWN = torch.randn(32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open(getattr(tiny_models, request.param)(), tiny_models.tokenizer())
    opened.reference = REFERENCE
    opened.ask(PROMPT, target="w11", foil="w13")
    yield opened
    opened.close()


def made(session: iw.Session, first: int, site: str = "L1", name: str | None = "mood") -> iw.SteeringVector:
    """A vector of its own for every `first`."""
    words = [f"w{first + n}" for n in range(8)]
    return iw.steering_vector(
        session, [" ".join(words[:2]), words[2]], [" ".join(words[3:6]), words[6]], site, name=name
    )


def pushed(session: iw.Session, pushes: Mapping[int, torch.Tensor], positions: slice = slice(1, None)) -> float:
    """The logit difference of the module itself, with these added after these blocks by hooks of this test's own."""
    module: Any = session.model.module
    blocks = module.transformer.h if hasattr(module, "transformer") else module.model.layers

    def adds(push: torch.Tensor) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            x = (output[0] if isinstance(output, tuple) else output).clone()
            x[:, positions] += push
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return hook

    handles = [blocks[layer].register_forward_hook(adds(push)) for layer, push in pushes.items()]
    try:
        with torch.no_grad():
            logits = module(torch.tensor([session.question.first.ids])).logits[0, -1]  # pyright: ignore[reportOptionalMemberAccess]
    finally:
        for handle in handles:
            handle.remove()
    return float(logits[11] - logits[13])


def numbers(vector: iw.SteeringVector) -> torch.Tensor:
    return torch.from_numpy(vector.vector.values.copy())


def close(got: float, want: float) -> bool:
    return got == pytest.approx(want, abs=1e-4)


# ---- the new one acts -------------------------------------------------------------------------------------------------


def test_a_vector_made_anew_acts_at_once_at_the_strength_of_the_old_one(session: iw.Session) -> None:
    old, new = made(session, 3), made(session, 30)
    for vector, strength in ((old, 1.0), (new, 2.0)):  # a cell that is run twice, with other prompts
        iw.SteeringSliders(session, vectors={"mood": vector})
        if vector is new:
            assert close(session.answer.metric, pushed(session, {1: numbers(new)}))
        session.strength("mood", strength)
        assert close(session.answer.metric, pushed(session, {1: numbers(vector) * strength}))
    assert not close(pushed(session, {1: numbers(old) * 2}), session.answer.metric)
    assert session.vectors == {"mood": new}
    assert [steer.vector for steer, _ in session.steering("mood")] == [new.vector]


def test_undo_brings_the_old_vector_back_with_the_old_number(session: iw.Session) -> None:
    old, new = made(session, 3), made(session, 30)
    session.add_vector(old, "mood")
    session.strength("mood", 1.0)
    before, steps = session.answer.metric, len(session.history.moments)
    session.add_vector(new, "mood")
    after = session.answer.metric
    assert len(session.history.moments) == steps + 1
    assert session.undo()
    assert (session.vectors["mood"], session.answer.metric) == (old, before)
    assert session.redo()
    assert (session.vectors["mood"], session.answer.metric) == (new, after)
    session.undo()
    session.strength("mood", 0.5)
    assert close(session.answer.metric, pushed(session, {1: numbers(old) * 0.5}))


def test_strength_mode_positions_and_whether_it_is_on_stay(session: iw.Session) -> None:
    old, new = made(session, 3), made(session, 30)
    session.add_vector(old, "mood")
    session.strength("mood", 0.7)
    session.steer_settings("mood", mode="clamp", positions="[2, 3]")
    session.toggle("L0H0", "zero")
    session.steer_settings("mood", on=False)
    kept = session.now.entries
    session.add_vector(new, "mood")
    ((steer, on),) = session.steering("mood")
    assert (steer.coefficient, steer.mode, str(steer.positions), on) == (0.7, "clamp", "[2, 3]", False)
    assert (steer.vector, steer.origin) == (new.vector, new.origin)
    assert new.origin != old.origin
    assert [e.key for e in session.now.entries] == [e.key for e in kept], "its place among what acts"
    session.steer_settings("mood", on=True)
    want = iw.Steer("L1", new, 0.7, "clamp", [2, 3])
    assert close(
        session.answer.metric,
        float(session.model.run(PROMPT, [want, iw.Ablate("L0H0", "zero")]).logits[-1] @ difference(session)),
    )


def difference(session: iw.Session) -> torch.Tensor:
    row = torch.zeros(session.model.anatomy.vocab)
    row[11], row[13] = 1.0, -1.0
    return row


def test_it_moves_to_the_site_where_the_new_one_was_made_unless_a_site_was_chosen(session: iw.Session) -> None:
    old, new = made(session, 3, "L1"), made(session, 30, "L0")
    session.add_vector(old, "mood")
    session.strength("mood", 1.0)
    session.add_vector(new, "mood")
    assert close(session.answer.metric, pushed(session, {0: numbers(new)}))
    session.undo()
    session.steer_settings("mood", site="L2")
    session.add_vector(new, "mood")
    assert close(session.answer.metric, pushed(session, {2: numbers(new)}))
    session.undo()
    session.steer_settings("mood", site="L0–L1")  # the old one's own site is one of these, and stays one of them
    session.add_vector(made(session, 40, "L2"), "mood")
    assert close(session.answer.metric, pushed(session, dict.fromkeys((0, 1), numbers(session.vectors["mood"]))))


def test_the_same_vector_given_again_is_no_step_and_one_that_does_not_act_none_either(session: iw.Session) -> None:
    old, new = made(session, 3), made(session, 30)
    session.add_vector(old, "mood")
    session.set(iw.Steer("L1", old, 1.0, "clamp", name="mood", origin=0.25))
    steps, on = session.history.moments[:], session.interventions
    session.add_vector(made(session, 3), "mood")
    assert (session.history.moments, session.interventions) == (steps, on)
    session.clear()
    session.toggle("L0H0", "zero")
    count = len(session.history.moments)
    session.add_vector(new, "mood")
    assert len(session.history.moments) == count
    session.undo()  # of the head; the vector was not what was done last
    assert session.vectors["mood"] == new
    session.undo()  # of the clear: here the old one acts
    assert (session.vectors["mood"], session.interventions) == (old, on)


def test_a_vector_that_was_given_since_a_mark_is_still_there_after_the_rewind(session: iw.Session) -> None:
    mark = session.mark()
    session.add_vector(made(session, 3), "mood")
    session.strength("mood", 1.0)
    session.rewind(mark)
    assert list(session.vectors) == ["mood"]
    assert session.interventions == ()


# ---- what only shares the name ----------------------------------------------------------------------------------------


def test_an_unnamed_steer_of_another_vector_is_not_the_sliders(session: iw.Session) -> None:
    added = made(session, 3, name=None)
    assert added.name == iw.Steer("L0", OWN).name == "vector"
    session.add_vector(added)
    session.set(iw.Steer("L0", OWN, 1.0))
    session.strength("vector", 2.0, final=False)
    session.strength("vector", 1.5)
    assert close(session.answer.metric, pushed(session, {0: OWN, 1: numbers(added) * 1.5}))
    session.steer_settings("vector", site="L2", positions="all")
    assert session.interventions == (iw.Steer("L0", OWN, 1.0), iw.Steer("L2", added, 1.5, positions="all"))
    session.steer_settings("vector", on=False)
    assert close(session.answer.metric, pushed(session, {0: OWN}))
    for _ in range(3):
        session.undo()
    assert session.interventions == (iw.Steer("L0", OWN, 1.0),)
    assert session.steering("vector") == ((iw.Steer("L1", added, 0.0), True),)


def test_a_vector_made_anew_leaves_a_push_that_shares_its_name_alone(session: iw.Session) -> None:
    old, new = made(session, 3, name=None), made(session, 30, name=None)
    session.add_vector(old)
    session.set(iw.Steer("L0", OWN, 1.0), iw.Steer("L1", old, 2.0))
    session.add_vector(new)
    assert session.interventions == (iw.Steer("L0", OWN, 1.0), iw.Steer("L1", new, 2.0))
    assert close(session.answer.metric, pushed(session, {0: OWN, 1: numbers(new) * 2}))


# ---- what a page sees -------------------------------------------------------------------------------------------------


def curve_of(page: Page, view: iw.SteeringSliders) -> Any:
    """The metric at every strength, as the page was told it last."""
    told = [
        (s.buffers, (s.content["data"] or {}).get("vectors"))
        for s in page.of("panel")
        if s.content["panel"] == view.panel
    ]
    buffers, vectors = [one for one in told if one[1] and not one[1]["mood"]["old"]][-1]
    assert buffers is not None and vectors is not None
    metric = vectors["mood"]["metric"]
    return np.frombuffer(buffers[metric["$array"]], metric["dtype"])


def test_a_page_shows_moves_and_measures_the_new_vector(wire: Wire) -> None:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.reference = REFERENCE
    session.ask(PROMPT, target="w11", foil="w13")
    old, new = made(session, 3), made(session, 30, "L0")
    iw.SteeringSliders(session, vectors={"mood": old}, tokens=0, coherence=False).close()
    session.strength("mood", 1.0)
    view = iw.SteeringSliders(session, vectors={"mood": new}, tokens=0, coherence=False)
    page = open_page(wire, session)
    page.calm()
    (shown,), (line,) = page.state["vectors"], page.state["interventions"]
    assert (shown["site"], shown["coefficient"], shown["origin"]) == ("L0", 1.0, new.origin)
    assert shown["norm"] == new.norm
    assert (line["key"], line["site"], line["vector"]) == ("strength:mood", "L0", "mood")
    page.drag(1.5, final=True, name="mood")
    page.calm()
    assert page.metric == pytest.approx(pushed(session, {0: numbers(new) * 1.5}), abs=1e-4)
    asked = session.question.first  # pyright: ignore[reportOptionalMemberAccess]
    want = dose_response(session.model, asked, iw.Steer("L0", new, name="mood")).metric
    np.testing.assert_allclose(curve_of(page, view), want, atol=1e-5)
    for _ in range(2):
        page.wish("undo", "undo")
    page.calm()
    assert (page.state["vectors"][0]["norm"], page.state["vectors"][0]["site"]) == (old.norm, "L1")
    assert page.metric == pytest.approx(pushed(session, {1: numbers(old)}), abs=1e-4)
    session.close()


def test_a_page_is_told_which_push_no_slider_moves(wire: Wire) -> None:
    session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
    session.ask(PROMPT, target="w11", foil="w13")
    session.add_vector(made(session, 3, name=None))
    session.set(iw.Steer("L0", OWN, 1.0), iw.Steer("L2", OWN, 1.0, name="of my own"))
    iw.HeadAblation(session, mode="zero")
    page = open_page(wire, session)
    page.calm()
    page.drag(2.0, final=True, name="vector")
    page.calm()
    lines = [(one["key"], one["vector"], one["coefficient"]) for one in page.state["interventions"]]
    assert lines == [
        ("steer:L0", None, 1.0),
        ("strength:of my own", "of my own", 1.0),
        ("strength:vector", "vector", 2.0),
    ]
    assert [one["coefficient"] for one in page.state["vectors"]] == [2.0]
    session.close()
