"""The default device and the default type of the caller's: no number of ours depends on either."""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.head_card import head_card
from interp_widgets.model.question import Metric
from tests.unit import tiny_models

PACKAGE = Path(iw.__file__).parent
PAIRS = ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"]
# What makes a tensor out of nothing, or of numbers of Python's: it lands on the default device, in the default type.
MAKERS = {
    "arange", "empty", "eye", "full", "linspace", "normal", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor",
    "tensor", "zeros",
}  # fmt: skip
TYPED = MAKERS - {"arange", "full", "randint", "randperm", "tensor"}  # those take their type from what they are given


@contextmanager
def default(dtype: torch.dtype) -> Generator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


DEFAULTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    # A stand-in for any device that is not the model's: whatever strays there has no numbers.
    "meta": lambda: torch.device("meta"),
    "bfloat16": lambda: default(torch.bfloat16),
    "float64": lambda: default(torch.float64),
}


def _vector(session: iw.Session, method: str) -> Any:
    return iw.steering_vector(session, *PAIRS, "L1", name="push", method=method)


def _own(row: torch.Tensor) -> float:
    return float(row[11] - row[13])


def _by_own_metric(session: iw.Session) -> list[Any]:
    other = iw.open(session.model.module, tiny_models.tokenizer())
    other.ask("w5 w9 w12", metric=_own)
    return [iw.head_effects(other, mode="zero").effects, iw.attribute(other, method="occlusion").scores]


def _patched(session: iw.Session) -> list[Any]:
    found = iw.patching(session)
    return [found.denoise, found.noise]


def _repaired(session: iw.Session) -> list[Any]:
    found = iw.self_repair(session, "L0H1", mode="zero")
    return [found.before, found.after, found.direct, found.total, found.heads]


def _curve(session: iw.Session) -> list[Any]:
    found = iw.dose_response(session, iw.Steer("L1", _vector(session, "mean_difference")))
    return [found.metric, found.random_metric]


def _carded(session: iw.Session) -> list[Any]:
    assert session.question is not None
    found = head_card(session.model, session.question.first, 0, 1)
    return [found.attention, found.carried, found.contribution]


def _deleted(session: iw.Session) -> list[Any]:
    found = iw.deletion_test(session, iw.attribute(session, method="gradient_x_input").scores)
    return [found.deletion, found.insertion]


METHODS: dict[str, Callable[[iw.Session], list[Any]]] = {
    **{
        f"attribute by {method}": lambda session, m=method: [iw.attribute(session, method=m).scores]
        for method in ("integrated_gradients", "gradient_x_input", "occlusion", "lrp")
    },
    **{
        f"attribute against {baseline}": lambda session, b=baseline: [iw.attribute(session, baseline=b).scores]
        for baseline in ("zero", "mean", "bos")
    },
    **{
        f"attribute an answer by {method}": lambda session, m=method: [
            iw.attribute_answer(session, answer="w11 w13", method=m).scores
        ]
        for method in ("integrated_gradients", "gradient_x_input", "occlusion")
    },
    "contrast answers": lambda session: list(iw.contrast_answers(session, "w11 w13", "w12 w2")),
    "direct attribution": lambda session: [iw.direct_attribution(session).by_token],
    "head effects": lambda session: [iw.head_effects(session, mode="mean").effects],
    "attention": lambda session: list(iw.attention(session)),
    "a vector of means": lambda session: [_vector(session, "mean_difference").vector.values],
    "a vector of a probe": lambda session: [_vector(session, "probe").vector.values],
    "a metric of the user's": _by_own_metric,
    "patching": _patched,
    "self-repair": _repaired,
    "dose and response": _curve,
    "head card": _carded,
    "deletion test": _deleted,
}


def _numbers(maker: Callable[[], Any], mode: Callable[[], AbstractContextManager[Any]]) -> dict[str, list[Any]]:
    model, tokenizer = maker(), tiny_models.tokenizer()
    with mode():
        session = iw.open(model, tokenizer)
        session.reference = ["w3 w4 w8 w11", "w20 w21 w22"]
        session.ask("w5 w9 w12 w5 w30 w7", target="w11", foil="w13", corrupt="w5 w8 w12 w5 w31 w7")
        found = {name: [np.asarray(one) for one in method(session)] for name, method in METHODS.items()}
    session.close()
    return found


@cache
def _expected(maker: Callable[[], Any]) -> dict[str, list[Any]]:
    return _numbers(maker, nullcontext)


@pytest.mark.case("A18")
@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("maker", [tiny_models.gpt2, tiny_models.llama], ids=["gpt2", "llama"])
def test_a_method_gives_the_same_numbers_whatever_the_callers_defaults_are(maker: Callable[[], Any], kind: str) -> None:
    expected, found = _expected(maker), _numbers(maker, DEFAULTS[kind])
    assert all(np.isfinite(one).any() for numbers in expected.values() for one in numbers)
    others = [
        name
        for name, numbers in expected.items()
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(numbers, found[name], strict=True))
    ]
    assert others == []


def test_a_metric_of_the_users_is_not_rounded_to_the_default_type() -> None:
    rows = torch.tensor([[1.0, 0.001, 0.0]])
    with default(torch.bfloat16):
        value = Metric((0,), (), fn=lambda row: float(row[0] + row[1])).of(rows)
    assert float(value[0]) == pytest.approx(1.001, abs=1e-6)


# ---- what is written ------------------------------------------------------------------------------------------------


def _made(path: Path) -> Iterator[tuple[int, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MAKERS:
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                yield node.lineno, node


def _holds_floats(call: ast.Call) -> bool:
    return any(
        (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Name) and node.id == "float")
        or (isinstance(node, ast.Attribute) and node.attr in ("nan", "inf"))
        for argument in call.args
        for node in ast.walk(argument)
    )


def _wrong(call: ast.Call) -> str:
    given = {keyword.arg for keyword in call.keywords}
    assert isinstance(call.func, ast.Attribute)
    if "device" not in given:
        return "does not say on which device"
    needs = call.func.attr in TYPED or _holds_floats(call)
    return "does not say of what type" if needs and "dtype" not in given else ""


def test_every_tensor_that_a_run_or_a_method_makes_says_where_it_is_and_of_what_type() -> None:
    files = [*(PACKAGE / "model").rglob("*.py"), *(PACKAGE / "methods").rglob("*.py"), *PACKAGE.glob("*.py")]
    found = [(path, line, _wrong(call)) for path in files for line, call in _made(path)]
    assert len(found) > 30, "nothing is found: the test shows nothing"
    assert [f"{path.relative_to(PACKAGE)}:{line} {why}" for path, line, why in found if why] == []


@pytest.mark.parametrize(
    "written",
    ["torch.zeros(3)", "torch.zeros(3, device='cpu')", "torch.tensor([1.0], device='cpu')", "torch.arange(3)"],
)
def test_a_tensor_that_does_not_say_so_is_found(written: str) -> None:
    call = next(node for node in ast.walk(ast.parse(written)) if isinstance(node, ast.Call))
    assert _wrong(call)
