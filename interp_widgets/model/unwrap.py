"""From what the user holds to the module whose forward is run, or a refusal that names the reason."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp_widgets.model.errors import ModelRefusedError
from interp_widgets.model.probe import compiled_parts, embedding, logits_of, plain_forward, quiet, vocabulary


def unwrap(module: object) -> tuple[nn.Module, tuple[str, ...]]:
    """The causal language model inside wrappers, and a sentence about each wrapper.

    Raises:
        ModelRefusedError: the object is no module, or a wrapper that runs the model elsewhere.
    """
    notes: list[str] = []
    if not isinstance(module, nn.Module):
        message = f"{type(module).__name__} is not a torch module: pass the model itself, {held_by(module)}."
        raise ModelRefusedError(message)
    while True:
        name = type(module).__name__
        if name in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
            message = f"{name} runs copies of the model, where no hook is seen: pass `model.module` instead."
            raise ModelRefusedError(message)
        if name in ("TransformerBridge", "HookedTransformer"):
            own = f"{name} is TransformerLens's own form of a model, whose parts have other names"
            message = f"{own}: pass the model itself, {held_by(module)}."
            raise ModelRefusedError(message)
        if isinstance(getattr(module, "_orig_mod", None), nn.Module):
            notes.append("The model is compiled: runs use the eager module inside (`_orig_mod`).")
            module = module._orig_mod
        elif hasattr(module, "peft_config") and callable(getattr(module, "get_base_model", None)):
            module = _from_peft(module)
            notes.append("The model has an adapter (PEFT): its layers are part of the model that is run.")
        else:
            break
        assert isinstance(module, nn.Module)
    parts = compiled_parts(module)
    if parts:
        notes.append(f"Compiled in place ({parts[0]}{', ...' if len(parts) > 1 else ''}): runs force eager mode.")
    return module, tuple(notes)


def held_by(thing: object) -> str:
    """Where to find the model inside something that is none (a pipeline, nnsight's LanguageModel), or an example of one."""
    for name in ("original_model", "model", "module", "_module"):
        if isinstance(getattr(thing, name, None), nn.Module):
            return f"which is its `.{name}`"
    return "for example one from AutoModelForCausalLM.from_pretrained(...)"


def _from_peft(module: nn.Module) -> nn.Module:
    configs: dict[str, Any] = getattr(module, "peft_config", {})
    for config in configs.values():
        if getattr(config, "is_prompt_learning", False):
            kind = getattr(config, "peft_type", "prompt learning")
            kind = getattr(kind, "value", kind)
            message = f"The adapter is {kind}, which prepends virtual tokens to every prompt: merge or remove it first."
            raise ModelRefusedError(message)
    inner = module.get_base_model()  # pyright: ignore[reportCallIssue]
    assert isinstance(inner, nn.Module)
    return inner


def refuse_structure(root: nn.Module) -> None:
    """Refuse what can be seen without running the model.

    Raises:
        ModelRefusedError: encoder-decoder, meta weights that nothing loads, weights that are spread over processes, or training mode
            with dropout.
    """
    name = type(root).__name__
    config = getattr(root, "config", None)
    if getattr(config, "is_encoder_decoder", False) and hasattr(root, "get_encoder"):
        message = f"{name} is an encoder-decoder: its decoder reads an encoder's output. Only decoders can be opened."
        raise ModelRefusedError(message)
    for path, part in root.named_modules():
        if any(p.is_meta for p in part.parameters(recurse=False)) and not _loaded_on_demand(root, path):
            message = f"{name} has weights on the meta device ({path or 'the model'}), so it has no numbers: load it with its weights."
            raise ModelRefusedError(message)
        if (ranks := max((_spread(p) for p in part.parameters(recurse=False)), default=1)) > 1:
            message = (
                f"{name} is spread over {ranks} processes ({path or 'the model'}), and every forward needs them all: "
                "gather it in one first."
            )
            raise ModelRefusedError(message)
        drop = dropout_of(part)
        if drop:
            message = (
                f"{name} is in training mode with dropout ({path or 'the model'}: {drop}), so two runs differ: "
                "call model.eval() first."
            )
            raise ModelRefusedError(message)


def _spread(parameter: nn.Parameter) -> int:
    """Over how many processes a parameter is spread (FSDP, tensor parallel); 1 for an ordinary one."""
    mesh: Any = getattr(parameter, "device_mesh", None)
    return 1 if mesh is None else int(mesh.size())


def _loaded_on_demand(root: nn.Module, path: str) -> bool:
    """Whether an offload hook brings the weights of `path`, on the module itself or above it."""
    parts = path.split(".") if path else []
    above = [root.get_submodule(".".join(parts[:i])) for i in range(len(parts) + 1)]
    return any(hasattr(module, "_hf_hook") for module in above)


def dropout_of(part: nn.Module) -> str | None:
    """The setting by which a module in training mode draws random numbers, or None."""
    if not part.training:
        return None
    if isinstance(part, nn.modules.dropout._DropoutNd):  # noqa: SLF001
        return f"p={part.p}" if part.p > 0 else None
    for key, value in vars(part).items():
        if ("drop" in key or "jitter" in key) and isinstance(value, float) and value > 0:
            return f"{key}={value}"
    return None


def refuse_outcome(root: nn.Module, ids: Tensor) -> Tensor:
    """Run the model once, with nothing attached: its logits, or a refusal.

    Raises:
        ModelRefusedError: the forward fails, gives no logits per token, or lets tokens see later ones.
    """
    name = type(root).__name__
    try:
        with quiet(root):
            output = plain_forward(root, ids)
    except Exception as error:
        message = f"{name} does not run on token ids alone ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."
        raise ModelRefusedError(message) from error
    states = logits_of(output)
    if states is None and isinstance(getattr(output, "last_hidden_state", None), Tensor):
        states = output.last_hidden_state
    if states is None or states.shape[:2] != ids.shape:
        message = f"{name} gives no logits per token: open a causal language model (its class ends in ForCausalLM)."
        raise ModelRefusedError(message)
    _refuse_looking_ahead(name, states)
    logits = logits_of(output)
    if logits is None or getattr(output, "last_hidden_state", None) is logits:
        message = f"{name} has no lm_head: it gives hidden states, not logits. Open the same checkpoint as a ForCausalLM class."
        raise ModelRefusedError(message)
    if logits.shape[-1] < vocabulary(embedding(root)) // 2:
        message = (
            f"{name} gives {logits.shape[-1]} numbers per token where the vocabulary has {vocabulary(embedding(root))}: "
            "it classifies tokens. Open a causal language model (its class ends in ForCausalLM)."
        )
        raise ModelRefusedError(message)
    return logits


def _refuse_looking_ahead(name: str, states: Tensor) -> None:
    """The rows of the probe differ in the last token only: what comes before it must not."""
    first, second = states.float()
    if not bool(torch.isfinite(states).all()):
        message = f"{name} gives numbers that are not finite on ordinary tokens: check its weights and dtype."
        raise ModelRefusedError(message)
    moved = float((first[:-1] - second[:-1]).abs().max())
    limit = 100 * torch.finfo(states.dtype).eps * float(first.abs().max())
    if moved > limit:
        message = (
            f"{name} is encoder-only (or runs as one): changing the last token moved what it says at earlier ones by "
            f"{moved:.2g}. Only causal decoders can be opened."
        )
        raise ModelRefusedError(message)
