"""How long a generation goes on, how its tokens are chosen, and what ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from interp_widgets.model.errors import GenerationError
from interp_widgets.model.sampling import Sampling

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


class Options(TypedDict, total=False):
    """The keywords of `generate` beside the prompt, the interventions and the length."""

    continued: Sequence[int]
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: str | int | Sequence[str | int] | None
    ignore_eos: bool
    cancelled: Callable[[], bool] | None


@dataclass(frozen=True)
class Settings:
    """How long to go on, and how tokens are chosen.

    Raises:
        GenerationError: for a number of tokens below 1.
    """

    max_new_tokens: int
    use_cache: bool
    sampling: Sampling
    stop: frozenset[int] = frozenset()
    stop_texts: tuple[str, ...] = ()
    ignore_eos: bool = False
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        n = self.max_new_tokens
        if type(n) is not int or n < 1:
            raise GenerationError(f"max_new_tokens is a whole number from 1, not {n!r}.")

    @classmethod
    def of(cls, live: LiveModel, max_new_tokens: int, use_cache: bool, options: dict[str, Any]) -> Settings:
        """Read the keywords of `generate`."""
        stop = options.pop("stop", None)
        items = [] if stop is None else [stop] if isinstance(stop, (str, int)) else list(stop)
        for item in items:
            if isinstance(item, bool) or not isinstance(item, (str, int)) or item == "":
                raise GenerationError(f"stop takes token ids and texts, not {item!r}.")
        seeds = options.pop("seeds", None)
        return cls(
            max_new_tokens,
            use_cache,
            Sampling(
                *(
                    options.pop(k, d)
                    for k, d in (("temperature", 0.0), ("top_k", None), ("top_p", None), ("seed", None))
                )
            ),
            frozenset(live.tokens.one("stop token", i).id for i in items if isinstance(i, int)),
            tuple(i for i in items if isinstance(i, str)),
            bool(options.pop("ignore_eos", False)),
            None if seeds is None else tuple(int(s) for s in seeds),
        )


def stop_ids(live: LiveModel, settings: Settings) -> frozenset[int]:
    """The ids that end a text: the model's own, as its generation settings say (else its tokenizer's), and those asked for."""
    if settings.ignore_eos:
        return settings.stop
    config = getattr(live.anatomy.root, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    own = getattr(live.tokenizer, "eos_token_id", None) if own is None else own
    ids = own if isinstance(own, (list, tuple)) else [] if own is None else [own]
    return settings.stop | {int(i) for i in ids}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
