"""A session as a script of plain torch hooks, with nothing of this package in it, that gives the same number."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from interp_widgets.model.errors import InterventionError, PromptError
from interp_widgets.model.interventions import Ablate, Edit, Intervention, Patch, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.places import layer_of, output_of, reader_of
from interp_widgets.model.question import Asked
from interp_widgets.model.run import row_of
from interp_widgets.model.values import resolve

if TYPE_CHECKING:
    from interp_widgets.session import Session

_HEAD = '''"""Plain torch hooks: needs `model` (a transformers causal LM, in eval mode) and nothing else."""
import base64

import numpy as np
import torch


def numbers(text, *shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").copy()).view(*shape)


def stream(args, kwargs):
    return args[0] if args else kwargs["hidden_states"]


def put(args, kwargs, x):
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})


handles = []
modules = dict(model.named_modules())
'''


def render(session: Session) -> str:
    """See `interp_widgets.code.to_torch_code`."""
    snapshot = session.snapshot()
    if snapshot.question is None:
        raise PromptError("There is no question to write as code; call session.ask(...) first.")
    asked, live = snapshot.question.first, session.model
    parts = [_HEAD, f"ids = torch.tensor([{list(asked.ids)}])  # {asked.prompt!r}\n"]
    for n, intervention in enumerate(snapshot.interventions):
        if isinstance(intervention, Steer) and intervention.coefficient == 0:
            continue
        parts.append(_hook(live, asked, intervention, n))
    parts.append(_tail(asked))
    return "\n".join(parts)


def _tail(asked: Asked) -> str:
    if asked.metric.fn is not None:
        raise InterventionError("A metric of your own cannot be written as code; ask with a target and a foil.")
    target = f"logits[{list(asked.metric.target)}].logsumexp(-1)"
    foil = f"logits[{list(asked.metric.foil)}].logsumexp(-1)" if asked.metric.foil else "logits.mean()"
    return (
        "\ntry:\n    with torch.no_grad():\n"
        f"        logits = model(input_ids=ids).logits[0, {asked.position}].float()\n"
        "finally:\n    for handle in handles:\n        handle.remove()\n"
        f"metric = float({target} - {foil})  # {asked.metric.label}\nprint(metric)\n"
    )


def _path(live: LiveModel, module: nn.Module) -> str:
    root = live.module if any(m is module for m in live.module.modules()) else live.anatomy.root
    return next(path for path, m in root.named_modules() if m is module)


def _array(values: torch.Tensor) -> str:
    array = np.ascontiguousarray(values.detach().float().cpu().numpy(), dtype="<f4")
    shape = ", ".join(map(str, array.shape or (1,)))
    return f'numbers("{base64.b64encode(array.tobytes()).decode()}", {shape})'


def _hook(live: LiveModel, asked: Asked, what: Intervention, n: int) -> str:
    if isinstance(what, Edit) or (isinstance(what, Ablate) and what.mode == "edge") or what.site.part == "pattern":
        raise InterventionError(f"{what.label} cannot be written as plain hooks; use to_code('session').")
    at = np.flatnonzero(what.positions.mask(row_of(asked.tokens, len(asked.tokens)))).tolist()
    value = (
        resolve(live, what, asked.tokens)
        if isinstance(what, (Ablate, Patch))
        else torch.from_numpy(what.vector.values.copy())
    )
    assert value is not None
    lines = [f"# {what.label}", f"value_{n} = {_array(value)}", f"at_{n} = {at}", ""]
    lines += [f"def change_{n}(x):  # [row, pos, ...]", "    new = x.clone()"]
    lines += [f"    {line}" for line in _change(what, value, n)]
    lines += ["    return new", ""]
    return "\n".join(lines + _placed(live, what, n)) + "\n"


def _change(what: Ablate | Patch | Steer, value: torch.Tensor, n: int) -> list[str]:
    if not isinstance(what, Steer):
        by_position = isinstance(what, Patch) or (what.mode == "resample" or _aligned(what))
        picked = f"value_{n}[at_{n}]" if by_position and value.dim() > 1 else f"value_{n}"
        return [f"new[:, at_{n}] = {picked}.to(x.dtype).expand_as(new[:, at_{n}])"]
    lines = [f"here, v = x[:, at_{n}].float(), value_{n}", "unit = v / v.norm()"]
    if what.mode == "keep_norm":
        lines.append(f"moved = here + {what.coefficient!r} * v")
    along = "(here @ unit)[..., None] * unit"
    form = {
        "add": f"x[:, at_{n}] + ({what.coefficient!r} * v).to(x.dtype)",
        "project_out": f"here - {what.coefficient!r} * {along}",
        "clamp": f"here - {along} + {what.coefficient!r} * v",
        "keep_norm": "moved * (here.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))",
    }.get(what.mode)
    if form is None:
        raise InterventionError(f"Steering by {what.mode!r} cannot be written as plain hooks; use to_code('session').")
    return [*lines, f"new[:, at_{n}] = ({form}).to(x.dtype)"]


def _aligned(ablate: Ablate) -> bool:
    return ablate.reference is not None and ablate.reference.by_position


def _placed(live: LiveModel, what: Intervention, n: int) -> list[str]:
    site, anatomy = what.site, live.anatomy
    write = output_of(anatomy, site)
    if write is not None:
        module, scale, at = write.module, write.scale, write.index or 0
        inner = f"change_{n}(x)" if scale == 1.0 else f"change_{n}(x * {scale!r}) / {scale!r}"
        return [
            f"def hook_{n}(module, args, out):",
            f"    x = out if torch.is_tensor(out) else out[{at}]",
            f"    x = {inner}",
            f"    return x if torch.is_tensor(out) else type(out)([*out[:{at}], x, *out[{at + 1}:]])",
            "",
            f"handles.append(modules[{_path(live, module)!r}].register_forward_hook(hook_{n}))",
        ]
    module, body = _input_of(live, what, n)
    return [
        f"def hook_{n}(module, args, kwargs):",
        "    x = stream(args, kwargs)",
        *[f"    {line}" for line in body],
        "    return put(args, kwargs, x)",
        "",
        f"handles.append(modules[{_path(live, module)!r}].register_forward_pre_hook(hook_{n}, with_kwargs=True))",
    ]


def _input_of(live: LiveModel, what: Intervention, n: int) -> tuple[nn.Module, list[str]]:
    site, anatomy = what.site, live.anatomy
    layer = layer_of(anatomy, site)
    if site.part == "z":
        assert layer.attention is not None
        split = f"z = x.unflatten(-1, ({layer.attention.n_heads}, -1)).clone()"
        if site.index is None:
            return layer.attention.output, [split, f"x = change_{n}(z).flatten(2)"]
        here = f"z[:, :, {site.index}]"
        return layer.attention.output, [split, f"{here} = change_{n}({here})", "x = z.flatten(2)"]
    if site.part == "neurons":
        assert layer.mlp is not None and layer.mlp.neurons is not None
        if site.index is None:
            return layer.mlp.neurons, [f"x = change_{n}(x)"]
        return layer.mlp.neurons, [
            "x = x.clone()",
            f"x[..., {site.index}] = change_{n}(x[..., {site.index} : {site.index + 1}])[..., 0]",
        ]
    if site.part in ("resid_pre", "resid_post"):
        module = layer.module if site.part == "resid_pre" else reader_of(anatomy, layer.index)
        assert module is not None
        return module, [f"x = change_{n}(x)"]
    raise InterventionError(f"An edit at {site.name} cannot be written as plain hooks; use to_code('session').")
