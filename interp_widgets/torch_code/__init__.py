"""A session as a script of plain torch hooks, with nothing of this package in it, that gives the same number."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp_widgets.model.errors import InterventionError, PromptError
from interp_widgets.model.gate import foreign_hooks
from interp_widgets.model.live import LiveModel
from interp_widgets.model.probe import ids_argument
from interp_widgets.model.question import Question
from interp_widgets.model.run import is_compiled
from interp_widgets.torch_code.hooks import Part, called, module_text, part_of

if TYPE_CHECKING:
    from interp_widgets.session import Session

__all__ = ["render"]

_TITLE = '"""Plain torch hooks: needs `model` (a transformers causal LM, in eval mode) and nothing else."""'
_NUMBERS = '''

def numbers(text, *shape):
    """The float32 numbers that `text` holds."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").copy()).view(*shape)
'''
_EDITED = '''

def edited(change, x):
    """`x` after `change`, which is given [position, feature], also of a module that is given it without a batch."""
    return change(x.reshape(-1, x.shape[-1])).reshape(x.shape)
'''
_FIRST = '''

def first_of(args, kwargs):
    """What a module is called with."""
    return args[0] if args else kwargs["hidden_states"]
'''
_WITH_FIRST = '''

def with_first(x, args, kwargs):
    """The arguments of a module that is called with `x` instead."""
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})
'''
_LOGITS = '''

def logits_of(out):
    """The logits of what this model gives, which may be a tuple or they themselves."""
    return out if torch.is_tensor(out) else getattr(out, "logits", out[0])
'''
_HELPERS = {
    "numbers(": _NUMBERS,
    "edited(": _EDITED,
    "first_of(": _FIRST,
    "with_first(": _WITH_FIRST,
    "logits_of(": _LOGITS,
}
_FLOAT_LOGITS = """\
# the logits, and what is made of them, in float32: half precision would round them
def in_float32(module, args, out):
    bias = None if module.bias is None else module.bias.float()
    return torch.nn.functional.linear(args[0].float(), module.weight.float(), bias)

"""
_TAIL = """
metrics = []
try:
    with {modes}:
        for now, (ids, read, target, foil) in enumerate(examples):
            ids = torch.tensor([ids], device={device!r})
            logits = {logits}[0, read].float()
            against = logits[foil].logsumexp(-1) if foil else logits.mean()
            metrics.append(float(logits[target].logsumexp(-1) - against))
finally:
    for handle in handles:
        handle.remove()
metric = sum(metrics) / len(metrics)  # {label}
print(metric)
"""


def render(session: Session) -> str:
    """See `interp_widgets.code.to_torch_code`."""
    snapshot, live = session.snapshot(), session.model
    question = snapshot.question
    if question is None:
        raise PromptError("There is no question to write as code; call session.ask(...) first.")
    if any(asked.metric.fn is not None for asked in question.examples):
        raise InterventionError("A metric of your own cannot be written as code; ask with a target and a foil.")
    # The stream in the middle of a block comes after what enters it and what attention writes, however they are listed.
    order = sorted(enumerate(snapshot.interventions), key=lambda item: item[1].site.part == "resid_mid")
    parts = [part_of(live, question, what, n) for n, what in order]
    unembed = live.anatomy.unembed
    half = isinstance(unembed, nn.Linear) and unembed.weight.dtype in (torch.float16, torch.bfloat16)
    if half and live.readout.direct:
        hook = f"{module_text(live, unembed)}.register_forward_hook(in_float32)"
        parts.append(Part(_FLOAT_LOGITS, (hook,)))
    body = "\n".join([*(part.text for part in parts), *_handles(live, parts), _tail(live, question)])
    return "\n".join([*_head(live, body), *_examples(question), body])


def _head(live: LiveModel, body: str) -> list[str]:
    """Imports and helpers: only what `body` uses."""
    imports = ["import base64", "", "import numpy as np"] if "numbers(" in body else []
    helpers = [text for name, text in _HELPERS.items() if name in body]
    modules = ["", f"modules = dict({called(live)}.named_modules())"]
    return [_TITLE, *imports, "import torch", *(text[:-1] for text in helpers), *[""] * bool(helpers), *modules]


def _examples(question: Question) -> list[str]:
    rows = [
        f"    ({list(a.ids)}, {a.position}, {list(a.metric.target)}, {list(a.metric.foil)}),  # {a.prompt!r}"
        for a in question.examples
    ]
    return ["examples = [  # token ids, the position that is read, target tokens, foil tokens", *rows, "]", ""]


def _handles(live: LiveModel, parts: Sequence[Part]) -> list[str]:
    """The hooks in the order of their calls; where the model has hooks of its user's, ours come first, as in a session."""
    hooks = [hook for part in parts for hook in part.hooks]
    if not hooks:
        return ["handles = []"]
    if all(name.startswith("transformers: ") for _, name in foreign_hooks(live.anatomy.root)):
        return ["handles = [", *(f"    {hook}," for hook in hooks), "]"]
    first = [f"    {hook.removesuffix(')')}, prepend=True)," for hook in reversed(hooks)]
    return [
        "handles = [  # each in front of the hooks that are there: of one module the last is called first",
        *first,
        "]",
    ]


def _tail(live: LiveModel, question: Question) -> str:
    eager = ', torch.compiler.set_stance("force_eager")' if is_compiled(live.anatomy.root) else ""
    mean = f", the mean over {question.n} prompts" if question.n > 1 else ""
    return _TAIL.format(
        modes=f"torch.no_grad(){eager}", logits=_logits(live), device=str(live.device), label=f"{question.label}{mean}"
    )


def _logits(live: LiveModel) -> str:
    """The call of the model, with what its forward takes of what a session calls it with."""
    root: Any = live.anatomy.root
    parameters = inspect.signature(root.forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    wanted = {"attention_mask": "torch.ones_like(ids)", "use_cache": "False"}
    ids = "ids" if ids_argument(root, torch.zeros(1, 1))[0] else "input_ids=ids"
    given = ", ".join([ids, *(f"{name}={text}" for name, text in wanted.items() if name in parameters or anything)])
    call = f"{called(live)}({given})"
    return f"{call}.logits" if getattr(getattr(root, "config", None), "return_dict", False) else f"logits_of({call})"
