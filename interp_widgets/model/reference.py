"""The prompts that a mean or resample ablation takes its replacement from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from interp_widgets.model.errors import InterventionError

_SHORT = 4


@dataclass(frozen=True)
class Reference:
    """A named set of prompts.

    Args:
        name: what stands beside the number.
        prompts: one or more texts.
        by_position: mean at each position over aligned prompts, instead of one mean pooled over positions.
        pairs: for prompts whose tokens are known: the token ids of the one question that each was written for (`()` for any
            question) and of the prompt, in the order of `prompts`.

    Raises:
        InterventionError: when it is empty or holds an empty text.

    Example:
        >>> Reference.of(["a b", "c d"]).n
        2
    """

    name: str
    prompts: tuple[str, ...]
    by_position: bool = False
    pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts or not all(isinstance(p, str) and p for p in self.prompts):  # pyright: ignore[reportUnnecessaryIsInstance]
            empty = [i for i, p in enumerate(self.prompts) if not p]
            what = f"prompt {empty[0]} is empty" if empty else "it has no prompts"
            raise InterventionError(
                f"The reference set {self.name!r} cannot be used: {what}; give texts with words in them."
            )

    @classmethod
    def of(cls, spec: Reference | str | Sequence[str] | None) -> Reference | None:
        """Read what a user may write: a `Reference`, one prompt, a list of prompts, or None."""
        if spec is None or isinstance(spec, Reference):
            return spec
        if isinstance(spec, str):
            return cls("one prompt", (spec,))
        if not isinstance(spec, Sequence) or not all(isinstance(p, str) for p in spec):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterventionError(
                f"{spec!r:.60} is no reference; give a prompt, a list of prompts, or iw.Reference(name, prompts)."
            )
        return cls(f"{len(spec)} prompts", tuple(spec))

    @property
    def n(self) -> int:
        """How many prompts."""
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """A short hash of the prompts, of their tokens where these are known, the same in every process."""
        known = str([list(prompt) for _, prompt in self.pairs]) if self.pairs else ""
        joined = "\x00".join(self.prompts) + str(self.by_position) + known
        return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()

    @property
    def code(self) -> str:
        """Python that builds the same reference."""
        by_position = ", by_position=True" if self.by_position else ""
        pairs = f", pairs={self.pairs!r}" if self.pairs else ""
        return f"iw.Reference({self.name!r}, {tuple(self.prompts)!r}{by_position}{pairs})"

    @property
    def short(self) -> bool:
        """Whether its code goes into one line of code about something else."""
        return self.n <= _SHORT
