"""Circuits set by hand in stock configurations, whose every answer is a formula: the engine's oracle.

The residual stream holds one-hot features, so its norm is a known constant; the softmaxes are saturated (a margin of at
least 60 in the scores, e**-60 vanishes in float32). Where a layer norm subtracts the mean, every feature is stored
twice, once with each sign, so that the mean is exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable

from interp_widgets.builtin.closed_form import Built, KnownCircuit
from interp_widgets.builtin.known_gpt2 import induction, self_repair
from interp_widgets.builtin.known_llama import clock, induction_llama
from interp_widgets.model.errors import InterpError

__all__ = ["KnownCircuit", "known", "names"]


def names() -> tuple[str, ...]:
    """The names of all known circuits."""
    return tuple(_CIRCUITS)


def known(name: str) -> Built:
    """Build a known circuit: a stock `transformers` model with weights set by hand, its tokenizer, its answers.

    Raises:
        InterpError: there is no circuit of that name.

    Example:
        >>> model, tokenizer, circuit = known("induction")
        >>> round(circuit.answers["plain"], 4)
        42.4264
    """
    builder = _CIRCUITS.get(name.removeprefix("known:"))
    if builder is None:
        message = f"There is no known circuit {name!r}: choose one of {', '.join(_CIRCUITS)}."
        raise InterpError(message)
    model, tokenizer, circuit = builder()
    model.config._name_or_path = f"known:{circuit.name}"  # noqa: SLF001 - what transformers calls a model's name
    tokenizer.name_or_path = f"known:{circuit.name}"
    return model.eval(), tokenizer, circuit


_CIRCUITS: dict[str, Callable[[], Built]] = {
    "induction": induction,
    "induction-llama": induction_llama,
    "self-repair": lambda: self_repair("self-repair", backup=False, suppression=False),
    "self-repair-backup": lambda: self_repair("self-repair-backup", backup=True, suppression=False),
    "self-repair-suppression": lambda: self_repair("self-repair-suppression", backup=False, suppression=True),
    "self-repair-both": lambda: self_repair("self-repair-both", backup=True, suppression=True),
    "clock": lambda: clock("clock", 113),
    "clock-59": lambda: clock("clock-59", 59),
    "clock-23": lambda: clock("clock-23", 23),
}
