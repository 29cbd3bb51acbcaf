"""Generation under interventions: the same with a cache and without, alone and in a batch, as with a plain hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from transformers import OpenAIGPTConfig

from interp_widgets.model.decode import Decoder, Line, decoding
from interp_widgets.model.errors import GenerationError, PromptError
from interp_widgets.model.generate import generate, generate_many, line_of, score, side_by_side
from interp_widgets.model.interventions import Ablate, Edit, Intervention, Patch, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.positions import tokens
from interp_widgets.model.reference import Reference
from tests.unit.tiny_models import gpt2, llama, shaken, tokenizer

PROMPT = [5, 9, 12, 7, 30, 9, 12, 4]
WORDS = "w5 w9 w12 w7 w30 w9 w12 w4"
MODELS: dict[str, Callable[[], Any]] = {"gpt2": gpt2, "llama": llama}
POSITIONS = [
    "all",
    "prompt",
    "generated",
    "content",
    "prompt[-1]",
    "gen[:8]",
    -1,
    [2, 3],
    slice(1, 4),
    tokens("w9w12"),
    tokens("w12"),
]
V = torch.randn(32, generator=torch.Generator().manual_seed(3)).numpy()


@pytest.fixture(scope="module", params=list(MODELS))
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(MODELS[request.param](), tokenizer(), reference=Reference.of(["w3 w4 w5", "w8 w9 w10 w11"]))
    yield opened
    opened.release()


def decoded(live: LiveModel, interventions: Any, use_cache: bool, n: int = 12) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens, and the logits of every step `[token, vocab]`."""
    decoder = Decoder(live, [line_of(live, PROMPT, interventions)], use_cache)
    logits: list[torch.Tensor] = []
    for _ in range(n):
        logits.append(decoder.step()[0])
        decoder.append([live.tokens.token(int(logits[-1].argmax()))])
    return [t.id for t in decoder.lines[0].tokens[len(PROMPT) :]], torch.stack(logits)


WAYS = [("add", p) for p in POSITIONS] + [(mode, "gen[:8]") for mode in ("project_out", "clamp", "keep_norm")]


@pytest.mark.parametrize(("mode", "positions"), WAYS, ids=str)
def test_text_and_logits_are_the_same_with_and_without_a_cache(live: LiveModel, mode: Any, positions: Any) -> None:
    steer = Steer("L1", V, 2.0, mode, positions=positions)
    with_cache, logits = decoded(live, [steer], use_cache=True)
    without, slow = decoded(live, [steer], use_cache=False)
    assert with_cache == without
    assert float((logits - slow).abs().max()) < 1e-5 * float(slow.abs().max().clamp_min(1))


EDITS: dict[str, Intervention] = {
    "mean head": Ablate("L1H2"),
    "zero heads": Ablate("L1.heads", mode="zero", positions="generated"),
    "mean mlp": Ablate("L0.mlp", positions="prompt"),
    "mean by position": Ablate(
        "L1H2", reference=Reference("lined up", ("w3 w4 w5 w6 w7 w8 w9 w10",), by_position=True)
    ),
    "resample": Ablate("L1.mlp", mode="resample", reference="w3 w4 w5 w6 w7 w8 w9 w10"),
    "patched stream": Patch("L1", "w3 w4 w5 w6 w7 w8 w9 w10", positions=[2, 3]),
    "patched everywhere": Patch("L0.attn", "w3 w4 w5 w6 w7 w8 w9 w10"),
    "patched pattern": Patch("L1H1.pattern", "w3 w4 w5 w6 w7 w8 w9 w10"),
    "patched patterns": Patch("L1.pattern", "w3 w4 w5 w6 w7 w8 w9 w10"),
    "edge in the prompt": Ablate("L1H2", mode="edge", edge=(7, 2)),
    "edge in the text to come": Ablate("L1H2", mode="edge", edge=(10, 2)),
    "neuron": Ablate("L1.mlp.17", mode="zero"),
    "neuron's mean": Ablate("L1.mlp.17"),
    "pushed neuron": Steer("L1.mlp.17", [3.0]),
    "pushed head": Steer("L1H2", V[:8], 4.0, "project_out"),
    "pushed heads": Steer("L1.heads", V.reshape(4, 8), 4.0, "clamp"),
    "embeddings": Steer("embed", V, 2.0),
    "own code": Edit("L1", lambda x: x * 1.5, name="more", positions="generated"),
}


@pytest.mark.parametrize("name", list(EDITS))
def test_every_kind_of_edit_is_the_same_with_and_without_a_cache_and_acts(live: LiveModel, name: str) -> None:
    with_cache, logits = decoded(live, [EDITS[name]], use_cache=True)
    without, slow = decoded(live, [EDITS[name]], use_cache=False)
    assert with_cache == without
    assert float((logits - slow).abs().max()) < 1e-5 * float(slow.abs().max().clamp_min(1))
    run = generate(live, PROMPT, [EDITS[name]], 12)
    assert len(list(run)) == 12
    assert run.receipts[0].state == "acted", run.receipts[0]


def test_a_strength_of_zero_and_nothing_at_all_are_bit_identical(live: LiveModel) -> None:
    zero, logits = decoded(live, [Steer("L1", V, 0.0)], use_cache=True)
    plain, right = decoded(live, [], use_cache=True)
    assert zero == plain
    assert torch.equal(logits, right)


@pytest.mark.parametrize("use_cache", [True, False])
def test_tokens_are_those_of_generate_with_an_equal_plain_hook(live: LiveModel, use_cache: bool) -> None:
    block, model = live.anatomy.layers[1].module, cast("Any", live.module)
    ours = [t.id for t in generate(live, PROMPT, [Steer("L1", V, 2.0, positions="all")], 20, use_cache)]
    push = torch.from_numpy(V) * 2.0

    def hook(_m: Any, _a: Any, out: Any) -> Any:
        return (out[0] + push, *out[1:]) if isinstance(out, tuple) else out + push

    handle = block.register_forward_hook(hook)
    try:
        theirs = model.generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False)
    finally:
        handle.remove()
    assert ours == theirs[0, len(PROMPT) :].tolist()
    plain = [t.id for t in generate(live, PROMPT, max_new_tokens=20)]
    assert plain != ours


def test_every_position_is_edited_exactly_once(live: LiveModel) -> None:
    for use_cache in (True, False):
        run = generate(
            live, PROMPT, [Steer("L1", V, 2.0, positions="all"), Steer("L1", V, positions="gen[:8]")], 12, use_cache
        )
        assert len(list(run)) == 12
        # the last token is predicted and never fed
        assert [r.positions for r in run.receipts] == [len(PROMPT) + 11, 8]


def test_the_first_generated_token_is_predicted_at_the_last_prompt_position(live: LiveModel) -> None:
    plain, right = decoded(live, [], use_cache=True, n=3)
    _, generated = decoded(live, [Steer("L1", V, 50.0, positions="generated")], use_cache=True, n=3)
    _, boundary = decoded(live, [Steer("L1", V, 50.0, positions="prompt[-1]")], use_cache=True, n=3)
    assert torch.equal(generated[0], right[0])
    assert not torch.allclose(generated[1], right[1], atol=1e-2)
    assert not torch.allclose(boundary[0], right[0], atol=1e-2)
    assert len(plain) == 3


def test_a_run_of_tokens_that_ends_in_generated_text_acts_on_its_last_token_only(live: LiveModel) -> None:
    first = next(iter(generate(live, PROMPT, max_new_tokens=1)))
    spelled = tokens(f"w4{first.text}")
    for use_cache in (True, False):
        run = generate(live, PROMPT, [Steer("L1", V, 0.001, positions=spelled)], 3, use_cache)
        assert len(list(run)) == 3
        assert run.receipts[0].positions == 1


# ---- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", POSITIONS[:9], ids=str)
def test_prompts_of_different_lengths_side_by_side_are_the_prompts_alone(live: LiveModel, positions: Any) -> None:
    prompts = [PROMPT, PROMPT[2:], PROMPT[:4]]
    steer = Steer("L1", V, 2.0, positions=positions)
    for use_cache in (True, False):
        rows = generate_many(live, prompts, [steer], 10, use_cache).finish()
        for prompt, row in zip(prompts, rows, strict=True):
            alone = list(generate(live, prompt, [steer], 10))
            assert [t.id for t in row.tokens] == [t.id for t in alone]
            assert max(abs(a.probability - b.probability) for a, b in zip(row.tokens, alone, strict=True)) < 1e-5


def test_rows_may_have_interventions_of_their_own(live: LiveModel) -> None:
    prompts = [PROMPT, PROMPT[1:], PROMPT, PROMPT]
    edits = [
        [Steer("L1", V, 2.0)],
        [],
        [Ablate("L1H2", mode="edge", edge=(7, 2))],
        [Steer("L1", V, -2.0), Ablate("L0.mlp")],
    ]
    rows = generate_many(live, prompts, edits, 10)
    for r, (prompt, edit) in enumerate(zip(prompts, edits, strict=True)):
        alone = generate(live, prompt, edit, 10)
        assert [t.id for t in alone] == [t.id for t in rows.finish()[r].tokens]
        assert [x.state for x in rows.receipts(r)] == [x.state for x in alone.receipts]
        assert [x.positions for x in rows.receipts(r)] == [x.positions for x in alone.receipts]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_plain_and_edited_side_by_side_are_the_two_alone(live: LiveModel, temperature: float) -> None:
    steer = Steer("L1", V, 2.0)
    both = side_by_side(live, PROMPT, [steer], 16, temperature=temperature, seed=5)
    pairs = list(both)
    plain = [t.id for t in generate(live, PROMPT, (), 16, temperature=temperature, seed=5)]
    edited = [t.id for t in generate(live, PROMPT, [steer], 16, temperature=temperature, seed=5)]
    assert [p.id for p, _ in pairs if p] == plain
    assert [e.id for _, e in pairs if e] == edited
    assert both.divergence == next(n for n, (a, b) in enumerate(zip(plain, edited, strict=True)) if a != b)
    assert both.receipts(0) == ()
    assert both.receipts(1)[0].state == "acted"


def test_side_by_side_with_nothing_on_never_diverges(live: LiveModel) -> None:
    both = side_by_side(live, PROMPT, [], 20, temperature=1.5, seed=1)
    both.finish()
    assert both.divergence is None


# ---- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.case("A34")
def test_sampling_repeats_with_its_seed_and_leaves_the_global_random_state_alone(live: LiveModel) -> None:
    before = torch.get_rng_state()
    one = generate(live, PROMPT, max_new_tokens=20, temperature=1.0, seed=11)
    two = generate(live, PROMPT, max_new_tokens=20, temperature=1.0, seed=11)
    other = generate(live, PROMPT, max_new_tokens=20, temperature=1.0, seed=12)
    assert [t.id for t in one] == [t.id for t in two] != [t.id for t in other]
    drawn = generate(live, PROMPT, max_new_tokens=20, temperature=1.0)
    again = generate(live, PROMPT, max_new_tokens=20, temperature=1.0, seed=drawn.seed)
    assert [t.id for t in drawn] == [t.id for t in again]
    assert torch.equal(before, torch.get_rng_state())


def test_a_text_that_is_continued_from_its_middle_goes_on_as_it_would_have(live: LiveModel) -> None:
    for steer in (Steer("L1", V, 2.0, positions="gen[:8]"), Steer("L1", V, 2.0, positions="prompt")):
        whole = [t.id for t in generate(live, PROMPT, [steer], 16, temperature=1.0, seed=3)]
        rest = generate(live, PROMPT, [steer], 11, continued=whole[:5], temperature=1.0, seed=3)
        assert [t.id for t in rest] == whole[5:]
        assert rest.text.split() == [live.tokens.token(i).text for i in whole[5:]]


def test_probabilities_are_the_models_own_and_the_ten_best_are_named(live: LiveModel) -> None:
    first = next(iter(generate(live, PROMPT, temperature=1.0, top_k=3, seed=0)))
    share = live.run(PROMPT).logits[-1].softmax(-1)
    assert first.probability == pytest.approx(float(share[first.id]), rel=1e-5)
    assert [i for i, _ in first.top] == share.topk(10).indices.tolist()
    assert first.id in [i for i, _ in first.top[:3]]


def test_scores_of_a_text_are_the_probabilities_with_which_it_was_generated(live: LiveModel) -> None:
    steer = Steer("L1", V, 2.0, positions="gen[:4]")
    run = list(generate(live, PROMPT, [steer], 10, temperature=1.0, seed=2))
    scores = score(live, PROMPT, [t.id for t in run], [steer])
    assert torch.allclose(scores.exp(), torch.tensor([t.probability for t in run]), atol=1e-5)
    assert not torch.allclose(scores, score(live, PROMPT, [t.id for t in run]), atol=1e-3)


# ---- ends -------------------------------------------------------------------------------------------------------------


def test_it_stops_at_ids_and_texts_and_says_so(live: LiveModel) -> None:
    whole = list(generate(live, PROMPT, max_new_tokens=12))
    assert [t.id for t in whole] == [t.id for t in generate(live, PROMPT, max_new_tokens=12, stop="never")]
    wanted = next(n for n in range(3, 12) if whole[n].id not in {t.id for t in whole[:n]})
    for stop in (whole[wanted].id, whole[wanted].text, [whole[wanted].text, "w1000"]):
        run = generate(live, PROMPT, max_new_tokens=12, stop=stop)
        assert len(list(run)) == wanted + 1
        assert run.ended == "stop"
    assert live.generate(PROMPT, max_new_tokens=12).text == ""


def test_the_models_own_end_of_text_ends_it_unless_it_is_to_be_ignored(live: LiveModel) -> None:
    whole = list(generate(live, PROMPT, max_new_tokens=8))
    config = cast("Any", live.module).generation_config
    config.eos_token_id = whole[2].id
    try:
        run = generate(live, PROMPT, max_new_tokens=8)
        assert [t.id for t in run] == [t.id for t in whole[: [t.id for t in whole].index(whole[2].id) + 1]]
        assert run.ended == "end of text"
        assert len(list(generate(live, PROMPT, max_new_tokens=8, ignore_eos=True))) == 8
        rows = generate_many(live, [PROMPT, PROMPT[1:]], max_new_tokens=8).finish()
        assert [t.id for t in rows[0].tokens] == [t.id for t in run.tokens]
        assert [t.id for t in rows[1].tokens] == [t.id for t in generate(live, PROMPT[1:], max_new_tokens=8)]
    finally:
        config.eos_token_id = None


def test_the_contexts_end_stops_it_with_a_note(live: LiveModel) -> None:
    run = generate(live, [5] * 60, max_new_tokens=50)
    assert len(list(run)) == 5
    assert run.ended == "context"
    assert "Stopped after 5 of 50 tokens: the model's context holds 64." in run.note
    with pytest.raises(PromptError, match="65 tokens, but the model's context holds 64"):
        generate(live, [5] * 65)


@pytest.mark.case("E09", "L05")
def test_a_consumer_that_leaves_has_stopped_it_and_the_users_own_forward_is_untouched(live: LiveModel) -> None:
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        before = live.module(input_ids=ids).logits
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    run = generate(live, PROMPT, [Steer("L1", V, 30.0, positions="all")], 20)
    for n, _ in enumerate(run):
        with torch.no_grad():
            assert torch.equal(live.module(input_ids=ids).logits, before)
        if n == 2:
            break
    handle = live.module.register_forward_pre_hook(count)
    handle.remove()
    assert calls == 0
    assert len(run.tokens) == 3
    assert run.ended == ""


def test_grad_and_inference_modes_of_the_caller_do_not_matter(live: LiveModel) -> None:
    right = [t.id for t in generate(live, PROMPT, max_new_tokens=6)]
    run = generate(live, PROMPT, max_new_tokens=6)
    found: list[int] = []
    for n in range(6):
        with torch.inference_mode(n % 2 == 0):
            found.append(next(run).id)
    assert found == right
    assert torch.is_grad_enabled()


@pytest.mark.case("E10")
def test_an_exception_at_token_5_keeps_the_text_so_far_and_leaves_the_model_as_it_was(live: LiveModel) -> None:
    right = [t.id for t in generate(live, PROMPT, max_new_tokens=5)]
    calls = 0

    def fail(_m: Any, _a: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("no more")

    run = generate(live, PROMPT, max_new_tokens=20)
    handle = live.anatomy.layers[1].module.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="no more"):
            list(run)
    finally:
        handle.remove()
    assert [t.id for t in run.tokens] == right
    assert run.ended == "error"
    assert "no more" in run.note
    assert list(run) == []
    assert [t.id for t in generate(live, PROMPT, max_new_tokens=5)] == right


@pytest.mark.case("E08")
def test_cancelling_ends_it_within_one_step_and_keeps_the_text(live: LiveModel) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 10

    run = generate(live, PROMPT, max_new_tokens=50, cancelled=cancelled)
    got = list(run)
    assert 0 < len(got) < 6
    assert run.ended == "stopped"
    assert list(run.tokens) == got
    stopped = generate(live, PROMPT, max_new_tokens=50)
    next(stopped)
    stopped.stop()
    assert list(stopped) == []
    assert len(stopped.tokens) == 1


# ---- what cannot be done ----------------------------------------------------------------------------------------------


def test_logits_that_are_not_numbers_are_an_error_that_names_the_layer(live: LiveModel) -> None:
    run = generate(live, PROMPT, [Edit("L1", lambda x: x * float("nan"), name="spoil", positions="gen[:1]")], 20)
    with pytest.raises(
        GenerationError, match="generated token 2 are not finite from layer 1 on; lower the strength of edit L1, spoil"
    ):
        list(run)
    assert len(run.tokens) == 1
    weight = cast("Any", live.anatomy.final_norm).weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(GenerationError, match="not finite at the unembedding; the model does this by itself"):
            list(generate(live, PROMPT, max_new_tokens=3))
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is a whole number from 1, not 0"),
        ({"max_new_tokens": True}, "max_new_tokens is a whole number from 1, not True"),
        ({"temperature": -1.0}, "temperature is a number from 0"),
        ({"temperature": float("nan")}, "temperature is a number from 0"),
        ({"temperature": True}, "temperature is a number from 0"),
        ({"top_k": 0}, "top_k is a whole number from 1"),
        ({"top_p": 0.0}, "top_p is a number above 0"),
        ({"top_p": 1.5}, "top_p is a number above 0"),
        ({"seed": -1}, "A seed is a whole number"),
        ({"seed": 1.5}, "A seed is a whole number"),
        ({"stop": [""]}, "stop takes token ids and texts"),
        ({"stop": [True]}, "stop takes token ids and texts"),
        ({"interventions": [Steer("L1", V, positions="gen[-2:]")]}, "count from the end of the text"),
        ({"interventions": [Steer("L1", V[:5])]}, "was it made for another model"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(
    live: LiveModel, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        generate(live, PROMPT, **settings)


def test_unknown_settings_and_ragged_lists_are_refused(live: LiveModel) -> None:
    with pytest.raises(GenerationError, match="no setting 'temprature'"):
        generate_many(live, [PROMPT], temprature=1.0)
    with pytest.raises(GenerationError, match="no setting 'beams'"):
        side_by_side(live, PROMPT, [], beams=2)
    with pytest.raises(GenerationError, match="2 prompts and 1 sequences"):
        generate_many(live, [PROMPT, PROMPT], [[Steer("L1", V)]])
    with pytest.raises(GenerationError, match="2 prompts and 1 seeds"):
        generate_many(live, [PROMPT, PROMPT], seeds=[1])
    with pytest.raises(GenerationError, match="no prompt"):
        generate_many(live, [])


def test_a_model_without_a_cache_is_generated_with_by_whole_forwards_and_says_so() -> None:
    model = shaken(OpenAIGPTConfig(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    live = open_model(model, tokenizer())
    try:
        assert "gives no cache back" in decoding(live).no_cache
        run = generate(live, WORDS, [Steer("L0", V, 2.0)], 8)
        fast = [t.id for t in run]
        assert "without a cache" in run.note
        assert fast == decoded(live, [Steer("L0", V, 2.0)], use_cache=False, n=8)[0]
        rows = generate_many(live, [PROMPT, PROMPT[3:]], [Steer("L0", V, 2.0)], 8).finish()
        assert [t.id for t in rows[0].tokens] == fast
        assert [t.id for t in rows[1].tokens] == [t.id for t in generate(live, PROMPT[3:], [Steer("L0", V, 2.0)], 8)]
    finally:
        live.release()


def test_a_cache_that_lies_is_found_out_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gpt2()
    block = model.transformer.h[1]
    plain = block.forward

    def forgetful(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # one token at a time it says something else
        out = plain(hidden, *args, **kwargs)
        return out + out.roll(1, -1) if hidden.shape[1] == 1 else out

    monkeypatch.setattr(block, "forward", forgetful)
    live = open_model(model, tokenizer())
    try:
        run = generate(live, PROMPT, max_new_tokens=4)
        list(run)
        assert "differs from the plain forward" in run.note
    finally:
        live.release()


def test_lines_that_are_added_to_decode_as_one(live: LiveModel) -> None:
    decoder = Decoder(live, [Line(list(live.tokens.encode(PROMPT)), len(PROMPT))])
    whole = live.run(PROMPT).logits
    assert torch.allclose(decoder.step(every=True)[0], whole, atol=1e-5)
