"""Steering vectors on disk: safetensors with metadata, and nothing else, ever."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise
from safetensors.torch import load as parse_tensors

from interp_widgets.methods.directions import Separation
from interp_widgets.methods.steering import SteeringVector, check_stream, is_centred_model, residual_norm
from interp_widgets.model.errors import FileRefusedError, InterpError
from interp_widgets.model.sites import Site
from interp_widgets.model.vector import Vector

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

FORMAT = "interp_widgets.steering_vector"
MAX_BYTES = 16 << 20
MAX_HEADER = 1 << 20
MAX_TEXT = 10_000  # characters of a name, a source or a number in words
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_KNOWN = (
    (b"\x80", "a Python pickle"),
    (b"PK\x03\x04", "a zip archive, as torch.save writes"),
    (b"\x93NUMPY", "a numpy file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
)


def save(vector: SteeringVector, path: str | os.PathLike[str]) -> Path:
    """Write a vector as safetensors; what was there before stays until the new file is whole.

    Args:
        vector: with its model, site, scale and prompts' hash, which go along as metadata.
        path: ends in `.safetensors`.

    Raises:
        FileRefusedError: when it cannot be written there.

    Example:
        >>> save(mood, "mood.safetensors")  # doctest: +SKIP
    """
    where = Path(path)
    if where.suffix != ".safetensors":
        raise FileRefusedError(
            f"A vector is saved as safetensors; name the file {where.with_suffix('.safetensors').name!r}."
        )
    if where.is_symlink() or (where.exists() and not where.is_file()):
        raise FileRefusedError(
            f"{str(where)!r} is not an ordinary file, so it is not written over; choose another name."
        )
    data = serialise({"vector": vector.vector.values}, metadata=_metadata(vector))
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{where.name}.", dir=where.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(where)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise FileRefusedError(
            f"The vector could not be written to {str(where)!r}: {error.strerror or error}."
        ) from error
    return where


def load(path: str | os.PathLike[str], live: LiveModel | None = None, *, any_model: bool = False) -> SteeringVector:
    """Read a vector that `save` wrote, and check it before it can steer anything.

    Args:
        path: a safetensors file; links, pipes and folders are refused.
        live: the model that it is for: name, width and layers must be those it was made with.
        any_model: take it for another model of the same width.

    Raises:
        FileRefusedError: with what was found and what was expected.

    Example:
        >>> load("mood.safetensors", session.model).name  # doctest: +SKIP
        'mood'
    """
    where = Path(path)
    data = read_checked(where)
    header = header_of(data, where)
    _check_tensors(header, where)
    try:
        values = _numbers(data, header["vector"]["dtype"])
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FileRefusedError(f"{_named(where)} is damaged safetensors: {_first_line(error)}.") from error
    found = _vector(values, cast("dict[str, Any]", header.get("__metadata__") or {}), where)
    if live is None:
        return found
    _check_model(found, live, where, any_model)
    if found.model == live.name:
        return found
    # what a strength comes to is a matter of the stream that it is added to
    return replace(found, centred=is_centred_model(live), residual=residual_norm(live, found.site))


# ---- the file ---------------------------------------------------------------------------------------------------------


def check_file(where: Path, most: int | None, *, links: bool = False) -> int:
    """The size of an ordinary file, known before a byte of it is read.

    Raises:
        FileRefusedError: for a link (unless allowed), a folder, a pipe or another device, and for a size beyond `most`.
    """
    if "://" in str(where).replace(":/", "://", 1) and not where.exists():
        raise FileRefusedError(
            f"{str(where)!r} is an address; download the file and pass its path, nothing is fetched here."
        )
    try:
        found = where.stat() if links else where.lstat()
    except OSError as error:
        raise FileRefusedError(f"{_named(where)} cannot be opened: {error.strerror or error}.") from error
    except ValueError as error:
        raise FileRefusedError(f"{str(where)!r} is not a path: {error}.") from error
    kinds = (
        (stat.S_ISLNK, "a link; pass the file that it points to"),
        (stat.S_ISDIR, "a folder; pass a file in it"),
        (stat.S_ISFIFO, "a pipe, not a file"),
        (lambda mode: not stat.S_ISREG(mode), "a device or a socket, not a file"),
    )
    for is_kind, what in kinds:
        if is_kind(found.st_mode):
            raise FileRefusedError(f"{_named(where)} is {what}.")
    if most is not None and found.st_size > most:
        raise FileRefusedError(
            f"{_named(where)} has {found.st_size:,} bytes where at most {most:,} are expected; it was not read."
        )
    return found.st_size


def read_checked(where: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of an ordinary file of at most `most` bytes.

    Raises:
        FileRefusedError: as `check_file` says, also when the file was swapped in between.
    """
    check_file(where, most)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(where, flags)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileRefusedError(f"{_named(where)} is no longer an ordinary file.")
            data = file.read(most + 1)
    except OSError as error:
        raise FileRefusedError(f"{_named(where)} cannot be read: {error.strerror or error}.") from error
    if len(data) > most:
        raise FileRefusedError(f"{_named(where)} grew beyond {most:,} bytes while it was read.")
    return data


def header_of(data: bytes, where: Path) -> dict[str, Any]:
    """The header of safetensors: a table of tensors, and metadata.

    Raises:
        FileRefusedError: for anything else, by what it is where that can be told.
    """
    for magic, what in _KNOWN:
        if data.startswith(magic) and not _header_length_fits(data):
            raise FileRefusedError(
                f"{_named(where)} is {what}; only safetensors is accepted, and nothing in it was run."
            )
    if not _header_length_fits(data):
        raise FileRefusedError(
            f"{_named(where)} is not safetensors: its {len(data)} bytes do not begin with the length of a header."
        )
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileRefusedError(
            f"{_named(where)} is not safetensors: its header is not JSON ({_first_line(error)})."
        ) from error
    if not isinstance(header, dict):
        raise FileRefusedError(f"{_named(where)} is not safetensors: its header is not a table.")
    return cast("dict[str, Any]", header)


def _header_length_fits(data: bytes) -> bool:
    length = int.from_bytes(data[:8], "little")
    return len(data) >= 8 and 2 <= length <= min(len(data) - 8, MAX_HEADER) and data[8:9] == b"{"


def _check_tensors(header: dict[str, Any], where: Path) -> None:
    names = [name for name in header if name != "__metadata__"]
    if names != ["vector"]:
        shown = ", ".join(repr(n)[:40] for n in names[:3]) or "none"
        raise FileRefusedError(
            f"{_named(where)} holds {len(names)} tensors ({shown}) where one, 'vector', is expected; was it saved by another tool? "
            "For a dictionary of features use interop.saes."
        )
    table = header["vector"]
    shape = table.get("shape") if isinstance(table, dict) else None
    dtype = table.get("dtype") if isinstance(table, dict) else None
    if dtype not in _FLOATS:
        raise FileRefusedError(
            f"{_named(where)} holds numbers of the type {str(dtype)[:20]!r} where floating point is expected."
        )
    if not isinstance(shape, list) or len(shape) != 1:
        raise FileRefusedError(
            f"{_named(where)} holds an array of shape {str(shape)[:60]} where one vector is expected."
        )


def _numbers(data: bytes, dtype: str) -> np.ndarray[Any, Any]:
    """The one array; numpy has no numbers of BF16, which are those of F32 cut short."""
    return parse_tensors(data)["vector"].float().numpy() if dtype == "BF16" else parse(data)["vector"]


# ---- what it says about itself ----------------------------------------------------------------------------------------


def _metadata(vector: SteeringVector) -> dict[str, str]:
    separation = vector.separation
    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "name": vector.name,
        "site": vector.site.name,
        "model": vector.model,
        "n_layers": vector.n_layers,
        "width": vector.width,
        "source": vector.source,
        "prompts": vector.prompts,
        "residual": vector.residual,
        "difference": vector.difference,
        "origin": vector.origin,
        "centred": vector.centred,
        "separation": None
        if separation is None
        else [separation.auc, separation.accuracy, separation.n, separation.folds],
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def _vector(values: np.ndarray[Any, Any], facts: dict[str, Any], where: Path) -> SteeringVector:
    if facts.get("format") != FORMAT:
        raise FileRefusedError(
            f"{_named(where)} does not say that it is a steering vector (format {str(facts.get('format'))[:40]!r}); "
            "make one with steering.plain_vector from its numbers."
        )
    try:
        _check_facts(facts, len(values), where)
        separation = json.loads(facts["separation"])
        return SteeringVector(
            Vector(values), facts["name"], Site.parse(facts["site"]), facts["model"], _whole(facts["n_layers"]),
            facts["source"], facts["prompts"], None if facts["residual"] == "null" else _size(facts["residual"]),
            _size(facts["difference"]), _real(facts["origin"]), json.loads(facts["centred"]) is True,
            None if separation is None else _separation(separation),
        )  # fmt: skip
    except FileRefusedError:
        raise
    except InterpError as error:
        raise FileRefusedError(f"{_named(where)} cannot be used: {error}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"{type(error).__name__}: {_first_line(error)}"
        raise FileRefusedError(f"{_named(where)} has metadata that cannot be read ({what}).") from error


def _check_facts(facts: dict[str, Any], width: int, where: Path) -> None:
    long = next((key for key, value in facts.items() if len(str(value)) > MAX_TEXT), None)
    if long is not None or not facts["name"].strip():
        what = f"a {long!r} of {len(str(facts[long])):,} characters" if long is not None else "no name"
        raise FileRefusedError(f"{_named(where)} has {what}; a vector's name and facts are short texts.")
    if json.loads(facts["version"]) != 1 or json.loads(facts["width"]) != width:
        raise FileRefusedError(
            f"{_named(where)} contradicts itself: version {facts['version']!r}, width {facts['width']!r}."
        )


def _real(text: str) -> float:
    value = float(json.loads(text))
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _size(text: str) -> float:
    value = _real(text)
    if value < 0:
        raise ValueError(f"{text} is not a length")
    return value


def _separation(read: list[Any]) -> Separation:
    auc, accuracy, n, folds = read
    if not all(0 <= share <= 1 for share in (auc, accuracy)) or type(n) is not int or type(folds) is not int:
        raise ValueError(f"{str(read)[:60]} is not a separation")
    return Separation(float(auc), float(accuracy), n, folds)


def _whole(text: str) -> int:
    value = json.loads(text)
    if type(value) is not int:
        raise ValueError(f"{text} is not a whole number")
    return value


def _check_model(found: SteeringVector, live: LiveModel, where: Path, any_model: bool) -> None:
    width, layers = live.anatomy.d_model, len(live.anatomy.layers)
    if found.width != width:
        raise FileRefusedError(
            f"{_named(where)} has {found.width} numbers, but {live.name!r} has a stream of width {width}."
        )
    if not any_model and (found.model, found.n_layers) != (live.name, layers):
        raise FileRefusedError(
            f"{_named(where)} was made for {found.model!r} ({found.n_layers} layers), but this is {live.name!r} ({layers} layers); "
            "pass any_model=True to use it all the same."
        )
    try:
        check_stream(live, found.site)
    except InterpError as error:
        raise FileRefusedError(f"{_named(where)} cannot be used: {error}") from error


def _named(where: Path) -> str:
    return f"The file {where.name!r}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
