"""The prompts of a question that a mean is taken over, or that are resampled from, count as they were asked: with their BOS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from tokenizers import processors

import interp_widgets as iw
from tests.unit import tiny_models

PROMPT = "w3 w4 w5 w6 w7 w8"
CORRUPT = "w20 w21 w22 w23 w24 w25"
SET = [PROMPT, "w20 w21 w22", "w30 w31 w32"]
BOS = 0
HEAD = slice(16, 24)  # the third of four heads of eight numbers each


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open(getattr(tiny_models, request.param)(), tiny_models.tokenizer())
    yield opened
    opened.close()


def ids_of(text: str, bos: bool | None) -> list[int]:
    return [*([BOS] if bos else []), *(int(word[1:]) for word in text.split())]


def projection(module: Any) -> Any:
    """What mixes the heads of block 1: a head is a slice of its input."""
    return (
        module.transformer.h[1].attn.c_proj
        if hasattr(module, "transformer")
        else module.model.layers[1].self_attn.o_proj
    )


def heads(module: Any, ids: Sequence[int]) -> torch.Tensor:
    """What the head L1H2 gives, `[pos, d_head]`, read by a hook of this test's own."""
    seen: list[torch.Tensor] = []
    handle = projection(module).register_forward_pre_hook(
        lambda _module, args: seen.append(args[0][0, :, HEAD].clone())
    )
    with torch.no_grad():
        module(torch.tensor([ids]))
    handle.remove()
    return seen[0]


def answered(module: Any, ids: Sequence[int], z: torch.Tensor) -> float:
    """The logit difference with `z` in the place of what L1H2 gives, `[d_head]` or `[pos, d_head]`."""

    def put(_module: Any, args: Any) -> Any:
        x = args[0].clone()
        x[0, :, HEAD] = z
        return (x, *args[1:])

    handle = projection(module).register_forward_pre_hook(put)
    with torch.no_grad():
        logits = module(torch.tensor([ids])).logits[0, -1]
    handle.remove()
    return float(logits[9] - logits[10])


def pooled(module: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.cat([heads(module, ids) for ids in prompts]).mean(0)


@pytest.mark.parametrize("bos", [True, None], ids=["bos", "as the tokenizer has it"])
def test_a_mean_over_the_corrupt_prompt_is_over_the_one_that_was_asked(session: iw.Session, bos: bool | None) -> None:
    module = session.model.module
    session.ask(PROMPT, "w9", "w10", corrupt=CORRUPT, bos=bos)
    session.set(iw.Ablate("L1H2", "mean"))
    want = answered(module, ids_of(PROMPT, bos), pooled(module, [ids_of(CORRUPT, bos)]))
    other = answered(module, ids_of(PROMPT, bos), pooled(module, [ids_of(CORRUPT, not bos)]))
    assert session.answer.metric == pytest.approx(want, abs=1e-4)
    assert want != pytest.approx(other, abs=1e-2), "the BOS makes no difference here: the test shows nothing"
    effects = iw.head_effects(session.model, session.question, reference=session.reference)
    plain = session.answer.plain_metric
    assert effects.effects[1, 2] == pytest.approx(plain - want, abs=1e-4)


@pytest.mark.parametrize("bos", [True, None], ids=["bos", "as the tokenizer has it"])
def test_a_mean_over_a_prompt_set_is_over_all_of_it_as_it_was_asked(session: iw.Session, bos: bool | None) -> None:
    module = session.model.module
    session.ask([iw.Example(prompt, "w9", "w10") for prompt in SET], bos=bos)
    session.set(iw.Ablate("L1H2", "mean"))
    asked = [ids_of(prompt, bos) for prompt in SET]
    want = [answered(module, ids, pooled(module, asked)) for ids in asked]
    assert session.answer.values == pytest.approx(want, abs=1e-4)
    rest = answered(module, asked[0], pooled(module, asked[1:]))
    assert rest != pytest.approx(want[0], abs=1e-3), (
        "a prompt's own part makes no difference here: the test shows nothing"
    )


@pytest.mark.parametrize("bos", [True, None], ids=["bos", "as the tokenizer has it"])
def test_a_prompt_of_a_set_is_resampled_from_another_one_as_that_was_asked(
    session: iw.Session, bos: bool | None
) -> None:
    module = session.model.module
    session.ask([iw.Example(prompt, "w9", "w10") for prompt in SET], bos=bos)
    session.set(iw.Ablate("L1H2", "resample"))
    first, *two = [ids_of(prompt, bos) for prompt in SET]
    want = [
        answered(module, first, heads(module, first)),  # no other is as long
        *(answered(module, ids, heads(module, other)) for ids, other in zip(two, two[::-1], strict=True)),
    ]
    assert session.answer.values == pytest.approx(want, abs=1e-4)


def test_two_references_of_the_same_texts_and_other_tokens_are_told_apart(session: iw.Session) -> None:
    found: list[tuple[str, float]] = []
    for bos in (True, None, True):
        session.ask(PROMPT, "w9", "w10", corrupt=CORRUPT, bos=bos)
        session.set(iw.Ablate("L1H2", "mean"))
        assert session.reference is not None
        found.append((session.reference.digest, session.answer.metric))
    assert found[0] == found[2]
    assert found[0][0] != found[1][0] != iw.Reference("texts", ("a", "b")).digest
    assert iw.Reference("one", ("a",)).digest == iw.Reference("another name", ("a",)).digest


def test_a_reference_by_its_texts_is_read_as_the_tokenizer_reads_them(session: iw.Session) -> None:
    module = session.model.module
    session.ask(PROMPT, "w9", "w10", bos=True)
    session.set(iw.Ablate("L1H2", "mean", [CORRUPT]))
    want = answered(module, ids_of(PROMPT, True), pooled(module, [ids_of(CORRUPT, None)]))
    assert session.answer.metric == pytest.approx(want, abs=1e-4)


def test_a_set_of_chats_is_the_tokens_of_its_template_where_a_text_would_get_a_bos() -> None:
    raw: Any = tiny_models.tokenizer()
    raw.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    raw.chat_template = "{% for m in messages %}w5 {{ m['content'] }} w6 {% endfor %}w7"
    session = iw.open(tiny_models.gpt2(), raw)
    module = session.model.module
    said: list[Any] = [[{"role": "user", "content": content}] for content in ("w20 w21", "w22")]
    session.ask([iw.Example(one, "w9", "w10") for one in said])
    session.set(iw.Ablate("L1H2", "mean"))
    asked = [[5, 20, 21, 6, 7], [5, 22, 6, 7]]
    want = [answered(module, ids, pooled(module, asked)) for ids in asked]
    assert session.answer.values == pytest.approx(want, abs=1e-4)
    session.close()
