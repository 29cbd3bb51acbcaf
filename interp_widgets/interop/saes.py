"""Dictionaries of features (sparse autoencoders) on disk: decoder rows as steering vectors, read one at a time.

Two layouts: a folder as SAELens writes it (`cfg.json`, `sae_weights.safetensors`), and any safetensors file with a decoder
matrix in it. Nothing else of an SAE is used, and nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from interp_widgets.methods.steering import SteeringVector, plain_vector
from interp_widgets.methods.vector_files import check_file
from interp_widgets.model.errors import FileRefusedError, SiteError
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

_WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "model.safetensors")
_BY_FEATURE = ("W_dec", "decoder_weights", "dictionary")  # [feature, width], the layout of SAELens
_BY_WIDTH = ("decoder.weight", "decoder", "dec.weight", "W_d")  # [width, feature], the weight of a linear layer
_MAX_CONFIG = 1 << 20


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of features on disk.

    Attributes:
        path: the safetensors file.
        key: the decoder matrix in it.
        by_feature: whether a feature is a row of it.
        n_features: how many features; width: the residual stream's width.
        site: where it was trained, as its configuration says; None where that is not said.
        model: the model it was trained on, as it says, or "".

    Example:
        >>> sae = load("gpt2-small-res-jb/blocks.8.hook_resid_pre")  # doctest: +SKIP
        >>> vector = sae.vector(session.model, 1234, name="paintings")  # doctest: +SKIP
    """

    path: Path
    key: str
    by_feature: bool
    n_features: int
    width: int
    site: Site | None = None
    model: str = ""

    def decoder_row(self, feature: int) -> npt.NDArray[np.float32]:
        """What one unit of a feature writes to the stream, `[width]`; only this row is read from the disk.

        Raises:
            FileRefusedError: for a feature that does not exist, or a file that cannot be read any more.
        """
        if type(feature) is not int or not 0 <= feature < self.n_features:
            raise FileRefusedError(f"{self.path.name!r} has the features 0 to {self.n_features - 1}, not {feature!r}.")
        try:
            with safe_open(str(self.path), framework="pt") as file:
                rows: Any = file.get_slice(self.key)
                row: Any = rows[feature : feature + 1] if self.by_feature else rows[:, feature : feature + 1]
        except (SafetensorError, OSError, KeyError) as error:
            raise FileRefusedError(f"{self.path.name!r} cannot be read any more: {str(error)[:120]}.") from error
        return row.float().flatten().numpy()

    def vector(
        self, live: LiveModel, feature: int, site: str | Site | None = None, *, name: str | None = None
    ) -> SteeringVector:
        """A feature as a steering vector; strength 1 adds one unit of its activation.

        Args:
            live: the model.
            feature: its number.
            site: where, if the configuration does not say it or to act elsewhere.
            name: what it is called on the screen.

        Raises:
            FileRefusedError: for a feature that does not exist, or a dictionary of another width.
            SiteError: when it is not said where it acts.
        """
        where = site if site is not None else self.site
        if where is None:
            raise SiteError(f'{self.path.name!r} does not say where it was trained; pass a site, such as "L8.pre".')
        if self.width != live.anatomy.d_model:
            raise FileRefusedError(
                f"{self.path.name!r} has features of width {self.width}, but {live.name!r} has a stream of width "
                f"{live.anatomy.d_model}; was it trained on another model?"
            )
        origin = f"decoder row {feature} of {self.path.parent.name}/{self.path.name}" + (
            f", trained on {self.model}" if self.model else ""
        )
        return plain_vector(live, self.decoder_row(feature), where, name or f"feature {feature}", origin)


def load(path: str | os.PathLike[str], *, width: int | None = None) -> Dictionary:
    """Open a dictionary: a folder with `cfg.json` and weights, or one safetensors file.

    Args:
        path: the folder or the file; links are followed, as download caches use them.
        width: the residual stream's width, where a matrix does not say by its name which way round it is.

    Raises:
        FileRefusedError: when there is no decoder in it, or it is not safetensors.

    Example:
        >>> load("sae.safetensors", width=768).n_features  # doctest: +SKIP
        24576
    """
    where = Path(path)
    facts = _facts(where) if where.is_dir() else {}
    file = _weights(where) if where.is_dir() else where
    check_file(file, None, links=True)
    shapes = _shapes(file)
    known = width if width is not None else _whole(facts.get("d_in"))
    key, by_feature = _decoder(shapes, known, file)
    shape = shapes[key]
    n, d = shape if by_feature else shape[::-1]
    if known is not None and d != known:
        raise FileRefusedError(
            f"{file.name!r}: the decoder {key!r} has shape {list(shape)}, which has no side of width {known}."
        )
    return Dictionary(file, key, by_feature, n, d, _site(facts), str(facts.get("model_name") or ""))


def _weights(folder: Path) -> Path:
    """The one safetensors file of a folder."""
    for name in _WEIGHTS:
        if (folder / name).exists():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        others = ", ".join(p.name for p in sorted(folder.iterdir())[:5]) or "nothing"
        raise FileRefusedError(
            f"{folder.name!r} holds {len(found)} safetensors files where one is expected (it has {others})."
        )
    return found[0]


def _facts(folder: Path) -> dict[str, Any]:
    """The configuration, newer layouts' nested metadata included."""
    config = folder / "cfg.json"
    if not config.exists():
        return {}
    check_file(config, _MAX_CONFIG, links=True)
    try:
        read = json.loads(config.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise FileRefusedError(f"'cfg.json' of {folder.name!r} cannot be read: {str(error)[:120]}.") from error
    if not isinstance(read, dict):
        raise FileRefusedError(f"'cfg.json' of {folder.name!r} is not a table.")
    facts = cast("dict[str, Any]", read)
    nested = facts.get("metadata")
    return {**(cast("dict[str, Any]", nested) if isinstance(nested, dict) else {}), **facts}


def _site(facts: dict[str, Any]) -> Site | None:
    name = facts.get("hook_name") or facts.get("hook_point")
    if not isinstance(name, str):
        return None
    try:
        return Site.parse(name)
    except SiteError:
        return None  # a place that this package has no name for: the caller says where


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FileRefusedError(
            f"{file.name!r} is not safetensors ({str(error)[:120]}); nothing else is accepted, and nothing in it was run."
        ) from error


def _decoder(shapes: dict[str, tuple[int, ...]], width: int | None, file: Path) -> tuple[str, bool]:
    """The decoder matrix, and whether a feature is a row of it."""
    matrices = {key: shape for key, shape in shapes.items() if len(shape) == 2}
    for names, by_feature in ((_BY_FEATURE, True), (_BY_WIDTH, False)):
        for name in names:
            if name in matrices:
                shape = matrices[name]
                turned = width is not None and shape[by_feature] != width == shape[not by_feature]
                return name, by_feature != turned
    fitting = [key for key, shape in matrices.items() if width in shape and "enc" not in key.lower()]
    if len(fitting) == 1 and matrices[fitting[0]][0] != matrices[fitting[0]][1]:
        return fitting[0], matrices[fitting[0]][1] == width
    shown = ", ".join(f"{key} {list(shape)}" for key, shape in list(shapes.items())[:5]) or "nothing"
    raise FileRefusedError(
        f"No decoder matrix was found in {file.name!r} (it holds {shown}); pass width=, or a file with 'W_dec'."
    )


def _whole(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
