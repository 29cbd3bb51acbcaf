"""What else the views of heads show, each number against plain hooks and eager attention: MLPs, tokens, edges, cards, repair."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.head_card import head_card
from interp_widgets.methods.head_effects import head_effects
from interp_widgets.methods.self_repair import self_repair
from tests.unit import tiny_models
from tests.unit.page import PROMPT
from tests.unit.test_head_ablation import Script

CORRUPT = "w5 w9 w13 w5 w31 w8"
REFERENCE = [CORRUPT, "w2 w3 w4 w5 w6 w7"]
LAYERS, HEADS, WIDTH = 3, 4, 8
TARGET, FOIL = 11, 13
Hook = Callable[[Any, Any], Any]


class Plain(Script):
    """A copy of the model that only plain hooks and its own eager attention are used on."""

    def __init__(self, model: Any, ids: list[int]) -> None:
        super().__init__(model, ids)
        model.config._attn_implementation = "eager"

    @property
    def gpt2(self) -> bool:
        return hasattr(self.model, "transformer")

    @property
    def blocks(self) -> Any:
        return self.model.transformer.h if self.gpt2 else self.model.model.layers

    @property
    def norm(self) -> Any:
        return self.model.transformer.ln_f if self.gpt2 else self.model.model.norm

    def run(self, ids: list[int] | None = None, *hooks: tuple[Any, Callable[[Any], Any], str]) -> dict[str, Any]:
        """Logits at the end, patterns, values, head outputs and MLP writes of one run under hooks `(module, change, where)`."""
        seen: dict[str, Any] = {"z": {}, "mlp": {}, "v": {}}
        handles = [self._hook(*hook) for hook in hooks]
        for i, block in enumerate(self.blocks):
            values = block.attn.c_attn if self.gpt2 else block.self_attn.v_proj
            handles.append(
                self.projection(i).register_forward_pre_hook(lambda _m, a, i=i: seen["z"].update({i: a[0][0].double()}))
            )
            handles.append(
                block.mlp.register_forward_hook(lambda _m, _a, o, i=i: seen["mlp"].update({i: o[0].double()}))
            )
            handles.append(values.register_forward_hook(lambda _m, _a, o, i=i: seen["v"].update({i: o[0].double()})))
        handles.append(self.norm.register_forward_pre_hook(lambda _m, a: seen.update(stream=a[0][0, -1].double())))
        with torch.no_grad():
            out = self.model(torch.tensor([ids or self.ids]), use_cache=False, output_attentions=True)
        for handle in handles:
            handle.remove()
        return seen | {"logits": out.logits[0, -1].float(), "patterns": torch.stack(out.attentions)[:, 0].double()}

    def _hook(self, module: Any, change: Callable[[Any], Any], where: str) -> Any:
        if where == "output":
            return module.register_forward_hook(lambda _m, _a, out: change(out))
        return module.register_forward_pre_hook(lambda _m, args: (change(args[0]),))

    def values(self, found: dict[str, Any], layer: int, head: int) -> torch.Tensor:
        """`[src, d_head]`, as the head uses them: queries of a group share theirs."""
        whole = found["v"][layer]
        if self.gpt2:
            whole = whole[:, -HEADS * WIDTH :]
        shared = HEADS // (whole.shape[-1] // WIDTH)
        return whole.unflatten(-1, (-1, WIDTH))[:, head // shared]

    def written(self, layer: int, head: int, z: torch.Tensor) -> torch.Tensor:
        """What the head's part of the output projection makes of `z [..., d_head]`."""
        weight = self.projection(layer).weight.detach().double()
        weight = weight if self.gpt2 else weight.T
        return z @ weight[head * WIDTH : (head + 1) * WIDTH]

    def normed(self, x: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        """A part of the final stream through the final norm, at the scale of `stream`."""
        gain = self.norm.weight.detach().double()
        if self.gpt2:
            scale = (stream.var(unbiased=False) + self.norm.eps).sqrt()
            return (x - x.mean(-1, keepdim=True)) / scale * gain
        return x / (stream.pow(2).mean() + self.norm.variance_epsilon).sqrt() * gain

    def unembed(self) -> torch.Tensor:
        return self.model.lm_head.weight.detach().double()


@pytest.fixture(params=["gpt2", "llama"])
def bench(request: pytest.FixtureRequest) -> Iterator[tuple[iw.Session, Plain]]:
    model = {"gpt2": tiny_models.gpt2, "llama": tiny_models.llama}[request.param]()
    plain = copy.deepcopy(model)
    session = iw.open(model, tiny_models.tokenizer())
    question = session.ask(PROMPT, target="w11", foil="w13")
    yield session, Plain(plain, list(question.first.ids))
    session.close()


def metric(logits: torch.Tensor) -> float:
    return float(logits[TARGET] - logits[FOIL])


def ids_of(session: iw.Session, prompt: str) -> list[int]:
    return [t.id for t in session.model.tokens.encode(prompt)]


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
def test_every_number_of_an_mlp_is_what_a_plain_hook_gives(bench: tuple[iw.Session, Plain], mode: str) -> None:
    session, plain = bench
    others = [plain.run(ids_of(session, other))["mlp"] for other in REFERENCE]
    assert session.question is not None
    table = head_effects(session.model, session.question, mode=mode, reference=REFERENCE)  # pyright: ignore[reportArgumentType]
    base = plain.run()["logits"]
    before = base.log_softmax(-1)
    for layer in range(LAYERS):
        value = {
            "zero": torch.zeros(1),
            "mean": torch.cat([one[layer] for one in others]).mean(0),
            "resample": others[0][layer],
        }[mode].float()
        found = plain.run(
            None, (plain.blocks[layer].mlp, lambda out, value=value: value.expand_as(out[0])[None], "output")
        )
        logits = found["logits"]
        after = logits.log_softmax(-1)
        assert table.mlp_metrics[layer] == pytest.approx(metric(logits), abs=1e-4)
        assert table.mlp[layer] == pytest.approx(metric(base) - metric(logits), abs=1e-4)
        assert table.mlp_kl[layer] == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-4)
        assert table.mlp_ranks[layer] == int((logits > logits[TARGET]).sum()) + 1
        assert table.mlp_chances[layer] == pytest.approx(float(after[TARGET].exp()), abs=1e-4)


def test_the_top_tokens_with_a_head_off_and_after_a_click_are_those_of_a_plain_hook(
    bench: tuple[iw.Session, Plain],
) -> None:
    session, plain = bench
    assert session.question is not None
    table = head_effects(session.model, session.question, mode="zero")
    for layer, head in np.ndindex(LAYERS, HEADS):
        top = plain.without(layer, head, 0.0).softmax(-1).topk(5)
        assert table.top[layer, head].tolist() == top.indices.tolist()
        assert table.probabilities[layer, head] == pytest.approx(top.values.tolist(), abs=1e-4)
    session.toggle("L2H1", mode="zero")
    now, base = plain.without(2, 1, 0.0).softmax(-1), plain.run()["logits"].softmax(-1)
    for token in session.answer.top:
        assert token.probability == pytest.approx(float(now[token.id]), abs=1e-4)
        assert token.plain_probability == pytest.approx(float(base[token.id]), abs=1e-4)


def test_a_mean_by_position_is_the_hook_scripts(bench: tuple[iw.Session, Plain]) -> None:
    session, plain = bench
    assert session.question is not None
    reference = iw.Reference("lined up", tuple(REFERENCE), by_position=True)
    table = head_effects(session.model, session.question, mode="mean", reference=reference)
    inputs = [[plain.inputs(layer, ids_of(session, other)) for other in REFERENCE] for layer in range(LAYERS)]
    base = metric(plain.run()["logits"])
    for layer, head in np.ndindex(LAYERS, HEADS):
        mean = torch.stack([x.unflatten(-1, (HEADS, -1))[:, head] for x in inputs[layer]]).mean(0)
        assert table.effects[layer, head] == pytest.approx(base - metric(plain.without(layer, head, mean)), abs=1e-4)


@pytest.mark.parametrize(("layer", "head", "dest", "src"), [(0, 1, 4, 2), (1, 2, 5, 0), (2, 3, 5, 4)])
def test_a_cut_edge_takes_what_plain_attention_without_it_gives(
    bench: tuple[iw.Session, Plain], layer: int, head: int, dest: int, src: int
) -> None:
    session, plain = bench
    found = plain.run()
    row = found["patterns"][layer, head, dest].clone()
    row[src] = 0
    mixed = row @ plain.values(found, layer, head)  # the other weights stay as they are

    def cut(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[0, dest, head * WIDTH : (head + 1) * WIDTH] = mixed.float()
        return x

    expected = plain.run(None, (plain.projection(layer), cut, "input"))["logits"]
    session.cut(f"L{layer}H{head}", dest, src)
    assert session.answer.metric == pytest.approx(metric(expected), abs=1e-4)
    pattern = iw.attention(session)[layer, head, dest]
    assert pattern == pytest.approx(row.float().numpy(), abs=1e-5)


def test_every_row_of_a_heads_card_is_computed_by_hand(bench: tuple[iw.Session, Plain]) -> None:
    session, plain = bench
    assert session.question is not None
    found = plain.run()
    unembed, stream = plain.unembed(), found["stream"]
    for layer, head in ((0, 1), (1, 3), (2, 2)):
        card = head_card(session.model, session.question.first, layer, head)
        attention = found["patterns"][layer, head, -1]
        seen = plain.normed(plain.written(layer, head, plain.values(found, layer, head)), stream)  # [src, d_model]
        carried = seen @ (unembed[TARGET] - unembed[FOIL])
        own = unembed[plain.ids] - unembed.mean(0)
        assert card.attention == pytest.approx(attention.numpy(), abs=1e-5)
        assert card.carried == pytest.approx(carried.numpy(), abs=1e-4)
        assert card.contribution == pytest.approx((attention * carried).numpy(), abs=1e-4)
        assert card.copying == pytest.approx(float((attention * (seen * own).sum(-1)).sum()), abs=1e-4)
        moved = (attention @ seen) @ unembed.T
        moved = moved - moved.mean()
        assert [w.token.id for w in card.promotes] == moved.topk(8).indices.tolist()
        assert [w.logit for w in card.promotes] == pytest.approx(moved.topk(8).values.tolist(), abs=1e-4)
        assert [w.logit for w in card.suppresses] == pytest.approx((-(-moved).topk(8).values).tolist(), abs=1e-4)


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
def test_every_number_of_self_repair_is_what_two_plain_runs_give(bench: tuple[iw.Session, Plain], mode: str) -> None:
    session, plain = bench
    assert session.question is not None
    report = self_repair(session.model, session.question, "L1H2", mode, reference=REFERENCE)  # pyright: ignore[reportArgumentType]
    value = torch.as_tensor(plain.value(mode, 1, 2, [ids_of(session, other) for other in REFERENCE])).float()

    def off(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[0, :, 2 * WIDTH : 3 * WIDTH] = value
        return x

    before, after = plain.run(), plain.run(None, (plain.projection(1), off, "input"))
    direction = plain.unembed()[TARGET] - plain.unembed()[FOIL]

    def direct(part: torch.Tensor) -> float:
        return float(plain.normed(part, before["stream"]) @ direction)  # at the scale of the run before

    def head_change(layer: int, head: int) -> float:
        ends = [
            plain.written(layer, head, run["z"][layer][-1].unflatten(0, (HEADS, -1))[head]) for run in (before, after)
        ]
        return direct(ends[1]) - direct(ends[0])

    for layer, head in np.ndindex(LAYERS, HEADS):
        change = 0.0 if (layer, head) == (1, 2) else head_change(layer, head)
        assert report.heads[layer, head] == pytest.approx(change, abs=1e-4)
    for layer in range(LAYERS):
        change = direct(after["mlp"][layer][-1]) - direct(before["mlp"][layer][-1])
        assert report.mlps[layer] == pytest.approx(change, abs=1e-4)
    total = metric(before["logits"]) - metric(after["logits"])
    lost = -head_change(1, 2)
    rest = float(np.nansum(report.heads)) + float(report.mlps.sum()) + report.other
    assert report.direct == pytest.approx(lost, abs=1e-4)
    assert report.total == pytest.approx(total, abs=1e-4)
    assert report.repaired == pytest.approx(lost - total, abs=1e-4)
    assert report.norm == pytest.approx(lost - total - rest, abs=1e-4)
    found, unembed = before, plain.unembed()
    own = unembed[plain.ids] - unembed.mean(0)
    for layer, head in np.ndindex(LAYERS, HEADS):
        seen = plain.normed(plain.written(layer, head, plain.values(found, layer, head)), found["stream"])
        raised = float((found["patterns"][layer, head, -1] * (seen * own).sum(-1)).sum())
        assert report.suppression[layer, head] == pytest.approx(-raised, abs=1e-4)
