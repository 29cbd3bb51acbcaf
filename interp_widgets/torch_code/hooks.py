"""One intervention as a function of an activation, and the hooks that call it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from interp_widgets.model.compile import compile_steps
from interp_widgets.model.errors import FeatureOffError, InterventionError
from interp_widgets.model.interventions import Ablate, Edit, Intervention, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.parts import Write
from interp_widgets.model.places import layer_of, output_of, reader_of
from interp_widgets.model.question import Asked, Question
from interp_widgets.model.run import row_of
from interp_widgets.model.sites import Site


@dataclass(frozen=True)
class Part:
    """One piece of a script: definitions, and the expressions that register their hooks, in the order of the calls."""

    text: str
    hooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Act:
    """What is done to one prompt: where, and what is put there or pushed along, `[feature]` or `[at, feature]`."""

    at: list[int]
    value: torch.Tensor


def part_of(live: LiveModel, question: Question, what: Intervention, n: int) -> Part:
    """The `n`-th intervention.

    Raises:
        InterventionError: for one that plain hooks of a few lines cannot express.
    """
    _refuse(what)
    acts = [_act(live, asked, what) for asked in question.examples]
    title = _comment(f"{what.label} (positions: {what.positions})")
    if isinstance(what, Steer) and what.coefficient == 0 and what.mode != "clamp":
        return Part(f"# {title}: strength 0 changes nothing\n")
    if not any(act.at for act in acts):
        return Part(f"# {title}: there is no such position\n")
    at, at_text = _each(f"at_{n}", [str(act.at) for act in acts])
    where = f"[{at}{_columns(live, what.site)}]"
    if isinstance(what, Steer):
        value_text = [f"value_{n} = {_array(acts[0].value)}"]
        change = _steered(what, where, f"value_{n}", live.dtype)
    else:
        value, value_text = _value(f"value_{n}", [act.value for act in acts])
        change = [f"new{where} = {value}"]
    lines = [f"# {title}", *value_text, at_text, "", "", f"def change_{n}(x):  # [position, feature]"]
    lines += [f"    {line}" for line in ("new = x.clone()", *change, "return new")]
    hooks = _placed(live, what.site, n)
    return Part("\n".join([*lines, "", "", hooks.text, ""]), hooks.hooks)


def _refuse(what: Intervention) -> None:
    if isinstance(what, Edit):
        raise InterventionError(
            f"{what.label} cannot be written as plain hooks: only you have its code; use to_code('session')."
        )
    if what.site.part == "pattern" or (isinstance(what, Ablate) and what.mode == "edge"):
        raise InterventionError(
            f"{what.label} cannot be written as plain hooks, which see no attention weights; use to_code('session')."
        )


def _comment(text: str) -> str:
    """`text` in one line, whatever a vector is called."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def called(live: LiveModel) -> str:
    """What the script calls: a hook does nothing inside a compiled call."""
    return "model" if getattr(live.module, "_orig_mod", None) is None else "model._orig_mod"


def module_text(live: LiveModel, module: nn.Module) -> str:
    """How the script names a module."""
    inside = called(live) == "model" and any(m is module for m in live.module.modules())
    root = live.module if inside else live.anatomy.root
    return f"modules[{next(path for path, m in root.named_modules() if m is module)!r}]"


# ---- numbers ----------------------------------------------------------------------------------------------------------


def _act(live: LiveModel, asked: Asked, what: Intervention) -> _Act:
    at: list[int] = np.flatnonzero(what.positions.mask(row_of(asked.tokens, len(asked.tokens)))).tolist()
    step = compile_steps(live, [what], asked.tokens)[0]
    if isinstance(what, Steer):
        return _Act(at, torch.from_numpy(what.vector.values.copy()).flatten())
    assert step.value is not None
    value = _side_by_side(live, what.site, step.value, step.by_position)
    return _Act(at, value[at] if step.by_position else value)


def _side_by_side(live: LiveModel, site: Site, value: torch.Tensor, by_position: bool) -> torch.Tensor:
    """All heads of a layer as the output projection is given them, `[head * d_head]`; anything else as it is."""
    if site.part != "z" or site.index is not None or value.dim() == 0:
        return value
    attention = layer_of(live.anatomy, site).attention
    assert attention is not None
    return value.expand(*value.shape[: int(by_position)], attention.n_heads, attention.d_head).flatten(-2)


def _each(name: str, texts: Sequence[str]) -> tuple[str, str]:
    """What a hook calls something, and its definition: once where all prompts agree, else once for each."""
    if len(set(texts)) == 1:
        return name, f"{name} = {texts[0]}"
    return f"{name}[now]", "\n".join([f"{name} = [  # one for each example", *(f"    {text}," for text in texts), "]"])


def _value(name: str, values: Sequence[torch.Tensor]) -> tuple[str, list[str]]:
    """What a hook puts in place, and its definition; a single number stands where it is used."""
    texts = [_array(value) for value in values]
    if values[0].numel() == 1 and len(set(texts)) == 1:
        return repr(float(values[0])), []
    of, text = _each(name, texts)
    return f"{of}.to(new)", [text]


def _array(values: torch.Tensor) -> str:
    array = np.ascontiguousarray(values.detach().float().cpu().numpy(), dtype="<f4")
    shape = ", ".join(map(str, array.shape or (1,)))
    return f'numbers("{base64.b64encode(array.tobytes()).decode()}", {shape})'


def _steered(steer: Steer, where: str, value: str, dtype: torch.dtype) -> list[str]:
    c = repr(steer.coefficient)
    if steer.mode == "add":
        return [f"new{where} += ({c} * {value}).to(new)"]
    wide = "double" if dtype == torch.float64 else "float"
    lines = [f"here = x{where}.{wide}()", f"v = {value}.to(here)"]
    unit = "unit = v / v.norm().clamp_min(1e-30)"
    along = "along = (here * unit).sum(-1, keepdim=True)"
    if steer.mode == "keep_norm":
        lines.append(f"moved = here + {c} * v")
        lines.append(
            "here = moved * (here.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp_min(1e-30))"
        )
    elif steer.mode == "project_out":
        lines += [unit, along, f"here = here - {c} * along * unit"]
    elif steer.mode == "clamp":
        lines += [unit, along, f"here = here + ({steer.origin!r} - along) * unit + {c} * v"]
    else:
        raise InterventionError(f"Steering by {steer.mode!r} cannot be written as plain hooks; use to_code('session').")
    return [*lines, f"new{where} = here.to(new)"]


# ---- places -----------------------------------------------------------------------------------------------------------


def _columns(live: LiveModel, site: Site) -> str:
    """One head's or one neuron's features of what its module is given."""
    if site.index is None or site.part not in ("z", "neurons"):
        return ""
    attention = layer_of(live.anatomy, site).attention
    width = attention.d_head if site.part == "z" and attention is not None else 1
    return f", {site.index * width}:{(site.index + 1) * width}"


def _placed(live: LiveModel, site: Site, n: int) -> Part:
    if site.part == "resid_mid":
        return _between(live, site, n)
    write = output_of(live.anatomy, site)
    if write is not None:
        out, scale, new = _written(write)
        lines = [f"def hook_{n}(module, args, out):", f"    x = edited(change_{n}, {out}){scale}", f"    return {new}"]
        return Part("\n".join([*lines, ""]), (f"{module_text(live, write.module)}.register_forward_hook(hook_{n})",))
    lines = [
        f"def hook_{n}(module, args, kwargs):",
        f"    x = edited(change_{n}, first_of(args, kwargs))",
        "    return with_first(x, args, kwargs)",
        "",
    ]
    module = module_text(live, _reading(live, site))
    return Part("\n".join(lines), (f"{module}.register_forward_pre_hook(hook_{n}, with_kwargs=True)",))


def _written(write: Write) -> tuple[str, str, str]:
    """What a module adds to the stream, of its output `out`; how that is undone; and the output with `x` in its place."""
    i = write.index
    picked = "out" if i is None else f"out[{i}]"
    new = "x" if i is None else "type(out)([x, *out[1:]])" if i == 0 else f"type(out)([*out[:{i}], x, *out[{i + 1}:]])"
    return (picked, "", new) if write.scale == 1.0 else (f"{picked} * {write.scale!r}", f" / {write.scale!r}", new)


def _between(live: LiveModel, site: Site, n: int) -> Part:
    """The stream between attention and MLP is in no module's hands: what enters the block, and what attention adds to it."""
    layer = layer_of(live.anatomy, site)
    write = None if layer.attention is None else layer.attention.write
    if write is None or layer.middle is None:
        raise FeatureOffError(f"{site.name} is off: attention and MLP of this block do not come one after the other.")
    out, scale, new = _written(write)
    lines = [
        f"def enter_{n}(module, args, kwargs):",
        f"    entered_{n}[:] = [first_of(args, kwargs)]",
        "",
        "",
        f"def hook_{n}(module, args, out):",
        f"    stream = entered_{n}[0]",
        f"    added = {out}",
        f"    mid = edited(change_{n}, stream + added.reshape(stream.shape))",
        f"    x = (mid - stream).reshape(added.shape){scale}",
        f"    return {new}",
        "",
    ]
    hooks = (
        f"{module_text(live, layer.module)}.register_forward_pre_hook(enter_{n}, with_kwargs=True)",
        f"{module_text(live, write.module)}.register_forward_hook(hook_{n})",
    )
    return Part("\n".join([f"entered_{n} = []", "", "", *lines]), hooks)


def _reading(live: LiveModel, site: Site) -> nn.Module:
    """The module whose input is what stands at `site`."""
    layer = layer_of(live.anatomy, site)
    module: nn.Module | None = None
    if site.part == "z" and layer.attention is not None:
        module = layer.attention.output
    elif site.part == "neurons" and layer.mlp is not None:
        module = layer.mlp.neurons
    elif site.part == "mlp_in" and layer.mlp is not None:
        module = layer.mlp.entry
    elif site.part == "resid_pre":
        module = layer.module
    elif site.part == "resid_post":
        module = reader_of(live.anatomy, layer.index)
    if module is None:
        raise InterventionError(f"An edit at {site.name} cannot be written as plain hooks; use to_code('session').")
    return module
