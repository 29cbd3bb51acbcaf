"""Open what ships in the wheel: the embedded models and their checkpoints along training."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from interp_widgets.model.errors import ModelRefusedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.json"
_FIRST = "embedded/config.json"  # in every manifest
_REINSTALL = "reinstall the package with `pip install --force-reinstall --no-deps interp-widgets`"


def load(name: str = "embedded") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open a shipped model by name: in float32, in evaluation mode, with its tokenizer.

    Args:
        name: `"embedded"`, `"embedded:<variant>"`, or either with `"@<step>"` for a checkpoint along its training.

    Raises:
        ModelRefusedError: no such model or step (the message lists what exists), or a file is missing or damaged.

    Example:
        >>> model, tokenizer = load()
        >>> model.config.n_layer, tokenizer("Mary")["input_ids"][0] == tokenizer.bos_token_id
        (4, True)
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, step = _parse(name)
    for path in _files(where, step):
        _verify(path)
    model = AutoModelForCausalLM.from_pretrained(str(HERE / where), dtype="float32", local_files_only=True)
    if step is not None:
        model.load_state_dict(_checkpoint_weights(HERE / where, step), strict=False)
        model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(str(HERE / where), local_files_only=True)
    return model.eval(), tokenizer


def names() -> list[str]:
    """The names that `load` opens, without the checkpoints."""
    return sorted({_public(Path(path).parts[0]) for path in _manifest()})


def checkpoints(name: str = "embedded") -> list[str]:
    """The checkpoints of a shipped model, in the order of training, as names that `load` opens.

    Raises:
        ModelRefusedError: no such model; the message lists what exists.
    """
    where, _ = _parse(name.partition("@")[0])
    return [f"{_public(where)}@{step}" for step in _steps(where)]


def folder(name: str) -> Path:
    """Where a shipped model's files are: a folder that `from_pretrained` opens."""
    return HERE / _parse(name)[0]


def _parse(name: str) -> tuple[str, int | None]:
    base, at, step = name.partition("@")
    where = base.replace(":", "_")
    if base not in names():
        raise ModelRefusedError(f"There is no shipped model {base!r}; there are {', '.join(map(repr, names()))}.")
    if not at:
        return where, None
    steps = _steps(where)
    if not step.isdigit() or int(step) not in steps:
        known = f"its checkpoints are at steps {', '.join(map(str, steps))}" if steps else "it has no checkpoints"
        raise ModelRefusedError(f"The shipped model {base!r} has no checkpoint {step!r}; {known}.")
    return where, int(step)


def _public(folder: str) -> str:
    return folder.replace("_", ":")


def _steps(folder: str) -> list[int]:
    prefix = f"{folder}/checkpoints/"
    return sorted(int(Path(path).stem) for path in _manifest() if path.startswith(prefix))


def _files(folder: str, step: int | None) -> list[str]:
    own = [path for path in _manifest() if path.startswith(f"{folder}/") and "/checkpoints/" not in path]
    return own if step is None else [*own, f"{folder}/checkpoints/{step}.safetensors"]


@cache
def _manifest() -> dict[str, str]:
    """SHA-256 of every shipped file, by path."""
    try:
        found = json.loads(MANIFEST.read_text())
    except (OSError, ValueError) as error:
        raise ModelRefusedError(f"The file {MANIFEST} is missing or damaged; {_REINSTALL}.") from error
    if (
        not isinstance(found, dict)
        or not all(isinstance(digest, str) for digest in found.values())
        or _FIRST not in found
    ):
        raise ModelRefusedError(f"The file {MANIFEST} is damaged (it does not list the shipped files); {_REINSTALL}.")
    return found


def _verify(relative: str) -> None:
    path = HERE / relative
    if not path.is_file():
        raise ModelRefusedError(f"The file {path} is missing; {_REINSTALL}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelRefusedError(
            f"The file {path} cannot be read ({error.strerror}): make it readable, or {_REINSTALL}."
        ) from error
    if hashlib.sha256(content).hexdigest() != _manifest()[relative]:
        raise ModelRefusedError(f"The file {path} is damaged (its SHA-256 is not the shipped one); {_REINSTALL}.")


def _checkpoint_weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint: int8 with one scale per row for matrices, float16 for the rest."""
    from safetensors.torch import load_file

    stored = load_file(str(folder / "checkpoints" / f"{step}.safetensors"))
    return {
        key: tensor.float() * stored[f"{key}.scale"].float() if f"{key}.scale" in stored else tensor.float()
        for key, tensor in stored.items()
        if not key.endswith(".scale")
    }
