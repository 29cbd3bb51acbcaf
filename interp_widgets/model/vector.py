"""A direction as immutable data: equal and hashable by content."""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.model.errors import InterventionError

Array = npt.NDArray[np.float32]


class Vector:
    """A float32 array that cannot be changed, compared by its numbers.

    Args:
        values: `[d]`, or `[pos, d]` / `[pos, head, d_head]` for a patch; a tensor, an array or a list.

    Raises:
        InterventionError: when it is empty, not numeric, or holds a NaN or an infinity.

    Example:
        >>> Vector([1.0, 2.0]) == Vector([1, 2])
        True
    """

    __slots__ = ("_digest", "values")

    def __init__(self, values: object) -> None:
        array = _as_array(values)
        if array.size == 0:
            raise InterventionError(
                "A vector of length 0 cannot steer anything; give one number per residual dimension."
            )
        bad = int((~np.isfinite(array)).sum())
        if bad:
            raise InterventionError(
                f"The vector holds {bad} values that are not finite numbers; check how it was made."
            )
        array.flags.writeable = False
        self.values: Array = array
        self._digest = hashlib.blake2b(repr(array.shape).encode() + array.tobytes(), digest_size=12).hexdigest()

    @property
    def digest(self) -> str:
        """A short hash of shape and numbers, the same in every process."""
        return self._digest

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.values.shape

    @property
    def norm(self) -> float:
        """The Euclidean norm."""
        return float(np.linalg.norm(self.values.astype(np.float64)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Vector(shape={self.shape}, norm={self.norm:.4g}, hash={self._digest[:8]})"


def _as_array(values: object) -> Array:
    if isinstance(values, Vector):
        return values.values.copy()
    if torch.is_complex(values) if isinstance(values, torch.Tensor) else _complex(values):
        raise InterventionError(
            "The vector holds complex numbers, and activations are real, so the imaginary part would be lost; pass their real part "
            "(.real) or their size (abs)."
        )
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    try:
        with np.errstate(over="ignore"):  # what is too large becomes an infinity, which is refused in a sentence
            return np.array(cast("npt.ArrayLike", values), dtype=np.float32, order="C")
    except (TypeError, ValueError) as error:
        raise InterventionError(f"A vector is an array of numbers, not {type(values).__name__}: {error}.") from None


def _complex(values: object) -> bool:
    try:
        return np.iscomplexobj(np.asarray(values))
    except (TypeError, ValueError):
        return False  # no array at all, which is refused when it is made one
