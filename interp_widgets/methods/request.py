"""What may be asked of an attribution, checked before anything runs."""

from __future__ import annotations

from typing import Literal, get_args

from interp_widgets.model.errors import InterpError

Method = Literal["integrated_gradients", "gradient_x_input", "occlusion", "lrp", "direct"]
METHODS: tuple[str, ...] = get_args(Method)
MAX_STEPS = 4096


def check_request(method: str, steps: int) -> None:
    """Refuse a method or a number of steps that makes no sense.

    Raises:
        InterpError: naming what there is.
    """
    if method not in METHODS:
        raise InterpError(f"There is no attribution method {method!r}; choose one of {', '.join(METHODS)}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InterpError(
            f"steps is {steps!r}, but integrated gradients needs a whole number from 1 to {MAX_STEPS}, such as 32."
        )
