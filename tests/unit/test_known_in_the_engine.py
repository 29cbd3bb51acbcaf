"""The engine on circuits whose answers are known: every toggle gives the closed form, unused heads are bit-identical."""

from __future__ import annotations

import pytest
import torch

import interp_widgets as iw
from interp_widgets.builtin.known import known, names

ROUNDING = 2e-4  # of logits around 40 in float32


def opened(name: str) -> tuple[iw.Session, dict[str, float]]:
    session = iw.open(f"known:{name}")
    _, _, circuit = known(name)
    session.ask(circuit.prompt, target=circuit.target, foil=circuit.foil)
    return session, dict(circuit.answers)


@pytest.mark.parametrize("name", names())
def test_every_answer_of_a_known_circuit_is_its_closed_form(name: str) -> None:
    session, answers = opened(name)
    try:
        assert session.answer.metric == pytest.approx(answers["plain"], abs=ROUNDING)
        plain = session.model.answer(session.question.first).logits  # pyright: ignore[reportOptionalMemberAccess]
        used = set()
        for key, expected in answers.items():
            kind, _, site = key.partition(":")
            if kind != "zero":
                continue
            session.set(iw.Ablate(site, mode="zero"))
            assert session.answer.metric == pytest.approx(expected, abs=ROUNDING), key
            used.add(site)
        for layer, part in enumerate(session.model.anatomy.layers):
            assert part.attention is not None
            for head in range(part.attention.n_heads):
                site = f"L{layer}H{head}"
                if site in used or f"zero:{site}" in answers:
                    continue
                row = session.model.answer(session.question.first, [iw.Ablate(site, mode="zero")])  # pyright: ignore[reportOptionalMemberAccess]
                assert torch.equal(row.logits, plain), f"{site} is unused, and yet it changed the answer"
                assert row.receipts[0].state == "no effect"
    finally:
        session.close()


def test_the_grid_of_the_induction_circuit_shows_its_two_heads_and_nothing_else() -> None:
    session, answers = opened("induction")
    effects = iw.head_effects(session, mode="zero").effects
    heads = {
        key.removeprefix("zero:")
        for key, value in answers.items()
        if key.startswith("zero:") and value != answers["plain"]
    }
    for layer in range(effects.shape[0]):
        for head in range(effects.shape[1]):
            name = f"L{layer}H{head}"
            expected = answers["plain"] - answers[f"zero:{name}"] if name in heads else 0.0
            assert effects[layer, head] == pytest.approx(expected, abs=ROUNDING), name
    session.close()
