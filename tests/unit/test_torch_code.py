"""`session.to_code("torch")`: what is printed is executed on the same model and must give the session's own number."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any, get_args

import pytest
import torch

import interp_widgets as iw
from interp_widgets.model.errors import InterventionError, PromptError
from interp_widgets.model.interventions import AblateMode, SteerMode
from interp_widgets.model.live import LiveModel
from interp_widgets.model.sites import Site
from tests import architectures
from tests.unit.tiny_models import gpt2, llama, tokenizer

PROMPT = "w3 w4 w5 w6 w7 w8"
OTHER = "w23 w24 w25 w26 w27 w28"
REFERENCE = ["w11 w12 w13 w14", "w15 w16 w17"]
BY_POSITION = iw.Reference("lined up", (OTHER, "w13 w14 w15 w16 w17 w18"), by_position=True)
# scales, sandwich norms, parallel blocks, norms behind the addition, rows and positions in one dimension, keywords, tuples
FAMILIES = [
    "opt",
    "llama4_text",
    "bart",
    "bert",
    "granite",
    "falcon",
    "gemma2",
    "cohere",
    "mixtral",
    "gptj",
    "bloom",
    "openai-gpt",
    "xlstm",
]
RULES: list[Any] = ["all", "content", -1, [0, 2], slice(1, 5, 2), "prompt[-2]", "prompt[:2]", iw.tokens("w5")]


def made(name: str) -> Any:
    if name in ("gpt2", "llama"):
        return {"gpt2": gpt2, "llama": llama}[name]()
    model = architectures.build(name).model
    assert model is not None
    return model


@contextmanager
def opened(model: Any, prompt: Any = PROMPT, *target: Any, **how: Any) -> Generator[iw.Session]:
    session = iw.open(model, tokenizer(model.get_input_embeddings().num_embeddings))
    session.ask(prompt, *(target or (() if isinstance(prompt, list) else ("w9", "w10"))), **how)
    try:
        yield session
    finally:
        session.close()


def executed(session: iw.Session) -> float:
    """The number that the printed code gives."""
    code = session.to_code("torch")
    scope: dict[str, Any] = {"model": session.model.module}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, scope)
    assert said.getvalue() == f"{scope['metric']}\n"
    return scope["metric"]


def same(session: iw.Session, *what: Any, within: float = 1e-4) -> float:
    """Hold the printed code to the session's number; how far that is from the plain one."""
    session.set(*what)
    answer = session.answer
    assert executed(session) == pytest.approx(answer.metric, abs=within), [one.label for one in what]
    return abs(answer.metric - answer.plain_metric)


def sites_of(live: LiveModel) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every kind of site that the model has, in every layer, with the shape of what stands there at one position."""
    wide = (live.anatomy.d_model,)
    yield "embed", wide
    for layer in live.anatomy.layers:
        here, attention, mlp = f"L{layer.index}", layer.attention, layer.mlp
        yield here, wide
        yield f"{here}.pre", wide
        yield from ((f"{here}.other.{i}", wide) for i in range(len(layer.others)))
        if attention is not None:
            yield f"{here}.heads", (attention.n_heads, attention.d_head)
            yield f"{here}H1", (attention.d_head,)
            if attention.write is not None:
                yield f"{here}.attn", wide
            if attention.write is not None and layer.middle is not None:
                yield f"{here}.mid", wide
        if mlp is not None:
            if not layer.post_norm:  # there what is found as the MLP is its second half, which reads neurons
                yield f"{here}.mlp.in", wide
            if mlp.write is not None:
                yield f"{here}.mlp", wide
            if mlp.neurons is not None:
                yield f"{here}.neurons", (mlp.d_neurons,)
                yield f"{here}.mlp.5", (1,)


def random(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def steering(site: str, shape: tuple[int, ...], rules: Iterator[Any]) -> Iterator[iw.Steer]:
    for mode in get_args(SteerMode):
        yield iw.Steer(site, random(*shape), 1.7, mode, positions=next(rules), origin=2.0)


def replacing(site: str, shape: tuple[int, ...], rules: Iterator[Any]) -> Iterator[iw.Ablate | iw.Patch]:
    yield iw.Patch(site, OTHER, positions=next(rules))
    yield iw.Patch(site, random(*shape), positions=next(rules))
    yield iw.Patch(site, random(6, *([] if shape == (1,) else shape)), positions=next(rules))
    if Site.parse(site).part not in ("resid_pre", "resid_mid", "resid_post", "mlp_in", "other"):
        yield iw.Ablate(site, "zero", positions=next(rules))
        yield iw.Ablate(site, "mean", REFERENCE, positions=next(rules))
        yield iw.Ablate(site, "mean", BY_POSITION, positions=next(rules))
        yield iw.Ablate(site, "resample", OTHER, positions=next(rules))


@pytest.mark.parametrize("name", ["gpt2", "llama", *FAMILIES])
@pytest.mark.parametrize("kind", [steering, replacing])
def test_every_intervention_at_every_site_is_the_sessions_number(name: str, kind: Callable[..., Any]) -> None:
    rules = cycle(RULES)
    with opened(made(name)) as session:
        moved = [same(session, one) for site, shape in sites_of(session.model) for one in kind(site, shape, rules)]
    assert sum(by > 1e-3 for by in moved) > len(moved) / 3


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("rule", [*RULES, "prompt", "generated", [-1, -2], "w20"])
def test_every_rule_of_positions_is_the_sessions_number(name: str, rule: Any) -> None:
    where = iw.tokens(rule) if rule == "w20" else rule
    with opened(made(name)) as session:
        width = session.model.anatomy.d_model
        same(session, iw.Steer("L0", random(width), 3.0, positions=where), iw.Ablate("L1.mlp", "zero", positions=where))


def test_a_clamp_counts_from_its_origin_and_acts_at_strength_0() -> None:
    with opened(gpt2()) as session:
        numbers = []
        for strength, origin in ((1.0, 0.0), (1.0, 3.0), (0.0, 3.0), (0.0, 0.0), (-2.0, -1.5)):
            assert same(session, iw.Steer("L1", random(32), strength, "clamp", "all", origin=origin)) > 1e-2
            numbers.append(round(session.answer.metric, 4))
        assert len(set(numbers)) == 5


def test_a_vector_of_the_session_brings_its_origin_into_the_code() -> None:
    with opened(gpt2()) as session:
        vector = iw.steering_vector(session, ["w3 w4", "w5 w6"], ["w7 w8", "w9 w10"], "L1", name="push")
        assert vector.origin
        session.add_vector(vector)
        for strength in (0.0, 0.8):
            session.steer_settings("push", mode="clamp", positions="all")
            session.strength("push", strength)
            assert executed(session) == pytest.approx(session.answer.metric, abs=1e-4)
            assert abs(session.answer.metric - session.answer.plain_metric) > 1e-3


@pytest.mark.parametrize("mode", get_args(SteerMode))
@pytest.mark.parametrize("site", ["L1", "L1.heads", "L1H2", "L1.neurons", "L1.mlp.5"])
def test_a_zero_vector_leaves_what_the_session_leaves(site: str, mode: SteerMode) -> None:
    with opened(gpt2()) as session:
        shape = dict(sites_of(session.model)).get(site, (8,))
        assert same(session, iw.Steer(site, torch.zeros(shape), 2.0, mode, "all")) < 1e-5


def test_the_norm_of_all_heads_is_kept_jointly_and_not_of_each() -> None:
    model, push = gpt2(), 2 * random(4, 8)
    module = model.transformer.h[1].attn.c_proj

    def jointly(_module: Any, args: Any) -> Any:
        moved = args[0] + push.flatten()
        return (moved * (args[0].norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)),)

    with opened(model) as session:
        same(session, iw.Steer("L1.heads", push / 2, 2.0, "keep_norm", "all"))
        assert executed(session) == pytest.approx(by_hand(model, {module: jointly}, {}), abs=1e-4)


def by_hand(model: Any, before: dict[Any, Any], after: dict[Any, Any]) -> float:
    """The metric under hooks of the test's own."""
    handles = [module.register_forward_pre_hook(hook) for module, hook in before.items()]
    handles += [module.register_forward_hook(hook) for module, hook in after.items()]
    try:
        with torch.no_grad():
            logits = model(torch.tensor([[3, 4, 5, 6, 7, 8]])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return float(logits[9] - logits[10])


@pytest.mark.parametrize("first", [True, False])
def test_the_middle_of_a_block_comes_after_what_enters_it_and_what_attention_writes(first: bool) -> None:
    model, pushes = gpt2(), [random(32, seed=seed) for seed in range(3)]
    block = model.transformer.h[1]
    entered: list[torch.Tensor] = []

    def enter(_module: Any, args: Any) -> Any:
        entered[:] = [args[0] + pushes[0]]
        return (entered[0], *args[1:])

    def middle(_module: Any, _args: Any, out: Any) -> Any:
        mid = (entered[0] + 0 * out[0]) * 1.0  # attention is off
        along = mid @ pushes[1] / pushes[1].square().sum()
        return (mid - along[..., None] * pushes[1] - entered[0], *out[1:])

    listed = [
        iw.Steer("L1.mid", pushes[1], 1.0, "project_out", "all"),
        iw.Ablate("L1.attn", "zero"),
        iw.Steer("L1.pre", pushes[0], 1.0, positions="all"),
    ]
    with opened(model) as session:
        session.set(*(listed if first else reversed(listed)))
        known = by_hand(model, {block: enter}, {block.attn: middle})
        assert executed(session) == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "granite", "opt", "gemma2"])
def test_edits_of_one_block_in_any_order_are_those_of_the_forwards_order(name: str) -> None:
    with opened(made(name)) as session:
        width = session.model.anatomy.d_model
        by_place = [
            iw.Steer("L1.pre", random(width, seed=1), 2.0, positions="all"),
            iw.Ablate("L1H1", "zero"),
            iw.Steer("L1.attn", random(width, seed=2), 1.0, "keep_norm", "all"),
            iw.Steer("L1.mid", random(width, seed=3), 1.0, "project_out", "all"),
            iw.Steer("L1.mid", random(width, seed=4), 3.0, "clamp", "all"),
            iw.Steer("L1.mlp", random(width, seed=5), 1.0, "clamp", "all"),
        ]
        session.set(*by_place)
        known = executed(session)
        for order in ([3, 0, 1, 4, 2, 5], [5, 3, 2, 4, 1, 0], [2, 3, 4, 5, 0, 1]):
            session.set(*(by_place[i] for i in order))
            assert executed(session) == pytest.approx(known, abs=1e-4)
        session.set(*(by_place[i] for i in (0, 1, 2, 4, 3, 5)))  # at one site the list decides
        assert abs(executed(session) - known) > 1e-3


@pytest.mark.parametrize("site", ["L1", "L1.heads", "L0.mlp", "L1.neurons", "embed", "L1.mid"])
def test_at_one_site_the_later_sees_what_the_earlier_left(site: str) -> None:
    with opened(llama()) as session:
        shape = dict(sites_of(session.model))[site]
        one = iw.Steer(site, 3 * random(*shape, seed=1), 2.0, positions="all")
        two = iw.Steer(site, random(*shape, seed=2), 1.0, "keep_norm", [1, -1])
        same(session, one, two)
        first = session.answer.metric
        same(session, two, one)
        assert abs(session.answer.metric - first) > 1e-3


def test_a_stream_that_has_two_names_is_edited_in_the_lists_order() -> None:
    with opened(gpt2()) as session:
        after, before = iw.Steer("L0", random(32), 1.0, "clamp", "all"), iw.Patch("L1.pre", OTHER)
        same(session, before, after)
        first = session.answer.metric
        same(session, after, before)
        assert abs(session.answer.metric - first) > 1e-3


# ---- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_a_prompt_set_is_the_mean_over_all_of_its_prompts(name: str) -> None:
    examples = [
        iw.Example(PROMPT, "w9", "w10"),
        iw.Example("w3 w5", ["w9", "w11"], "w10"),
        iw.Example("w8 w9 w5 w5", "w12"),
    ]
    with opened(made(name), examples) as session:
        width = session.model.anatomy.d_model
        plain = same(session)
        assert plain == 0
        assert same(session, iw.Ablate("L1H2", "zero")) > 1e-3
        assert same(session, iw.Ablate("L0.mlp"), iw.Steer("L0", random(width), 2.0)) > 1e-3
        assert same(session, iw.Ablate("L1.attn", "zero", positions=iw.tokens("w5"))) > 1e-3
        assert same(session, iw.Steer("L1", random(width), 2.0, "clamp", -1), iw.Ablate("L0.mlp.3", "mean")) > 1e-3
        assert len(session.answer.values) == 3


def test_each_prompt_of_a_set_is_resampled_from_its_own_corrupt_prompt() -> None:
    examples = [
        iw.Example(PROMPT, "w9", "w10", OTHER),
        iw.Example("w3 w4 w5", "w9", "w10", "w21 w22 w23"),
        iw.Example("w13 w14 w15", "w9", "w10", "w31 w32 w33"),
    ]
    with opened(gpt2(), examples) as session:
        for site in ("L1H2", "L0.heads", "L1.mlp", "L2.mlp.5", "embed"):
            assert same(session, iw.Ablate(site, "resample")) > 1e-4
            assert same(session, iw.Ablate(site, "mean", positions=-1)) > 1e-4


def test_a_part_that_is_resampled_or_averaged_takes_the_questions_own_reference() -> None:
    with opened(gpt2(), PROMPT, "w9", "w10", corrupt=OTHER) as session:
        assert same(session, iw.Ablate("L1.mlp.5", "resample"), iw.Ablate("L1H1")) > 1e-3
    with opened(gpt2()) as session:
        session.reference = REFERENCE
        assert same(session, iw.Ablate("L1H1"), iw.Ablate("L0.mlp")) > 1e-3


@pytest.mark.parametrize("position", [-1, 0, 3])
@pytest.mark.parametrize("bos", [None, True])
def test_the_answer_is_read_where_and_for_what_it_was_asked(position: int, bos: bool | None) -> None:
    for target, foil in (("w9", "w10"), (["w9", "w11"], ["w10", "w12", "w13"]), ("w9", None), (None, None)):
        with opened(llama(), PROMPT, target, foil, position=position, bos=bos) as session:
            same(session)
            same(session, iw.Steer("L0", random(32), 2.0), iw.Ablate("L1H1", "zero", positions=[0, -1]))


def test_a_prompt_of_one_token_and_a_prompt_of_ids_are_written_too() -> None:
    for prompt in ("w5", [5, 6, 7]):
        with opened(gpt2(), prompt, "w9", "w10") as session:
            assert same(session, iw.Ablate("L0H1", "zero"), iw.Ablate("L1.mlp.3", "mean", REFERENCE)) > 1e-4


# ---- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_in_any_precision_the_number_is_the_sessions(name: str, dtype: torch.dtype) -> None:
    with opened(made(name).to(dtype)) as session:
        width = session.model.anatomy.d_model
        assert same(session) == 0
        for mode in get_args(SteerMode):
            assert same(session, iw.Steer("L0", random(width), 2.0, mode, "all", origin=1.0)) > 1e-3
        assert (
            same(session, iw.Ablate("L1.heads", "mean", REFERENCE), iw.Patch("L0.mlp", OTHER, positions=[2, 5])) > 1e-3
        )


def test_a_hook_of_the_users_own_sees_what_the_session_left() -> None:
    model = gpt2()
    model.transformer.h[1].attn.register_forward_hook(lambda _m, _a, out: (2 * out[0].clamp_min(0), *out[1:]))
    model.transformer.h[1].mlp.c_proj.register_forward_pre_hook(lambda _m, args: (args[0].square(),))
    with opened(model) as session:
        pushes = [iw.Steer("L1.attn", random(32), 2.0, mode, "all") for mode in ("clamp", "add")]
        before = model.transformer.h[1].attn._forward_hooks.copy()
        assert same(session, *pushes, iw.Steer("L1.neurons", random(128), 1.0, positions="all")) > 1e-3
        assert same(session, *pushes[::-1], iw.Steer("L1.mid", random(32), 1.0, "clamp", "all")) > 1e-3
        assert model.transformer.h[1].attn._forward_hooks == before


def test_a_compiled_model_is_run_eagerly_as_in_the_session() -> None:
    compiled: Any = torch.compile(gpt2(), backend="eager")
    compiled(torch.tensor([[2, 3, 4]]))
    with opened(compiled) as session:
        assert same(session, iw.Ablate("L1H2", "zero"), iw.Steer("L1", random(32), 2.0)) > 1e-3
    model = gpt2()
    model.compile(backend="eager")
    with opened(model) as session:
        assert same(session, iw.Ablate("L1H2", "zero"), iw.Steer("L1", random(32), 2.0)) > 1e-3


# ---- the text ---------------------------------------------------------------------------------------------------------


def test_what_changes_nothing_is_said_and_hooks_nothing() -> None:
    with opened(gpt2()) as session:
        same(session, iw.Steer("L1", random(32), 0.0, "keep_norm"), iw.Ablate("L0H1", "zero", positions="generated"))
        code = session.to_code("torch")
    assert "strength 0 changes nothing" in code
    assert "there is no such position" in code
    assert "handles = []" in code
    assert "register" not in code and "base64" not in code


def test_the_text_is_plain_torch_and_says_no_more_than_it_needs() -> None:
    with opened(gpt2()) as session:
        session.set(iw.Ablate("L1H2", "zero", positions=[1, 4]))
        code = session.to_code("torch")
    assert "interp" not in code and "numpy" not in code
    assert "new[at_0, 16:24] = 0.0" in code
    assert len(code.splitlines()) < 60


@pytest.mark.parametrize("name", ["two\nlines", "a\rb", "nul\0", "half \ud800", "\u2028 ''' \"\"\""])
def test_a_vectors_name_stays_in_its_comment(name: str) -> None:
    with opened(gpt2()) as session:
        assert same(session, iw.Steer("L1", random(32), 2.0, name=name, positions="all")) > 1e-3


def test_hooks_are_taken_off_also_when_the_forward_fails() -> None:
    model = gpt2()
    with opened(model) as session:
        session.set(iw.Ablate("L1H2", "zero"), iw.Steer("L1.mid", random(32), 2.0))
        code = session.to_code("torch")
    model.transformer.ln_f.register_forward_pre_hook(lambda _m, _a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exec(code, {"model": model})
    left = [hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert len(left) == 1


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (iw.Ablate("L1H2", "edge", edge=(4, 2)), "see no attention weights"),
        (iw.Ablate("L1.pattern", "zero"), "see no attention weights"),
        (iw.Patch("L1H1.pattern", OTHER), "see no attention weights"),
        (iw.Edit("L1", lambda x: 2 * x, "double"), "only you have its code"),
    ],
)
def test_what_hooks_cannot_express_is_refused_by_name(what: Any, why: str) -> None:
    with opened(gpt2()) as session:
        session.set(what)
        with pytest.raises(InterventionError, match=f"{what.label[:8]}.*{why}"):
            session.to_code("torch")


def test_a_question_that_cannot_be_written_is_refused() -> None:
    session = iw.open(gpt2(), tokenizer())
    with pytest.raises(PromptError, match="no question"):
        session.to_code("torch")
    session.ask(PROMPT, "w9", metric=lambda logits: float(logits[3]))
    with pytest.raises(InterventionError, match="metric of your own"):
        session.to_code("torch")
    session.close()


def test_a_mode_or_a_position_that_the_session_refuses_is_refused_alike() -> None:
    assert set(get_args(AblateMode)) == {"mean", "zero", "resample", "edge"}
    with opened(gpt2()) as session:
        for what in (iw.Ablate("L1H2", "zero", positions=[9]), iw.Ablate("L1H2", "resample", "w3 w4")):
            session.set(what)
            with pytest.raises(InterventionError) as asked:
                _ = session.answer
            with pytest.raises(InterventionError) as written:
                session.to_code("torch")
            assert str(written.value) == str(asked.value)
