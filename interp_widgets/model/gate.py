"""The hooks: installed once per model, inert unless a run of ours on *this* module is active in this context.

The two hook functions are module-level and hold no state, so a hooked model can be deep-copied, pickled and saved. Which
run is active is a `ContextVar`: another thread's forward, or the user's own between two of our tokens, never sees it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.utils.hooks import RemovableHandle

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.errors import CancelledError, ModelChangedError

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Before = Callable[[Args, Kwargs], tuple[Args, Kwargs] | None]
After = Callable[[Args, Kwargs, Any], Any]


@dataclass(frozen=True)
class Tap:
    """What a run wants of one attention call.

    Attributes:
        see: called with the query, key and value that the attention function was handed, and the pattern
            `[row, head, dest, src]`; returns an edited pattern, or None to leave it.
    """

    see: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None]


@dataclass
class Program:
    """What one forward does, module by module.

    Attributes:
        before: called with a module's arguments, may return new ones.
        after: called with a module's output, may return a new one.
        attention: called by the attention wrapper with the attention module; see `patterns.py`.
        instead: called by the attention wrapper in the original's place, with the original and what it was handed.
        cancelled: asked before every block.
        inside: asked before every watched module of a block, too: one of many rows takes long, and whoever clicked waits for it.
        blocks: the modules that are blocks.
        own: entered for the run, where attention is to be looked at that does not go through the registry.
        late: the handlers that come behind all others of their module.
        lock: the model's; the program acts only while this thread holds it. An interrupt can come between any two
            instructions, also between the end of a run and the reset of the context variable; the lock, which is released by the
            interpreter itself, then still keeps the user's next forward free of us. None: acts in its context without it.
    """

    before: dict[nn.Module, list[Before]] = field(default_factory=dict[nn.Module, list[Before]])
    after: dict[nn.Module, list[After]] = field(default_factory=dict[nn.Module, list[After]])
    attention: dict[nn.Module, list[Tap]] = field(default_factory=dict[nn.Module, "list[Tap]"])
    instead: dict[nn.Module, Callable[..., Any]] = field(default_factory=dict[nn.Module, Callable[..., Any]])
    cancelled: Callable[[], bool] | None = None
    inside: bool = False
    blocks: frozenset[nn.Module] = frozenset()
    own: AbstractContextManager[Any] | None = None
    lock: Any = None
    late: set[Before | After] = field(default_factory=set["Before | After"])

    def on_before(self, module: nn.Module, handler: Before, *, late: bool = False) -> None:
        """Add a handler of `module`'s arguments, behind the others; with `late` behind those that are still to come, too."""
        self._add(self.before.setdefault(module, []), handler, late)

    def on_after(self, module: nn.Module, handler: After, *, late: bool = False) -> None:
        """Add a handler of `module`'s output, behind the others; with `late` behind those that are still to come, too."""
        self._add(self.after.setdefault(module, []), handler, late)

    def _add(self, handlers: list[Any], handler: Before | After, late: bool) -> None:
        if late:
            self.late.add(handler)
        handlers.insert(len(handlers) if late else sum(h not in self.late for h in handlers), handler)


_ACTIVE: ContextVar[Program | None] = ContextVar("interp_widgets_active_program", default=None)


def active() -> Program | None:
    """The program of this context, if one of our runs is going on here."""
    program = _ACTIVE.get()
    if program is None or (program.lock is not None and not program.lock._is_owned()):  # noqa: SLF001
        return None
    return program


@contextmanager
def activate(program: Program) -> Generator[None]:
    """Make `program` the one that the hooks obey, in this context only; nothing else survives the block."""
    token = _ACTIVE.set(program)
    try:
        with program.own or nullcontext():
            yield
    finally:
        _ACTIVE.reset(token)


@contextmanager
def suspended() -> Generator[None]:
    """Code of the user's own that a run of ours calls sees the plain model: no program is active in this block, in this context."""
    token = _ACTIVE.set(None)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def switch(program: Program) -> None:
    """Go on under `program` in this context, which is a thread's own copy of that of a block that activated another."""
    _ACTIVE.set(program)


def before_hook(module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> tuple[Args, Kwargs] | None:
    """The forward-pre hook of every watched module.

    Torch notes in a second step that a hook takes keywords: the user's forward, on another thread in between, calls it without.
    """
    program = _ACTIVE.get()
    if program is None or kwargs is None:
        return None
    handlers = program.before.get(module)
    cancelled = program.cancelled
    if cancelled is not None and not program.inside and module not in program.blocks:
        cancelled = None
    # Most modules have no handler in most runs: what costs more than a look is asked of the others alone.
    if (handlers is None and cancelled is None) or active() is None or torch.compiler.is_compiling():
        return None
    if cancelled is not None and cancelled():
        raise CancelledError
    if handlers is None:
        return None
    changed = False
    for handler in handlers:
        result = handler(args, kwargs)
        if result is not None:
            (args, kwargs), changed = result, True
    return (args, kwargs) if changed else None


def after_hook(module: nn.Module, args: Args, kwargs: Kwargs, output: Any = None) -> Any:
    """The forward hook of every watched module; see `before_hook`."""
    program = _ACTIVE.get()
    handlers = None if program is None or output is None else program.after.get(module)
    if handlers is None or active() is None or torch.compiler.is_compiling():
        return None
    changed = False
    for handler in handlers:
        result = handler(args, kwargs, output)
        if result is not None:
            output, changed = result, True
    return output if changed else None


def watched(anatomy: Anatomy) -> tuple[dict[nn.Module, None], dict[nn.Module, None]]:
    """The modules whose arguments, and those whose outputs, a run may want; in order, each once."""
    before: dict[nn.Module, None] = {anatomy.root: None}
    after: dict[nn.Module, None] = {anatomy.embed: None}
    for layer in anatomy.layers:
        before[layer.module] = after[layer.module] = None
        before.update(dict.fromkeys(layer.norms))
        if layer.middle is not None:
            before[layer.middle] = None
        if layer.attention is not None:
            before[layer.attention.output] = None
            after[layer.attention.module] = None
            if layer.attention.write is not None:
                after[layer.attention.write.module] = None
        if layer.mlp is not None:
            before[layer.mlp.entry or layer.mlp.module] = None
            if layer.mlp.neurons is not None:
                before[layer.mlp.neurons] = None
            if layer.mlp.write is not None:
                after[layer.mlp.write.module] = None
        after.update(dict.fromkeys(write.module for write in layer.others))
    if anatomy.final_norm is not None:
        before[anatomy.final_norm] = None
    before[anatomy.unembed] = None
    return before, after


LIBRARIES = ("transformers", "accelerate", "peft", "torch")  # whose hooks are no doing of the user's

Link = tuple[Mapping[str, nn.Module | None], str, nn.Module, str]


def links(root: nn.Module, paths: Mapping[str, nn.Module]) -> tuple[Link, ...]:
    """Every step from the root to a watched module, each once: the parent's children, a name, what stood there, its path."""
    found: dict[str, Link] = {}
    for path in paths:
        parent, names = root, path.split(".") if path else []
        for n, name in enumerate(names):
            child = parent._modules[name]
            assert child is not None
            here = ".".join(names[: n + 1])
            found[here] = (parent._modules, name, child, here)
            parent = child
    return tuple(found.values())


# A module has one pair of our hooks, whoever opened it: an adapter and its base share modules, and a copy of an open model, or one
# that was saved while it was open, comes with hooks of ours; a second pair would act twice.
_USERS: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Gate]] = weakref.WeakKeyDictionary()


def _handle_of(module: nn.Module, when: str, number: int) -> RemovableHandle:
    """A handle of a hook of ours that is there already."""
    if when == "before":
        handle = RemovableHandle(module._forward_pre_hooks, extra_dict=module._forward_pre_hooks_with_kwargs)  # noqa: SLF001
    else:
        handle = RemovableHandle(module._forward_hooks, extra_dict=module._forward_hooks_with_kwargs)  # noqa: SLF001
    handle.id = number
    return handle


def _lists_of_blocks(anatomy: Anatomy) -> list[nn.Module]:
    """The containers that hold the blocks: one more of them is another model."""
    paths = {path.rpartition(".")[0] for path, m in anatomy.paths.items() if any(m is n.module for n in anatomy.layers)}
    holders = [anatomy.root.get_submodule(path) for path in sorted(paths)]
    return [holder for holder in holders if isinstance(holder, (nn.ModuleList, nn.ModuleDict, nn.Sequential))]


class Gate:
    """Our hooks on one model, and the promise that they are there when a run starts and gone after `remove`.

    Example:
        >>> gate = Gate(anatomy)  # doctest: +SKIP
        >>> gate.install()
        ... gate.remove()  # doctest: +SKIP
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._before, self._after = watched(anatomy)
        self._links = links(anatomy.root, anatomy.paths)
        self._handles: dict[tuple[str, nn.Module], RemovableHandle] = {}
        self._placed: list[tuple[Mapping[int, Any], int]] = []  # a module's hooks, and the id of ours among them
        self._lists = [(holder, tuple(holder._modules)) for holder in _lists_of_blocks(anatomy)]

    def install(self) -> None:
        """Install what is missing: the first time everything, later what somebody else removed."""
        if self._placed and all(ours in hooks for hooks, ours in self._placed):
            return
        self._placed = []
        for module in self._before:
            self._ensure("before", module, module._forward_pre_hooks)
        for module in self._after:
            self._ensure("after", module, module._forward_hooks)

    def _ensure(self, when: str, module: nn.Module, present: Mapping[int, Any]) -> None:
        ours = before_hook if when == "before" else after_hook
        there = next((number for number, hook in present.items() if hook is ours), None)
        handle = self._handles.get((when, module))
        if there is not None and (handle is None or handle.id != there):
            handle = _handle_of(module, when, there)
        elif there is None:
            handle = (
                module.register_forward_pre_hook(before_hook, prepend=True, with_kwargs=True)
                if when == "before"
                else module.register_forward_hook(after_hook, prepend=True, with_kwargs=True)
            )
        assert handle is not None
        self._handles[when, module] = handle
        _USERS.setdefault(module, weakref.WeakSet()).add(self)
        self._placed.append((present, handle.id))

    def check(self) -> None:
        """Raise when a watched module is no longer the one in the model.

        Raises:
            ModelChangedError: naming the module that was replaced or is gone.
        """
        for siblings, name, module, path in self._links:
            here = siblings.get(name)
            if here is not module:
                what = "is gone" if here is None else "was replaced"
                raise ModelChangedError(
                    f"The module {path!r} {what} while the model was open, so what is hooked is not what runs; "
                    "open the model again with iw.open(model, tokenizer)."
                )
        for holder, names in self._lists:
            if tuple(holder._modules) != names:
                raise ModelChangedError(
                    f"The list of blocks had {len(names)} when the model was opened and has {len(holder._modules)} now, so what "
                    "is hooked is not what runs; open the model again with iw.open(model, tokenizer)."
                )

    def remove(self) -> None:
        """Remove our hooks and nobody else's; those that another open model shares stay."""
        for _, module in self._handles:
            _USERS.setdefault(module, weakref.WeakSet()).discard(self)
        for (_, module), handle in self._handles.items():
            if not _USERS[module]:
                handle.remove()
        self._handles.clear()
        self._placed.clear()

    @property
    def count(self) -> int:
        """How many hooks of ours are on the model."""
        return len(self._handles)


def hooks_of_all() -> list[int]:
    """The ids of the hooks that torch calls for every module, in this process."""
    before, after = torch_modules._global_forward_pre_hooks, torch_modules._global_forward_hooks  # noqa: SLF001
    return [id(hook) for table in (before, after) for hook in table.values()]


def foreign_hooks(root: nn.Module) -> list[tuple[str, str]]:
    """Hooks that are not ours: `(module path, name)`; one of a library is named as such, `transformers: output_capturing_hook`."""
    found: list[tuple[str, str]] = []
    for path, module in root.named_modules():
        for table in (module._forward_pre_hooks, module._forward_hooks):
            theirs = [hook for hook in table.values() if hook is not before_hook and hook is not after_hook]
            found += [(path, _hook_name(hook)) for hook in theirs]
    return found


def _hook_name(hook: Any) -> str:
    name = str(getattr(hook, "__qualname__", type(hook).__qualname__)).rpartition("<locals>.")[2]
    library = str(getattr(hook, "__module__", "")).partition(".")[0]
    return f"{library}: {name}" if library in LIBRARIES else name
