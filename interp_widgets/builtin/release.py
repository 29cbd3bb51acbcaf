"""Turn trained weights into what ships: checkpoints in int8, and the manifest of every file's SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .load import HERE, MANIFEST

if TYPE_CHECKING:
    import torch

SHIPPED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def quantised(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as int8 with a float16 scale per row (`<key>.scale`), everything else as float16; tied copies left out."""
    import torch

    stored: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if key == "lm_head.weight":
            continue
        if tensor.dim() < 2:
            stored[key] = tensor.to(torch.float16).contiguous()
            continue
        scale = (tensor.float().abs().amax(1, keepdim=True) / 127).clamp_min(1e-6).to(torch.float16)
        stored[key] = (tensor.float() / scale.float()).round().clamp(-127, 127).to(torch.int8)
        stored[f"{key}.scale"] = scale
    return stored


def save_checkpoint(weights: dict[str, torch.Tensor], folder: Path, step: int) -> None:
    """Write `<folder>/checkpoints/<step>.safetensors`."""
    from safetensors.torch import save_file

    target = folder / "checkpoints"
    target.mkdir(parents=True, exist_ok=True)
    save_file(quantised(weights), str(target / f"{step}.safetensors"))


def write_manifest() -> None:
    """Record the SHA-256 of every file of every shipped model."""
    folders = sorted(path.parent for path in HERE.glob("embedded*/config.json"))
    files = sorted(path for folder in folders for path in (*(folder / n for n in SHIPPED), *folder.glob("checkpoints/*.safetensors"))
                   if path.is_file())
    digests = {path.relative_to(HERE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    MANIFEST.write_text(json.dumps(digests, indent=1) + "\n")
