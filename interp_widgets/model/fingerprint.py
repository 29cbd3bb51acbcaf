"""Whether a model is still the one that a cached number was computed with."""

from __future__ import annotations

import torch

from interp_widgets.model.anatomy import Anatomy
from interp_widgets.model.gate import after_hook, before_hook

_SAMPLE = 64

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

    def read(self) -> Fingerprint:
        """The present key."""
        tensors = [*self._root.parameters(), *self._root.buffers()]
        here = tuple((id(t), t.data_ptr() if not t.is_meta else 0) for t in tensors)
        if here != self._key:
            self._key, self._views = (
                here,
                [_sample(t) for t in tensors if type(t.data) is torch.Tensor and not t.is_meta],
            )
        versions = tuple(0 if t.is_inference() else t._version for t in tensors)  # pyright: ignore[reportPrivateUsage]
        numbers = b"".join(self._bytes())
        return here, versions, hash(numbers), self._hooks(), self._root.training

    def _bytes(self) -> list[bytes]:
        with torch.no_grad():
            by_kind: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
            for view in self._views:
                by_kind.setdefault((view.dtype, view.device), []).append(view)
            return [torch.cat(v).contiguous().view(torch.uint8).cpu().numpy().tobytes() for v in by_kind.values()]

    def _hooks(self) -> tuple[int, ...]:
        found: list[int] = []
        for module in self._root.modules():
            for table in (module._forward_pre_hooks, module._forward_hooks):  # pyright: ignore[reportPrivateUsage]
                if table:
                    found.extend(id(h) for h in table.values() if h is not before_hook and h is not after_hook)
        return tuple(found)


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.data.reshape(-1) if tensor.is_contiguous() else tensor.data.flatten()[:0]
    if flat.dtype == torch.bool:
        flat = flat.view(torch.uint8)
    return flat[:: max(1, flat.numel() // _SAMPLE)]
