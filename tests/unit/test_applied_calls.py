"""Calls of the user's own inside `applied()`, in all the ways a model is called: exact, or refused in a sentence."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache, Gemma3TextConfig, MambaConfig, StaticCache

import interp_widgets as iw
from interp_widgets.model.decode import Decoder
from interp_widgets.model.errors import FeatureOffError, InterventionError
from interp_widgets.model.generate import line_of
from tests.unit import tiny_models

IDS = torch.tensor([[5, 9, 12, 5, 30, 7]])
V = torch.randn(32, generator=torch.Generator().manual_seed(5))
RULES: list[Any] = ["all", "content", "prompt", [1], iw.tokens("w5"), "prompt[:2]"]


def steer(positions: Any) -> iw.Steer:
    return iw.Steer("L0", V, 2.0, positions=positions)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def session(request: pytest.FixtureRequest) -> Iterator[iw.Session]:
    session = iw.open(getattr(tiny_models, request.param)(), tiny_models.tokenizer())
    yield session
    session.close()


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def right(session: iw.Session, positions: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return session.model.run(ids[0].tolist(), [steer(positions)]).logits


def close(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.allclose(got, want, atol=2e-4, rtol=1e-4)


# ---- past the model's own call -----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [*RULES, -1])
def test_forward_without_the_models_call_is_edited_at_its_own_positions(session: iw.Session, positions: Any) -> None:
    model: Any = session.model.module
    session.set(steer(positions))
    with session.applied() as receipts:
        model(torch.tensor([[5, 9, 12, 30, 31, 4, 9, 8]]))  # a longer call before it leaves nothing behind
        got = model.forward(IDS).logits[0]
        trunk = model.lm_head(model.base_model(IDS).last_hidden_state)[0]
    assert close(got, right(session, positions))
    assert close(trunk, right(session, positions))
    assert receipts[0].state == "acted"


def test_a_trunk_with_padding_refuses_numbers_and_edits_everywhere(session: iw.Session) -> None:
    model: Any = session.model.module
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    session.set(steer([1]))
    with session.applied(), pytest.raises(InterventionError, match="call the model itself"):
        model.forward(IDS, attention_mask=mask)
    session.set(steer("all"))
    with session.applied() as receipts:
        model.forward(IDS, attention_mask=mask)
    assert receipts[0].state == "acted"


def test_a_cut_edge_is_cut_in_forward_too_and_refused_after_a_cache_from_outside(session: iw.Session) -> None:
    model: Any = session.model.module
    past = model(IDS[:, :3], use_cache=True).past_key_values
    session.set(iw.Ablate("L1H0", mode="edge", edge=(3, 1)))
    with session.applied():
        got = model.forward(IDS).logits[0]
        with pytest.raises(InterventionError, match="cache was filled outside"):
            model(IDS[:, 3:], past_key_values=past)
    assert close(got, session.model.run(IDS[0].tolist(), session.interventions).logits)


def test_an_edit_of_the_embedding_in_forward_is_exact_everywhere_and_refused_by_position(session: iw.Session) -> None:
    model: Any = session.model.module
    for positions in ("all", [1]):
        session.set(iw.Steer("embed", V, 2.0, positions=positions))
        want = session.model.run(IDS[0].tolist(), session.interventions).logits
        with session.applied():
            assert close(model(IDS).logits[0], want)
            if positions == "all":
                assert close(model.forward(IDS).logits[0], want)
            else:
                with pytest.raises(InterventionError, match="call the model itself"):
                    model.forward(IDS)


def test_a_part_called_on_another_number_of_positions_is_refused(session: iw.Session) -> None:
    model: Any = session.model.module
    session.set(iw.Steer("L1.mlp", V, 2.0, positions=[1]))
    mlp = session.model.anatomy.layers[1].mlp
    assert mlp is not None
    with session.applied():
        model(IDS)
        with pytest.raises(InterventionError, match="4 positions"):
            mlp.module(torch.randn(1, 4, 32))


# ---- a prompt in several calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", RULES)
def test_a_prompt_in_two_calls_is_edited_as_in_one(session: iw.Session, positions: Any) -> None:
    model: Any = session.model.module
    session.set(steer(positions))
    with session.applied() as receipts:
        first = model(IDS[:, :3], use_cache=True)
        second = model(IDS[:, 3:], past_key_values=first.past_key_values)
    got = torch.cat([first.logits, second.logits], 1)[0]
    assert close(got, right(session, positions))
    assert receipts[0].positions == session.model.run(IDS[0].tolist(), [steer(positions)]).receipts[0].positions


@pytest.mark.parametrize("positions", [-1, "prompt[-1]", iw.tokens("w12w5")])
def test_a_rule_that_depends_on_where_the_prompt_ends_refuses_a_prompt_in_two_calls(
    session: iw.Session, positions: Any
) -> None:
    model: Any = session.model.module
    session.set(steer(positions))
    with session.applied(), pytest.raises(InterventionError, match="several calls"):
        model(IDS[:, 3:], past_key_values=model(IDS[:, :3], use_cache=True).past_key_values)


def generated(session: iw.Session, positions: Any, **how: Any) -> tuple[list[int], iw.Receipt]:
    model: Any = session.model.module
    session.set(steer(positions))
    with session.applied() as receipts:
        ids = model.generate(
            IDS, max_new_tokens=8, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(IDS), **how
        )
    return ids[0, IDS.shape[1] :].tolist(), receipts[0]


@pytest.mark.parametrize("chunk", [2, 5])
@pytest.mark.parametrize("positions", ["prompt", "content", "generated", "all", "gen[:3]"])
def test_generate_that_feeds_the_prompt_in_chunks_gives_the_same_text(
    session: iw.Session, positions: Any, chunk: int
) -> None:
    text, receipt = generated(session, positions, prefill_chunk_size=chunk)
    want, whole = generated(session, positions)
    assert (text, receipt.positions) == (want, whole.positions)
    assert text == [t.id for t in session.model.generate(IDS[0].tolist(), session.interventions, 8, ignore_eos=True)]


# ---- drafts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["prompt", "generated", "gen[:3]", -1, "content", iw.tokens("w30")])
def test_generate_with_a_prompt_lookup_or_an_assistant_gives_the_same_text(session: iw.Session, positions: Any) -> None:
    want, _ = generated(session, positions)
    lookup, _ = generated(session, positions, prompt_lookup_num_tokens=3)
    assert lookup == want
    helper = copy.deepcopy(session.model.module)
    for module in helper.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    assisted, _ = generated(session, positions, assistant_model=helper)
    assert assisted == want


@pytest.mark.parametrize("positions", ["prompt", "generated", "gen[:3]", -1])
def test_generate_without_a_cache_knows_where_the_prompt_ends(session: iw.Session, positions: Any) -> None:
    assert generated(session, positions, use_cache=False)[0] == generated(session, positions)[0]


# ---- guidance ----------------------------------------------------------------------------------------------------


def guided(session: iw.Session, negative: list[int], scale: float) -> list[int]:
    """Guidance as it is defined, over two texts that are each edited as a text of its own."""
    live, text = session.model, list[int]()
    both = [Decoder(live, [line_of(live, ids, session.interventions)], False) for ids in (IDS[0].tolist(), negative)]
    for _ in range(6):
        one, other = (decoder.step()[0].log_softmax(-1) for decoder in both)
        text.append(int((scale * (one - other) + other).argmax()))
        for decoder in both:
            decoder.append([live.tokens.token(text[-1])])
    return text


@pytest.mark.parametrize("negative", [[3, 4], [3, 4, 8, 9, 20, 21, 22, 5, 30]], ids=["shorter", "longer"])
@pytest.mark.parametrize("positions", ["prompt", "generated", -1, "gen[:2]", "content", iw.tokens("w5")])
def test_guidance_by_a_negative_prompt_is_edited_at_the_positions_of_either_text(
    session: iw.Session, positions: Any, negative: list[int]
) -> None:
    how: dict[str, Any] = {"guidance_scale": 2.5, "negative_prompt_ids": torch.tensor([negative])}
    model: Any = session.model.module
    session.set(steer(positions))
    with session.applied():
        found = model.generate(
            IDS, max_new_tokens=6, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(IDS), **how
        )
    assert found[0, IDS.shape[1] :].tolist() == guided(session, negative, 2.5)
    with session.applied(), pytest.raises(InterventionError, match="negative prompt"):
        model.generate(IDS, max_new_tokens=2, do_sample=False, pad_token_id=0, use_cache=False, **how)


# ---- caches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [[1], "content", "prompt", iw.tokens("w30")])
def test_a_cache_from_outside_the_block_is_refused_by_what_goes_by_position(
    session: iw.Session, positions: Any
) -> None:
    model: Any = session.model.module
    past = model(IDS[:, :3], use_cache=True).past_key_values
    session.set(steer(positions))
    with session.applied():
        model(torch.tensor([[9, 9, 9]]))
        with pytest.raises(InterventionError, match="cache was filled outside"):
            model(IDS[:, 3:], past_key_values=past)


def test_a_cache_from_outside_the_block_is_edited_everywhere(session: iw.Session) -> None:
    model: Any = session.model.module
    past = model(IDS[:, :3], use_cache=True).past_key_values
    session.set(steer("all"))
    with session.applied() as receipts:
        model(IDS[:, 3:], past_key_values=past)
    assert (receipts[0].state, receipts[0].positions) == ("acted", 3)


def test_two_texts_go_on_each_with_the_rows_of_its_own_cache(session: iw.Session) -> None:
    model: Any = session.model.module
    session.set(steer(iw.tokens("w5 w30".replace(" ", ""))))
    other = torch.tensor([[9, 9, 9, 8]])
    with session.applied():
        one = model(IDS[:, :4], use_cache=True)
        two = model(other, use_cache=True)
        got = model(IDS[:, 4:5], past_key_values=one.past_key_values).logits[0, -1]
        plain = model(IDS[:, 4:5], past_key_values=two.past_key_values).logits[0, -1]
    assert not close(got, model(IDS[:, :5]).logits[0, -1])  # "w5w30" is spelled in the first text alone
    assert close(plain, model(torch.cat([other, IDS[:, 4:5]], 1)).logits[0, -1])


def test_a_copied_prefix_cache_and_a_cropped_one_keep_their_tokens(session: iw.Session) -> None:
    model: Any = session.model.module
    session.set(steer([1, 2]))
    prefix = DynamicCache(config=model.config)
    with session.applied():
        model(IDS[:, :3], past_key_values=prefix)
        for _ in range(2):
            got = model(IDS[:, 3:], past_key_values=copy.deepcopy(prefix)).logits[0]
            assert close(got, right(session, [1, 2])[3:])
        model(torch.tensor([[8, 8]]), past_key_values=prefix)
        prefix.crop(-2)
        assert close(model(IDS[:, 3:], past_key_values=prefix).logits[0], right(session, [1, 2])[3:])


CHANGES: dict[str, tuple[Any, list[int]]] = {
    "as it was": (lambda _cache: None, [0, 1, 2]),
    "reordered": (lambda cache: cache.reorder_cache(torch.tensor([1, 2, 1])), [1, 2, 1]),
    "repeated": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    "chosen from": (lambda cache: cache.batch_select_indices(torch.tensor([2, 1])), [2, 1]),
}


# A static cache has no call that repeats rows or chooses from them.
@pytest.mark.parametrize(
    ("change", "static"), [*((c, False) for c in CHANGES), ("as it was", True), ("reordered", True)]
)
def test_rows_of_a_cache_that_change_places_take_their_text_along(
    session: iw.Session, change: str, static: bool
) -> None:
    model: Any = session.model.module
    rows = torch.tensor([[3, 4, 5, 12], [5, 9, 12, 5], [8, 9, 12, 4]])
    act, order = CHANGES[change]
    cache = StaticCache(config=model.config, max_cache_len=12) if static else DynamicCache(config=model.config)
    session.set(steer(iw.tokens("w5w30")))
    with session.applied() as receipts:
        model(rows, past_key_values=cache)
        act(cache)
        got = model(torch.full((len(order), 1), 30), past_key_values=cache).logits[:, -1]
    whole = torch.cat([rows[order], torch.full((len(order), 1), 30)], 1)
    edited = torch.tensor([r == 1 for r in order])[:, None]  # its text alone ends in "w5"
    assert close(
        got, torch.where(edited, right(session, [4], whole[order.index(1)][None])[-1], model(whole).logits[:, -1])
    )
    assert receipts[0].positions == order.count(1)


def test_a_cache_whose_rows_are_no_longer_known_is_refused_by_what_goes_by_text(session: iw.Session) -> None:
    model: Any = session.model.module
    session.set(steer(iw.tokens("w5w30")))
    with session.applied():
        past = model(IDS.repeat(2, 1), use_cache=True).past_key_values
        past.layers[-1].keys = past.layers[-1].keys + 1.0
        with pytest.raises(InterventionError, match="its tokens are not known"):
            model(torch.tensor([[30], [30]]), past_key_values=past)


def search_by_beams(session: iw.Session, rows: torch.Tensor, cache: str) -> None:
    """A beam search that is edited by what each beam has just said is the same with a cache as without."""
    model: Any = session.model.module

    def beams(**how: Any) -> Any:
        return model.generate(
            rows, attention_mask=(rows != 0).long(), num_beams=4, num_return_sequences=4, max_new_tokens=8, do_sample=False,
            pad_token_id=0, eos_token_id=59, return_dict_in_generate=True, output_scores=True, **how,
        )  # fmt: skip

    found = beams(cache_implementation=cache)
    pairs = {(int(a), int(b)) for row in found.sequences for a, b in itertools.pairwise(row[6:])}
    moved = 0
    for one, two in sorted(pairs)[:8]:
        session.set(iw.Steer("L0", V, 3.0, positions=iw.tokens(f"w{one}w{two}")))
        with session.applied():
            got = beams(cache_implementation=cache)
        with session.applied():
            want = beams(use_cache=False)
        assert torch.equal(got.sequences, want.sequences)
        assert torch.allclose(got.sequences_scores, want.sequences_scores, atol=1e-4)
        moved += not torch.allclose(got.sequences_scores, found.sequences_scores, atol=1e-4)
    assert moved > 0, "no beam is edited: the test shows nothing"


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_beam_search_edits_each_beam_by_its_own_text(session: iw.Session, cache: str) -> None:
    search_by_beams(session, torch.tensor([[5, 9, 12, 5, 30, 7], [0, 0, 9, 20, 21, 22]]), cache)


RECURRENT = MambaConfig(vocab_size=tiny_models.VOCAB, hidden_size=32, num_hidden_layers=3, state_size=8)
SLIDING = Gemma3TextConfig(
    vocab_size=tiny_models.VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, max_position_embeddings=64, sliding_window=4, layer_types=["full_attention", *["sliding_attention"] * 2],
)  # fmt: skip


@pytest.mark.parametrize("config", [RECURRENT, SLIDING], ids=["recurrent", "sliding"])
def test_a_beam_search_knows_beams_by_whatever_a_cache_holds(config: Any) -> None:
    session = iw.open(tiny_models.shaken(config), tiny_models.tokenizer())
    search_by_beams(session, torch.tensor([[5, 9, 12, 5, 30, 7], [7, 3, 9, 20, 21, 22]]), "dynamic")
    session.close()


# ---- masks and embeddings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "column"), [(iw.tokens("w30"), 4), (-1, 5), ([2], 3)])
def test_a_mask_with_a_hole_leaves_every_token_in_its_column(session: iw.Session, positions: Any, column: int) -> None:
    model: Any = session.model.module
    mask, seen = torch.tensor([[1, 1, 0, 1, 1, 1]]), []

    def look(_module: Any, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = session.model.anatomy.layers[1].module.register_forward_pre_hook(look, with_kwargs=True)
    session.set(steer(positions))
    try:
        model(IDS, attention_mask=mask)
        with session.applied():
            model(IDS, attention_mask=mask)
    finally:
        handle.remove()
    moved = (seen[-1] - seen[0])[0].norm(dim=-1)
    assert moved.nonzero().flatten().tolist() == [column]


def test_generate_after_padding_on_the_right_is_edited_at_its_generated_tokens(session: iw.Session) -> None:
    model: Any = session.model.module
    session.set(steer("generated"))
    with session.applied() as receipts:
        mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
        past = model(IDS, attention_mask=mask, use_cache=True).past_key_values
        model(IDS[:, :1], attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0, 1]]), past_key_values=past)
    assert receipts[0].positions == 1


def test_values_by_position_refuse_a_mask_with_a_hole(session: iw.Session) -> None:
    model: Any = session.model.module
    session.ask(IDS[0].tolist(), target="w11")
    session.set(iw.Patch("L0", session.model.run(IDS[0].tolist(), read=["L0"]), positions="all"))
    with session.applied(), pytest.raises(InterventionError, match="hides tokens"):
        model(IDS, attention_mask=torch.tensor([[1, 1, 0, 1, 1, 1]]))


def test_a_cut_edge_refuses_padding_that_its_source_would_be_counted_from(session: iw.Session) -> None:
    model: Any = session.model.module
    session.set(iw.Ablate("L1H0", mode="edge", edge=(3, 1)))
    with session.applied(), pytest.raises(InterventionError, match="counted from the first column"):
        model(IDS, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1]]))
    with session.applied() as receipts:
        model(IDS)
    assert receipts[0].state == "acted"


def test_tokens_given_as_embeddings_are_not_special_and_are_steered(session: iw.Session) -> None:
    model: Any = session.model.module
    embeds = model.get_input_embeddings()(IDS)
    session.set(steer("content"))
    with session.applied() as receipts:
        got = model(inputs_embeds=embeds).logits[0]
    assert (receipts[0].state, receipts[0].positions) == ("acted", 5)
    assert close(got, right(session, "content"))
    session.set(steer(iw.tokens("w30")))
    with session.applied(), pytest.raises(InterventionError, match="inputs_embeds"):
        model(inputs_embeds=embeds)


# ---- calls that are refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", [False, True])
def test_gradient_checkpointing_in_training_is_refused_before_the_gradients_are_wrong(forward: bool) -> None:
    model = tiny_models.llama(attention_dropout=0.0)
    session = iw.open(model, tiny_models.tokenizer())
    session.set(steer("all"))
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    model.train()
    with session.applied():
        with torch.enable_grad(), pytest.raises(FeatureOffError, match="Gradient checkpointing"):
            (model.forward if forward else model)(IDS)
        model(IDS)  # nothing is computed again where no gradient is asked for
    session.close()


def test_a_transform_of_torch_func_is_refused_in_a_sentence(session: iw.Session) -> None:
    model: Any = session.model.module
    embeds = model.get_input_embeddings()(IDS)
    session.set(steer("all"))
    with session.applied():
        with pytest.raises(FeatureOffError, match=r"torch\.func"):
            torch.func.vmap(lambda e: model(inputs_embeds=e).logits)(embeds[None])
        with pytest.raises(FeatureOffError, match=r"torch\.func"):
            torch.func.grad(lambda e: model(inputs_embeds=e, use_cache=False).logits.sum())(embeds)
