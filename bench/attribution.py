"""What is compared of attribution: the same scores by Captum and Inseq, and the cost in plain forwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench import peers
from bench.cases import Case, Setting, Target, fresh
from bench.shapes import question, tokenizer
from bench.timing import Contender
from interp_widgets.methods.attribution import attribute
from interp_widgets.methods.baselines import find_baseline, mean_embedding
from interp_widgets.methods.explained import explained
from interp_widgets.methods.gradients import integrated_gradients
from interp_widgets.model.question import Asked, Metric

TOKENS = 16
INSEQ_DEFAULT = "Inseq as called by default"
Rows = list[tuple[str, Callable[[], Case]]]


def rows(at: Callable[[str], Setting], rounds: int) -> Rows:
    """Every case by name, made when it is due."""
    return [
        ("attribution first paint", lambda: first_paint(at("gpt2"), rounds)),
        ("attribution 20 steps", lambda: twenty(at("gpt2"), rounds)),
        ("attribution 50 steps", lambda: fifty(at("tiny"), rounds)),
        ("attribution occlusion", lambda: occluded(at("gpt2"), rounds)),
        ("attribution occlusion tiny", lambda: occluded(at("tiny"), rounds)),
    ]


def first_paint(setting: Setting, rounds: int) -> Case:
    """Gradient × input, which is on the screen first."""
    live, asked = setting.live, question(setting.live, TOKENS)
    work = lambda: attribute(live, asked, method="gradient_x_input")  # noqa: E731
    targets = (Target("ours", "plain", "gradient × input / plain forward", 2.5, 1.7, faster=False),)
    contenders = {"ours": Contender(work), "plain": setting.plain(asked)}
    return Case(
        "attribution", f"gradient × input, {setting.name}, {TOKENS} tokens", contenders, targets, 4 * rounds + 1, work
    )


def twenty(setting: Setting, rounds: int) -> Case:
    """20 nodes, with the metric at both ends."""
    live, asked = setting.live, question(setting.live, TOKENS)
    mean_embedding(live)  # kept between questions
    work = lambda: integrated(setting, asked, 20, "mean")  # noqa: E731
    targets = (Target("ours", "plain", "integrated gradients, 20 nodes / plain forward", 18.0, 16.4, faster=False),)
    contenders = {"ours": Contender(work), "plain": setting.plain(asked)}
    return Case(
        "attribution", f"integrated gradients, {setting.name}, {TOKENS} tokens", contenders, targets, rounds, work
    )


def integrated(setting: Setting, asked: Asked, steps: int, baseline: str) -> Any:
    """Ours by exactly as many steps as the others take."""
    return integrated_gradients(explained(setting.live, asked), find_baseline(setting.live, asked, baseline), steps)


def fifty(setting: Setting, rounds: int) -> Case:
    """50 nodes from the unknown token's embedding, as Inseq does it: the attributions are equal."""
    live, asked = setting.live, question(setting.live, TOKENS)
    work = fresh(live, lambda: integrated(setting, asked, 50, "unk"))
    others = captum_integrated(setting, asked, 50) | inseq_integrated(setting, asked, 50)
    contenders = {"ours": Contender(work), "plain": setting.plain(asked)}
    contenders |= {name: Contender(other) for name, other in others.items()}
    figures = dict.fromkeys(others, (3.0, 4.5)) | {"Captum": (1.2, 1.6)}
    targets = tuple(
        Target(name, "ours", f"integrated gradients, 50 nodes: faster than {name}", *figures[name]) for name in others
    )
    title = f"integrated gradients, {setting.name}, {TOKENS} tokens"
    words = "largest difference from Captum's and Inseq's scores / a millionth"
    exact = lambda: apart(setting, asked, others, "unk")  # noqa: E731
    flops = integrated_flops(setting, 50, TOKENS)
    return Case("attribution", title, contenders, targets, rounds, work, flops, exact, words)


def integrated_flops(setting: Setting, steps: int, length: int) -> float:
    """Multiplications and additions of `steps` forwards and of their gradients with respect to what runs through them.

    The last block at the read position only past its keys and values; each product is there twice, as no weight has a gradient.
    What Inseq takes divided by the time that these need at the machine's peak is the most that it can be outrun by.
    """
    live = setting.live
    total, d = 0.0, live.anatomy.d_model
    for layer in live.anatomy.layers:
        attention, mlp = layer.attention, layer.mlp
        assert attention is not None
        assert mlp is not None
        wide, narrow = attention.n_heads * attention.d_head, attention.n_kv_heads * attention.d_head
        at = 1 if layer is live.anatomy.layers[-1] else length
        total += 2.0 * (length * d * 2 * narrow + at * (2 * d * wide + 2 * d * mlp.d_neurons + 2 * length * wide))
    return 2 * steps * total


def apart(setting: Setting, asked: Asked, others: dict[str, Callable[[], Any]], baseline: str) -> tuple[float, float]:
    """The largest difference from the scores of those who explain the same number, and a millionth, held to twice."""
    target = asked.metric.target[0]
    read: Any = lambda logits: logits[target]  # noqa: E731
    alone = replace(asked, metric=Metric((target,), (), read))
    mine = {name: asked if name == "Captum" else alone for name in others if name != INSEQ_DEFAULT}
    gaps = [integrated(setting, mine[name], 50, baseline).scores - others[name]() for name in mine]
    return max((float(np.abs(gap).max()) for gap in gaps), default=0.0), 1e-6


def captum_integrated(setting: Setting, asked: Asked, steps: int) -> dict[str, Callable[[], Any]]:
    """Captum's default: layer integrated gradients on the token embedding, all steps in one batch."""
    if "captum" not in peers.versions():
        return {}
    from captum.attr import LayerIntegratedGradients  # pyright: ignore[reportMissingImports]

    model, ids = setting.bare, torch.tensor([asked.ids])
    gradients = LayerIntegratedGradients(metric_of(model, asked), model.get_input_embeddings())
    base = torch.full_like(ids, setting.live.tokenizer.unk_token_id)

    def work() -> Any:
        return gradients.attribute(ids, baselines=base, n_steps=steps).sum(-1)[0].detach().numpy()

    return {"Captum": work}


def inseq_integrated(setting: Setting, asked: Asked, steps: int) -> dict[str, Callable[[], Any]]:
    """Inseq on one target token, three times.

    As a user calls it who sets nothing: the target's probability, all steps in one batch. The target's logit, so batched too,
    and with `internal_batch_size=1`, which keeps its memory from growing with the steps; both are in use. It refuses integrated
    gradients of target minus foil ("not yet supported for contrastive attribution"), which ours are timed on.
    """
    try:
        import inseq  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    words = tokenizer(setting.bare.config.vocab_size)
    bare = copy.deepcopy(setting.bare)
    bare.config.bos_token_id, bare.config.eos_token_id = words.bos_token_id, words.eos_token_id
    model = inseq.load_model(bare, "integrated_gradients", tokenizer=words)
    prompt = " ".join(f"w{i}" for i in asked.ids)
    answer = f"{prompt} w{asked.metric.target[0]}"

    def work(**how: Any) -> Any:
        found = model.attribute(prompt, answer, n_steps=steps, show_progress=False, **how)
        return found.sequence_attributions[0].target_attributions[: len(asked.ids), -1].sum(-1).numpy()

    return {
        INSEQ_DEFAULT: work,
        "Inseq": lambda: work(attributed_fn="logit"),
        "Inseq, one step at a time": lambda: work(attributed_fn="logit", internal_batch_size=1),
    }


def metric_of(model: Any, asked: Asked) -> Callable[[torch.Tensor], torch.Tensor]:
    """Target minus foil, of token ids."""
    target, foil = asked.metric.target[0], asked.metric.foil[0]

    def metric(ids: torch.Tensor) -> torch.Tensor:
        logits = model(ids).logits[:, -1]
        return logits[:, target] - logits[:, foil]

    return metric


def occluded(setting: Setting, rounds: int) -> Case:
    """Every token replaced by the unknown one."""
    live, asked = setting.live, question(setting.live, TOKENS)
    work = fresh(live, lambda: attribute(live, asked, method="occlusion", baseline="unk"))
    contenders = {"ours": Contender(work), "plain": setting.plain(asked)}
    targets = [Target("ours", "plain", "occlusion of every token / plain forward", faster=False)]
    if "captum" in peers.versions():
        from captum.attr import FeatureAblation  # pyright: ignore[reportMissingImports]

        ablation, ids = FeatureAblation(metric_of(setting.bare, asked)), torch.tensor([asked.ids])

        def captum() -> Any:
            with torch.no_grad():
                return ablation.attribute(ids, baselines=torch.full_like(ids, live.tokenizer.unk_token_id))

        contenders["Captum"] = Contender(captum)
        targets.append(Target("Captum", "ours", "occlusion of every token: faster than Captum", 2.0, 6.0))
    title = f"occlusion, {setting.name}, {TOKENS} tokens"
    return Case("attribution", title, contenders, tuple(targets), rounds, work)
