"""Which tokens of a chat are the speakers' own words, and that they stay so in calls of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import interp_widgets as iw
from interp_widgets.model.errors import InterventionError
from interp_widgets.model.question import Tokenizer
from tests.unit import tiny_models

V = torch.randn(32, generator=torch.Generator().manual_seed(3))
USUAL = "w3 w4 {% for m in messages %}w5 {{ m['content'] }} w6 {% endfor %}{% if add_generation_prompt %}w7{% endif %}"
STRIPPED = USUAL.replace("m['content']", "m['content'].strip()")
CHANGED = USUAL.replace("m['content']", "m['content'].replace('w20', 'w21 w22')")
TWICE = USUAL.replace("{{ m['content'] }}", "{{ m['content'] }} w8 {{ m['content'] }}")
DROPPED = USUAL.replace("{{ m['content'] }}", "{% if loop.last %}{{ m['content'] }}{% endif %}")
BRANCHED = USUAL.replace("{{ m['content'] }}", "{% if 'w9' in m['content'] %}w30 w31 {% endif %}{{ m['content'] }}")
# Thoughts are rendered in another place than the rest: what differs is all that is known to be the message's.
SPLIT = USUAL.replace(
    "{{ m['content'] }}",
    "{% set c = m['content'].split('w50') %}{% if c | length > 1 %}w40 {{ c[0] }}w41 {{ c[1] }}{% else %}{{ c[0] }}{% endif %}",
)
PICKY = USUAL.replace("w5 {{", "w5 {% if m['content'][0] != 'w' %}{{ raise_exception('no') }}{% endif %}{{")
PARTS = USUAL.replace("m['content']", "(m['content'] if m['content'] is string else m['content'][0]['text'])")
RENDERED: dict[str, tuple[str, list[Any], str, list[int]]] = {
    # template, messages, what the model reads, which of it is content
    "a word of the template's": (USUAL, ["w4"], "w3 w4 w5 w4 w6 w7", [3]),
    "the word before it": (USUAL, ["w5"], "w3 w4 w5 w5 w6 w7", [3]),
    "the word behind it": (USUAL, ["w6"], "w3 w4 w5 w6 w6 w7", [3]),
    "part of a word": (USUAL, ["w"], "w3 w4 w5 w w6 w7", [3]),
    "all of them": (USUAL, ["w3 w4 w5 w6 w7"], "w3 w4 w5 w3 w4 w5 w6 w7 w6 w7", [3, 4, 5, 6, 7]),
    "what opens and closes a turn": (USUAL, ["w6 w5", "w9"], "w3 w4 w5 w6 w5 w6 w5 w9 w6 w7", [3, 4, 7]),
    "twice the same": (USUAL, ["w4", "w4"], "w3 w4 w5 w4 w6 w5 w4 w6 w7", [3, 6]),
    "an empty one": (USUAL, [" ", "w4"], "w3 w4 w5 w6 w5 w4 w6 w7", [5]),
    "stripped": (STRIPPED, ["  w4 \n"], "w3 w4 w5 w4 w6 w7", [3]),
    "changed": (CHANGED, ["w20 w4"], "w3 w4 w5 w21 w22 w4 w6 w7", [3, 4, 5]),
    "rendered twice": (TWICE, ["w8", "w5 w4"], "w3 w4 w5 w8 w8 w8 w6 w5 w5 w4 w8 w5 w4 w6 w7", [3, 5, 8, 9, 11, 12]),
    "not rendered": (DROPPED, ["w4", "w4"], "w3 w4 w5 w6 w5 w4 w6 w7", [5]),
    "a template that goes by the words": (BRANCHED, ["w9 w4"], "w3 w4 w5 w30 w31 w9 w4 w6 w7", [5, 6]),
    "one that takes the words apart": (SPLIT, ["w4 w50 w3"], "w3 w4 w5 w40 w4 w41 w3 w6 w7", [3, 4, 5, 6]),
    "one that takes no other words": (PICKY, ["w20"], "w3 w4 w5 w20 w6 w7", [3]),
    "parts": (PARTS, [[{"type": "text", "text": "w4"}]], "w3 w4 w5 w4 w6 w7", [3]),
}


def talking(template: str) -> Any:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def chat(*contents: Any) -> Any:
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


@pytest.mark.parametrize("name", RENDERED)
def test_the_words_of_a_message_are_content_wherever_else_they_stand(name: str) -> None:
    template, contents, text, content = RENDERED[name]
    raw = talking(template)
    tokens = Tokenizer(raw, tiny_models.VOCAB, None).encode(chat(*contents))
    assert [t.id for t in tokens] == raw(text, add_special_tokens=False)["input_ids"]
    assert [n for n, t in enumerate(tokens) if t.kind != "special"] == content


def letters() -> Any:
    """One token per byte, as a byte-level tokenizer has it before it merges any."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Core(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    raw: Any = PreTrainedTokenizerFast(tokenizer_object=core)
    raw.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    return raw


@pytest.mark.parametrize(
    "contents",
    [
        ["user"],
        ["end", "user", "assistant"],
        ["  a\n", "<|end|>\n<|assistant|>\na"],
        ["\ue000 ü", "🙂 user"],
        ["|", ">"],
    ],
)
def test_content_is_to_the_letter_what_was_said(contents: list[str]) -> None:
    tokens = Tokenizer(letters(), 256, None).encode(chat(*contents))
    raw, runs = letters(), list[list[int]]()
    for before, token in zip((None, *tokens), tokens, strict=False):
        if token.kind != "special":
            runs = [*runs, []] if before is None or before.kind == "special" else runs
            runs[-1].append(token.id)
    assert [raw.decode(run) for run in runs] == [content.strip() for content in contents]


# ---- calls of the user's own ------------------------------------------------------------------------------------------

SAID = chat("w20 w21", "w4", "w22 w23")
READ = "w3 w4 w5 w20 w21 w6 w5 w4 w6 w5 w22 w23 w6 w7"
CONTENT = [3, 4, 7, 10, 11]


@pytest.fixture(params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    opened = iw.open(getattr(tiny_models, request.param)(), talking(USUAL))
    opened.ask(SAID, "w9", "w10")
    opened.set(iw.Steer("L1", V, 2.0))
    with torch.no_grad():
        yield opened
    opened.close()


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([[int(word[1:]) for word in text.split()]])


IDS = ids_of(READ)


def pushed(session: iw.Session, ids: torch.Tensor, at: list[int]) -> torch.Tensor:
    """The module's own logits `[pos, vocab]`, 2 V added after block 1 at these positions by a hook of this test's own."""
    module: Any = session.model.module
    block = (module.transformer.h if hasattr(module, "transformer") else module.model.layers)[1]

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        x = (output[0] if isinstance(output, tuple) else output).clone()
        x[:, at] += 2 * V
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = block.register_forward_hook(hook)
    try:
        return module(ids).logits[0]
    finally:
        handle.remove()


def close(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.allclose(got, want, atol=2e-4, rtol=1e-4)


def test_a_call_of_the_chats_own_ids_is_edited_as_the_chat_is(session: iw.Session) -> None:
    module: Any = session.model.module
    with session.applied() as receipts:
        called = module(IDS).logits[0]
        past = module.forward(IDS).logits[0]
    want = pushed(session, IDS, CONTENT)
    assert close(called, want) and close(past, want)
    assert receipts[0].positions == 2 * len(CONTENT)
    assert session.answer.metric == pytest.approx(float(called[-1, 9] - called[-1, 10]), abs=1e-4)
    assert session.answer.receipts[0].positions == len(CONTENT)


def written(session: iw.Session, ids: torch.Tensor = IDS, **how: Any) -> list[int]:
    module: Any = session.model.module
    with session.applied():
        out = module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0, **how
        )
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "how", [{}, {"use_cache": False}, {"prefill_chunk_size": 4}, {"prompt_lookup_num_tokens": 3}], ids=str
)
def test_generate_writes_what_is_written_to_the_chat(session: iw.Session, how: dict[str, Any]) -> None:
    session.set(iw.Steer("L0", V, 4.0))
    want = [t.id for t in session.model.generate(SAID, session.interventions, 8, ignore_eos=True)]
    assert written(session, **how) == want
    plain = [t.id for t in session.model.generate(IDS[0].tolist(), session.interventions, 8, ignore_eos=True)]
    assert want != plain, "the template makes no difference here: the test shows nothing"


def test_the_chat_goes_on_in_several_calls_and_with_what_was_written(session: iw.Session) -> None:
    module: Any = session.model.module
    more = torch.cat([IDS, ids_of("w40 w41 w5 w42")], 1)
    want = pushed(session, more, [*CONTENT, 14, 15, 16, 17])  # behind the chat a token is known by its id alone
    with session.applied():
        whole = module(more).logits[0]
        first = module(IDS[:, :5], use_cache=True)
        second = module(more[:, 5:15], past_key_values=first.past_key_values)
        third = module(more[:, 15:], past_key_values=second.past_key_values)
    assert close(whole, want)
    assert close(torch.cat([first.logits, second.logits, third.logits], 1)[0], want)


def test_each_row_of_a_padded_batch_is_known_by_its_own_tokens(session: iw.Session) -> None:
    module: Any = session.model.module
    other = ids_of("w5 w20 w3 w4 w21")
    rows = torch.cat([torch.cat([torch.zeros(1, 9, dtype=torch.long), other], 1), IDS, IDS[:, [0, *range(2, 14), 13]]])
    mask = (torch.arange(14) >= torch.tensor([[9], [0], [0]])).long()
    with session.applied() as receipts:
        got = module(rows, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    assert close(got[0, 9:], pushed(session, other, [1, 2, 3, 4]))
    assert close(got[1], pushed(session, IDS, CONTENT))
    assert close(got[2], pushed(session, rows[2:], list(range(1, 14))))
    assert receipts[0].positions == 4 + len(CONTENT) + 13


def test_the_chat_without_its_end_has_the_chats_own_content(session: iw.Session) -> None:
    ids, module = IDS[:, :-1], session.model.module  # as add_generation_prompt=False renders it
    with session.applied():
        got = module(ids).logits[0]
    assert close(got, pushed(session, ids, CONTENT))
    assert written(session, ids) == written(session, ids, use_cache=False)


def test_what_turns_out_to_be_another_text_is_edited_as_such_or_refused(session: iw.Session) -> None:
    module: Any = session.model.module
    other = ids_of("w3 w4 w5 w20 w30 w31 w32")
    with session.applied():
        whole = module(other).logits[0]
        begun = module(other[:, :4], use_cache=True)  # so far it may be the chat
        with pytest.raises(InterventionError, match="feed it in one"):
            module(other[:, 4:], past_key_values=begun.past_key_values)
    assert close(whole, pushed(session, other, [1, 2, 3, 4, 5, 6]))
    session.set(iw.Steer("L1", V, 2.0, positions=[1, 3]))
    with session.applied():
        begun = module(other[:, :4], use_cache=True)
        rest = module(other[:, 4:], past_key_values=begun.past_key_values)
    assert close(torch.cat([begun.logits, rest.logits], 1)[0], pushed(session, other, [1, 3]))


def test_every_chat_of_a_set_is_known(session: iw.Session) -> None:
    module: Any = session.model.module
    said: list[Any] = [chat("w20 w21"), chat("w6 w5 w6", "w9")]
    session.ask([iw.Example(one, "w9", "w10") for one in said])
    texts = ["w3 w4 w5 w20 w21 w6 w7", "w3 w4 w5 w6 w5 w6 w6 w5 w9 w6 w7"]
    for n, (text, content) in enumerate(zip(texts, ([3, 4], [3, 4, 5, 8]), strict=True)):
        with session.applied():
            got = module(ids_of(text)).logits[0]
        assert close(got, pushed(session, ids_of(text), content))
        assert session.answer.values[n] == pytest.approx(float(got[-1, 9] - got[-1, 10]), abs=1e-4)


QUESTIONS: dict[str, Callable[[iw.Session], Any]] = {
    "none": lambda session: session.question,
    "a text": lambda session: session.ask(READ, "w9", "w10"),
    "ids": lambda session: session.ask(IDS[0].tolist(), "w9", "w10"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_where_no_chat_is_asked_an_id_alone_says_what_a_token_is(question: str) -> None:
    session = iw.open(tiny_models.gpt2(), talking(USUAL))
    module: Any = session.model.module
    QUESTIONS[question](session)
    session.set(iw.Steer("L1", V, 2.0))
    with torch.no_grad(), session.applied():
        got = module(IDS).logits[0]
    with torch.no_grad():
        assert close(got, pushed(session, IDS, list(range(1, 14))))
    session.close()
