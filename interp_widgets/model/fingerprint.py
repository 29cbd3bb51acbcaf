"""Whether a model is still the one that a cached number was computed with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.errors import ModelChangedError
from interp_widgets.model.gate import after_hook, before_hook, hooks_of_all

_SAMPLE = 64

_SETTINGS = frozenset((bool, int, float, str))

Fingerprint = tuple[object, ...]


class WeightProbe:
    """A cheap key of a model's weights and foreign hooks.

    Parameter identities, their versions, a strided sample of every tensor's numbers (an in-place change through `.data` does
    not move the version), and the hooks that are not ours. `LiveModel.refresh()` is for changes that no sample sees.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._root = anatomy.root
        self._key: tuple[tuple[int, int], ...] = ()
        self._views: list[torch.Tensor] = []
        self._last: Fingerprint = ()
        self._modules: list[nn.Module] = []
        self._adapted: list[nn.Module] = []
        self._children: list[tuple[Mapping[str, nn.Module | None], tuple[nn.Module | None, ...]]] = []

    def read(self) -> Fingerprint:
        """The present key."""
        modules = self._all()
        resting = [m for m in modules if not _offloaded(m)]
        tensors = [t for m in resting for table in (m._parameters, m._buffers) for t in table.values() if t is not None]
        here = tuple((id(t), t.data_ptr() if not t.is_meta else 0) for t in tensors)
        if here != self._key:
            self._key = here
            self._views = [_sample(t) for t in tensors if type(t.data) is torch.Tensor and not t.is_meta]
        versions = (*map(_version, tensors), *map(_adapters, self._adapted))
        numbers = b"".join(self._bytes())
        key = (here, versions, hash(numbers), _hooks(modules), self._root.training, _code(modules), self._settings())
        if key == (last := self._last):
            return last  # the same object for the same model: hundreds of answers are kept by it
        self._last = key
        return key

    def weights(self) -> Fingerprint:
        """The part of the key that no forward moves by itself: where every parameter is, and how often it was written.

        Buffers and hooks are left out, for some models write buffers while they run. Read before and after every forward.

        Raises:
            ModelChangedError: when weights have no numbers any more.
        """
        modules = self._all()
        resting = [m for m in modules if "_hf_hook" not in m.__dict__ or not _offloaded(m)]
        parameters = [p for m in resting for p in m._parameters.values() if p is not None]
        where = tuple(map(torch.Tensor.data_ptr, parameters))
        if 0 in where and len(resting) == len(modules) and any(p.is_meta for p in parameters):
            # Torch gives numbers of a product with them on a CPU, whatever was in the memory.
            raise ModelChangedError(
                "Weights of the model were moved to the meta device, where they have no numbers; load them again."
            )
        return tuple(map(id, parameters)), where, tuple(map(_version, parameters)), tuple(map(_adapters, self._adapted))

    def _settings(self) -> tuple[object, ...]:
        """The configuration's plain values: the attention in use and the number of blocks are among them."""
        config = getattr(self._root, "config", None)
        if config is None:
            return ()
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        values = [*vars(config).values(), *(() if text is config else vars(text).values())]
        return tuple(value for value in values if type(value) in _SETTINGS)

    def _all(self) -> list[nn.Module]:
        """Every module once: walked anew only when a module somewhere has other children, for it is asked twice a forward."""
        if not self._children or any(tuple(now.values()) != then for now, then in self._children):
            self._modules = _modules(self._root)
            self._children = [(m._modules, tuple(m._modules.values())) for m in self._modules]
            self._adapted = [m for m in self._modules if "_disable_adapters" in m.__dict__]
        return self._modules

    def _bytes(self) -> list[bytes]:
        # The views are of `.data`: no gradient to switch off, and so no mode that an interrupt could leave behind.
        by_kind: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for view in self._views:
            by_kind.setdefault((view.dtype, view.device), []).append(view if view.dim() == 1 else view.reshape(-1))
        return [torch.cat(v).contiguous().view(torch.uint8).cpu().numpy().tobytes() for v in by_kind.values()]


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _adapters(module: nn.Module) -> tuple[object, ...]:
    """Which of a module's adapters (peft) act, and how strongly: switching them moves no weight."""
    state = module.__dict__
    scaling = state.get("scaling")
    return (
        state.get("_disable_adapters"),
        str(state.get("_active_adapter")),
        str(state.get("merged_adapters")),
        tuple(scaling.items()) if isinstance(scaling, dict) else None,  # pyright: ignore[reportUnknownArgumentType]
    )


def _code(modules: list[nn.Module]) -> tuple[object, ...]:
    """Whose code runs: every module and its class, a `forward` of its own, and the hooks that torch calls for all modules."""
    own = [id(m.__dict__["forward"]) for m in modules if "forward" in m.__dict__]
    return (
        *map(id, modules),
        *map(type, modules),
        *own,
        *hooks_of_all(),
    )


def _offloaded(module: nn.Module) -> bool:
    """Whether accelerate brings this module's weights for each of its calls, as other tensors every time."""
    hook = module.__dict__.get("_hf_hook")
    return hook is not None and any(getattr(h, "offload", False) for h in (hook, *getattr(hook, "hooks", ())))


def _modules(root: nn.Module) -> list[nn.Module]:
    """Every module once. Read before every run, so without the generators of `nn.Module`, which take ten times as long."""
    found, seen, stack = list[nn.Module](), {id(root)}, [root]
    while stack:
        module = stack.pop()
        found.append(module)
        for child in module._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                stack.append(child)
    return found


def _hooks(modules: list[nn.Module]) -> tuple[int, ...]:
    found: list[int] = []
    for module in modules:
        for table in (module._forward_pre_hooks, module._forward_hooks):
            if table:
                found.extend(id(h) for h in table.values() if h is not before_hook and h is not after_hook)
    return tuple(found)


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """A view of some of the numbers of `tensor`, spread over all of it."""
    data = tensor.data.view(torch.uint8) if tensor.dtype == torch.bool else tensor.data
    if data.is_contiguous():
        flat = data.reshape(-1)
        return flat[:: max(1, flat.numel() // _SAMPLE)]
    each = _SAMPLE ** (1 / data.dim())
    return data[tuple(slice(None, None, max(1, int(n / each))) for n in data.shape)]
