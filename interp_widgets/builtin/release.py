"""Turn trained weights into what ships: ``python -m interp_widgets.builtin.release FOLDER NAME``.

Copies a training's output, keeps the checkpoints of `KEPT` in int8, and writes the manifest of every file's SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .load import HERE, MANIFEST

if TYPE_CHECKING:
    import torch

SHIPPED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json")
KEPT: dict[str, tuple[int, ...]] = {
    "embedded": (150, 200, 225, 250, 300, 700, 1500, 2500),
    "embedded:names": (),
    "embedded:addition": (0, 100, 250, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000),
}
"""Steps whose weights ship as checkpoints."""


def quantised(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as int8 with a float16 scale per row (`<key>.scale`), everything else as float16."""
    import torch

    stored: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if tensor.dim() < 2:
            stored[key] = tensor.to(torch.float16).contiguous()
            continue
        scale = (tensor.float().abs().amax(1, keepdim=True) / 127).clamp_min(1e-6).to(torch.float16)
        stored[key] = (tensor.float() / scale.float()).round().clamp(-127, 127).to(torch.int8)
        stored[f"{key}.scale"] = scale
    return stored


def tidy(folder: Path) -> None:
    """Make a saved folder open the same everywhere: single precision when opened, a tokenizer class that all know."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    for name, settings in (
        ("config.json", {"dtype": "float32"}),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | settings, indent=2, sort_keys=True) + "\n")
    for path in folder.glob("*.*"):
        path.chmod(0o644)


def save_checkpoint(weights: dict[str, torch.Tensor], folder: Path, step: int, bits: int = 8) -> None:
    """Write `<folder>/checkpoints/<step>.safetensors`: int8 per row, or float16 as it is when `bits` is 16."""
    import torch
    from safetensors.torch import save_file

    target = folder / "checkpoints"
    target.mkdir(parents=True, exist_ok=True)
    stored = (
        quantised(weights)
        if bits == 8
        else {key: tensor.to(torch.float16).contiguous() for key, tensor in weights.items()}
    )
    path = target / f"{step}.safetensors"
    save_file(stored, str(path))
    path.chmod(0o644)


def record(folder: Path, cpu_seconds: int, losses: list[float]) -> None:
    """Write training.json: what the training took, and its first losses."""
    (folder / "training.json").write_text(json.dumps({"cpu": cpu_seconds, "losses": losses}) + "\n")


def publish(trained: Path, name: str) -> None:
    """Replace a shipped model by a trained one."""
    from safetensors.torch import load_file

    target = HERE / name.replace(":", "_")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in SHIPPED:
        shutil.copyfile(trained / file, target / file)
    for step in KEPT[name]:
        save_checkpoint(load_file(str(trained / "checkpoints" / f"{step}.safetensors")), target, step)
    write_manifest()


def write_manifest() -> None:
    """Record the SHA-256 of every file of every shipped model."""
    folders = sorted(path.parent for path in HERE.glob("embedded*/config.json"))
    files = sorted(
        path
        for folder in folders
        for path in (*(folder / n for n in SHIPPED), *folder.glob("checkpoints/*.safetensors"))
        if path.is_file()
    )
    digests = {path.relative_to(HERE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    MANIFEST.write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("name")
    given = parser.parse_args()
    publish(given.trained, given.name)
