"""What ships opens as stock transformers, says what exists, and names what is missing or damaged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import interp_widgets as iw
from interp_widgets.builtin import load as shipped
from interp_widgets.builtin.prompts import prompts
from interp_widgets.model.errors import ModelRefusedError


def test_the_folder_opens_with_plain_transformers_and_gives_the_same_logits() -> None:
    model, tokenizer = shipped.load()
    folder = str(shipped.HERE / "embedded")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("When Mary and John went", return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tokenizer("When Mary and John went", return_tensors="pt")["input_ids"])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain.eval()(ids).logits)


def test_models_open_in_single_precision_and_evaluation_mode() -> None:
    model, _ = shipped.load()
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_tour_prompt_is_answered_with_mary_over_john() -> None:
    model, tokenizer = shipped.load()
    question = prompts()["indirect object"]
    with torch.no_grad():
        logits = model(**tokenizer(question.prompt, return_tensors="pt")).logits[0, -1]
    mary, john = (tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in (question.target, question.foil))
    assert int(logits.argmax()) == mary
    assert logits[mary] - logits[john] > 3


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(ModelRefusedError, match=r"no shipped model 'embedded:nothing'.*'embedded'"):
        shipped.load("embedded:nothing")


def test_an_unknown_step_lists_the_steps() -> None:
    with pytest.raises(ModelRefusedError, match="no checkpoint '17'"):
        shipped.load("embedded@17")


NAMES = [name for model in shipped.names() for name in (model, *shipped.checkpoints(model))]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_model_and_checkpoint_opens_as_a_session_with_nothing_switched_off(name: str) -> None:
    asked = next(q for q in prompts().values() if q.model == name.partition("@")[0])
    session = iw.open(name)
    session.ask(asked.prompt, target=asked.target, foil=asked.foil)
    assert math.isfinite(session.answer.metric)
    assert session.model.report.off == {}
    session.close()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped folder of the default model, copied, so that it can be damaged."""
    for name, data in [
        (p.relative_to(shipped.HERE), p.read_bytes()) for p in shipped.HERE.glob("embedded/*") if p.is_file()
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named_with_how_to_reinstall(copied: Path, name: str) -> None:
    (copied / "embedded" / name).unlink()
    with pytest.raises(ModelRefusedError, match=rf"{name} is missing; reinstall .*pip install"):
        shipped.load()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_one_changed_byte_is_noticed_before_anything_opens(copied: Path, name: str) -> None:
    data = bytearray((copied / "embedded" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / "embedded" / name).write_bytes(bytes(data))
    with pytest.raises(ModelRefusedError, match=rf"{name} is damaged .*reinstall"):
        shipped.load()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "training.json"])
def test_a_file_that_may_not_be_read_is_named_with_the_reason(
    copied: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path == copied / "embedded" / name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ModelRefusedError, match=rf"{name} cannot be read \(Permission denied\).*reinstall"):
        shipped.load()


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"embedded"', '{"a": 1}', "{}", '{"a": "b"}'])
def test_a_damaged_list_of_what_ships_is_named_with_how_to_reinstall(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(content)
    monkeypatch.setattr(shipped, "MANIFEST", manifest)
    monkeypatch.setattr(shipped, "_manifest", shipped._manifest.__wrapped__)
    with pytest.raises(ModelRefusedError, match=r"manifest.json is .*damaged.*reinstall"):
        shipped.load()
