"""One forward of the user's own model under interventions: what is read, and the receipts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.gate import Program, activate
from interp_widgets.model.modes import modes
from interp_widgets.model.places import on_input
from interp_widgets.model.positions import Row
from interp_widgets.model.probe import ids_argument, naming_return_dict
from interp_widgets.model.question import Token
from interp_widgets.model.receipts import Receipt
from interp_widgets.model.sites import Site


@dataclass(frozen=True)
class Batch:
    """Prompts side by side, padded on the right: for a causal model padding there is exact, and positions stay put.

    Attributes:
        ids: `[row, pos]`.
        lengths: tokens of each row without padding.
        rows: what positions are resolved against.
    """

    ids: torch.Tensor
    lengths: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def padded(self) -> bool:
        """Whether any row is shorter than the batch is wide."""
        return min(self.lengths) < self.ids.shape[1]

    @property
    def mask(self) -> torch.Tensor:
        """1 for tokens, 0 for padding, `[row, pos]`."""
        device = self.ids.device
        places = torch.arange(self.ids.shape[1], device=device)
        return (places[None] < torch.tensor(self.lengths, device=device)[:, None]).long()


def batch_of(prompts: Sequence[Sequence[Token]], device: torch.device, n_prompt: Sequence[int] | None = None) -> Batch:
    """Pad prompts to one width."""
    width = max(len(p) for p in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long, device="cpu")
    rows: list[Row] = []
    for r, prompt in enumerate(prompts):
        ids[r, : len(prompt)] = torch.tensor([t.id for t in prompt], device="cpu")
        ids[r, len(prompt) :] = prompt[-1].id
        rows.append(row_of(prompt, n_prompt[r] if n_prompt else len(prompt)))
    return Batch(ids.to(device), tuple(len(p) for p in prompts), tuple(rows))


def row_of(tokens: Sequence[Token], n_prompt: int) -> Row:
    """What positions are resolved against, for one row."""
    return Row(
        tuple(t.id for t in tokens), tuple(t.text for t in tokens), tuple(t.kind == "special" for t in tokens), n_prompt
    )


@dataclass(frozen=True)
class Run:
    """What one forward gave.

    Attributes:
        tokens: the prompt's tokens.
        logits: `[pos, vocab]`; with nothing on, the module's own output, bit for bit.
        receipts: one per intervention, in order.

    `run[site]` gives what was read: `run["L1H3"]`, `run["blocks.1.attn.hook_z"]`.

    Example:
        >>> run = live.run("The cat", read=["L0", "L1.heads"])  # doctest: +SKIP
        >>> run["L0"].shape  # doctest: +SKIP
        torch.Size([3, 128])
    """

    tokens: tuple[Token, ...]
    logits: torch.Tensor
    receipts: tuple[Receipt, ...]
    read: dict[Site, torch.Tensor] = field(default_factory=dict[Site, torch.Tensor], repr=False)

    def __getitem__(self, site: str | Site) -> torch.Tensor:
        where = Site.parse(site)
        if where in self.read:
            return self.read[where]
        whole = where.whole
        if whole in self.read:
            axis = self.read[whole]
            return axis[where.index] if where.part == "pattern" else axis[:, where.index]
        have = ", ".join(s.name for s in self.read) or "nothing"
        raise KeyError(f"{where.name} was not read in this run (read: {have}); ask for it with read=[{where.name!r}].")


def eager(root: nn.Module) -> Callable[..., Any]:
    """The model's call without its compiled form: a hook inside a compiled call would silently do nothing.

    `input_ids` reach a forward that calls them something else.
    """
    # A `__call__` of the class's own is part of the model; what it comes to is run eagerly by `force_eager`.
    own = type(root).__call__ is not nn.Module.__call__
    way: Any = root if own else type(root)._call_impl.__get__(root)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]

    def call(*args: Any, **kwargs: Any) -> Any:
        if "input_ids" in kwargs:
            first, named = ids_argument(root, kwargs.pop("input_ids"))
            args, kwargs = (*first, *args), {**named, **kwargs}
        with naming_return_dict(root):
            return way(*args, **kwargs)

    return call


def is_compiled(root: nn.Module) -> bool:
    """Whether any module was compiled in place (`module.compile()`)."""
    return any(getattr(m, "_compiled_call_impl", None) is not None for m in root.modules())


@contextmanager
def force_eager(root: nn.Module) -> Generator[None]:
    """Run blocks that were compiled in place eagerly, for this block of code."""
    if is_compiled(root):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


class Caller:
    """Knows which arguments this model's forward takes."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.root = anatomy.root
        parameters = inspect.signature(anatomy.root.forward).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._takes_mask = "attention_mask" in parameters or anything
        self._takes_cache = "use_cache" in parameters or anything
        self._takes_keep = "logits_to_keep" in parameters

    def __call__(self, batch: Batch, keep: Sequence[int] | None = None, embeds: torch.Tensor | None = None) -> Any:
        """Run the model; `keep` asks for the logits of these positions only, where the model can do that."""
        kwargs: dict[str, Any] = {"inputs_embeds": embeds} if embeds is not None else {"input_ids": batch.ids}
        if self._takes_mask:
            kwargs["attention_mask"] = batch.mask
        if self._takes_cache:
            kwargs["use_cache"] = False
        if keep is not None and self._takes_keep:
            kwargs["logits_to_keep"] = torch.tensor(list(keep), device=batch.ids.device)
        return eager(self.root)(**kwargs)

    @property
    def keeps(self) -> bool:
        """Whether `keep` shortens the model's own read-out."""
        return self._takes_keep


def logits_of(output: Any) -> torch.Tensor:
    """The logits of a model's output, `[row, pos, vocab]`."""
    if isinstance(output, torch.Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def forward(
    caller: Caller, anatomy: Anatomy, batch: Batch, program: Program, keep: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward under `program`.

    Returns:
        logits `[row, pos or kept, vocab]` as the model gives them, and the unembedding's input `[row, pos or kept, d_model]`.
    """
    hidden: list[torch.Tensor] = []

    def capture(x: torch.Tensor) -> None:
        hidden[:] = [x]

    on_input(program, anatomy.unembed, lambda: len(batch.rows), capture)
    with modes(batch.ids.device), force_eager(anatomy.root), activate(program):
        logits = logits_of(caller(batch, keep))
    return logits, hidden[0]
