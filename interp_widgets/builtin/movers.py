"""How a recipe's movers, its last blocks, learn to move names: two lessons that come with the text, and dropped heads."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .batches import Row
from .recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle
    from transformers import GPT2LMHeadModel

SUBJECT_SCALE = 2.0


class Course:
    """The lessons of a recipe's movers in the order of training; of a recipe without movers, none."""

    def __init__(self, model: GPT2LMHeadModel, recipe: Recipe) -> None:
        """Nothing is hooked yet."""
        self._model, self._recipe = model, recipe
        self._lesson: MoversLesson | None = None
        self._dropped: list[RemovableHandle] = []

    def at(self, step: int) -> None:
        """Begin and end what begins and ends at this step."""
        recipe = self._recipe
        if not recipe.movers:
            return
        if step == recipe.text_from:
            self._lesson = MoversLesson(self._model, recipe)
        if step == recipe.dropped_from:
            self._dropped = drop_heads(self._model, recipe)
        if self._lesson and step >= recipe.movers_until:
            self._lesson.hold = 1 - (step - recipe.movers_until) / recipe.movers_release
        if self._lesson and self._lesson.hold <= 0:
            self._lesson.end()
            self._lesson = None

    def text_loss(
        self, rows: list[Row], step: int, plain: Callable[[GPT2LMHeadModel, list[Row]], torch.Tensor]
    ) -> torch.Tensor:
        """The loss of a batch of text at this step, `plain` being the one without lessons."""
        if self._lesson is None:
            return plain(self._model, rows)
        with self._lesson.reading():
            loss = plain(self._model, rows)
        if step < self._recipe.subject_until:
            loss = loss + self._recipe.subject_weight * self._lesson.subject_loss(rows)
        return loss

    def close(self) -> None:
        """Take every hook off."""
        for handle in self._dropped:
            handle.remove()
        if self._lesson:
            self._lesson.end()


class MoversLesson:
    """The lesson of a recipe's movers, the last blocks, on a model until `end`: names are read where they stand.

    The movers' keys and values see tokens alone. Left free, training fetches the answer into a place behind the names,
    early, and the last block copies it from there: no head looks from the answer's place to the name. While `reading`
    text, what the block before the movers writes is left out of the logits: it knows whom the answer is not, and else
    writes that name down instead of letting the movers write the right one up.
    """

    def __init__(self, model: GPT2LMHeadModel, recipe: Recipe) -> None:
        """Hook the model."""
        self._model, self._width, self.hold = model, recipe.width, 1.0
        self._reads, self._tokens, self._earlier, self._before = False, list[Any](), list[Any](), list[Any]()
        self._turn = _rotation(recipe.width, recipe.seed + 4)
        blocks: Any = model.transformer.h
        before = blocks[recipe.movers[0] - 1]
        self._handles: list[RemovableHandle] = [
            blocks[0].register_forward_pre_hook(self._keep_tokens),
            before.register_forward_pre_hook(self._keep_earlier),
            blocks[recipe.movers[0]].register_forward_pre_hook(self._keep_before),
            model.transformer.ln_f.register_forward_pre_hook(self._leave_out),
            before.attn.c_attn.register_forward_hook(self._seeing(before, (0, 2))),
            *(blocks[i].attn.c_attn.register_forward_hook(self._seeing(blocks[i], (1, 2))) for i in recipe.movers),
        ]

    @contextmanager
    def reading(self) -> Generator[None]:
        """While text is read: what the block before the movers writes does not reach the logits."""
        self._reads = True
        try:
            yield
        finally:
            self._reads = False

    def subject_loss(self, rows: list[Row]) -> torch.Tensor:
        """Cross entropy of naming, where an answer is due, whom it is not, read off before the movers through a rotation."""
        import torch

        asked = [(r, at, other) for r, row in enumerate(rows) for at, others in row.others for other in others]
        row, at, other = torch.tensor(asked).T
        with torch.autocast("cpu", torch.bfloat16):
            state = self._model.transformer.ln_f.forward(self._before[0][row, at])
            logits = self._model.lm_head(state @ self._turn) * SUBJECT_SCALE
        return torch.nn.functional.cross_entropy(logits.float(), other)

    def end(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _keep_tokens(self, _module: Any, args: tuple[Any, ...]) -> None:
        self._tokens[:] = [args[0]]

    def _keep_earlier(self, _module: Any, args: tuple[Any, ...]) -> None:
        self._earlier[:] = [args[0]]

    def _keep_before(self, _module: Any, args: tuple[Any, ...]) -> None:
        self._before[:] = [args[0]]

    def _leave_out(self, _module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (args[0] - self.hold * (self._before[0] - self._earlier[0]),) if self._reads else None

    def _seeing(self, block: Any, alone: tuple[int, int]) -> Any:
        """A hook by which two of a block's queries, keys and values (0, 1, 2) see tokens alone."""
        import torch

        def see(module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
            free, tied = (x.split(self._width, -1) for x in (out, module.forward(block.ln_1(self._tokens[0]))))
            held = [torch.lerp(free[i], tied[i], self.hold) if i in alone else free[i] for i in range(3)]
            return torch.cat(held, -1)

        return see


def drop_heads(model: GPT2LMHeadModel, recipe: Recipe) -> list[RemovableHandle]:
    """Hooks that drop each of the movers' heads in a share of the rows, and the last mover's all together in another.

    What drops is made up for by heads that look whether the answer is there already: a reason for backups to be.
    """
    import torch

    random = torch.Generator().manual_seed(recipe.seed + 5)
    blocks: Any = model.transformer.h

    def dropping(shares: tuple[float, float]) -> Any:
        def drop(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            if not module.training:
                return args
            rows = len(args[0])
            kept = torch.rand(rows, 1, recipe.heads, 1, generator=random) >= shares[0]
            kept = kept & (torch.rand(rows, 1, 1, 1, generator=random) >= shares[1])
            return ((args[0].unflatten(-1, (recipe.heads, -1)) * kept).flatten(-2), *args[1:])

        return drop

    last = recipe.movers[-1]
    return [
        blocks[i].attn.c_proj.register_forward_pre_hook(
            dropping((recipe.heads_dropped, recipe.block_dropped if i == last else 0.0))
        )
        for i in recipe.movers
    ]


def _rotation(width: int, seed: int) -> torch.Tensor:
    import torch

    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed))).Q
