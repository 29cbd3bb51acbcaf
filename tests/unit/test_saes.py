"""Dictionaries of features: the right row, the right way round, and nothing that is not safetensors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp_widgets.interop import saes
from interp_widgets.model.errors import FileRefusedError, SiteError
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.reference import Reference
from interp_widgets.model.sites import Site
from tests.unit.tiny_models import gpt2, tokenizer

ROWS = torch.randn(100, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def live() -> Iterator[LiveModel]:
    opened = open_model(gpt2(), tokenizer(), reference=Reference.of(["w2 w3 w4 w5"]))
    yield opened
    opened.release()


def folder(path: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    kept = tensors or {
        "W_dec": ROWS,
        "W_enc": ROWS.t().contiguous(),
        "b_enc": torch.zeros(100),
        "b_dec": torch.zeros(32),
    }
    save_file(kept, path / "sae_weights.safetensors")
    if config:
        (path / "cfg.json").write_text(json.dumps(config))
    return path


def test_a_folder_says_where_it_acts_and_gives_its_rows(live: LiveModel, tmp_path: Path) -> None:
    old = folder(tmp_path / "old", d_in=32, d_sae=100, hook_name="blocks.1.hook_resid_pre", model_name="tiny")
    new = folder(tmp_path / "new", d_in=32, metadata={"hook_name": "blocks.1.hook_resid_pre", "model_name": "tiny"})
    for path in (old, new):
        sae = saes.load(path)
        assert (sae.n_features, sae.width, sae.site, sae.model) == (100, 32, Site.parse("L1.pre"), "tiny")
        for feature in (0, 41, 99):
            vector = sae.vector(live, feature)
            assert np.array_equal(vector.vector.values, ROWS[feature].numpy())
            assert vector.site.name == "L1.pre"
            assert vector.name == f"feature {feature}"
            assert f"decoder row {feature} of" in vector.source
            assert vector.residual is not None


@pytest.mark.parametrize(
    ("tensors", "width"),
    [
        ({"W_dec": ROWS}, None),
        ({"decoder.weight": ROWS.t().contiguous(), "encoder.weight": ROWS}, None),
        ({"decoder.weight": ROWS}, 32),
        ({"W_dec": ROWS.t().contiguous()}, 32),
        ({"features": ROWS, "W_enc": ROWS.t().contiguous()}, 32),
        ({"features": ROWS.t().contiguous(), "bias": torch.zeros(32)}, 32),
        ({"W_dec": ROWS.bfloat16()}, None),
        ({"W_dec": ROWS.half()}, None),
    ],
)
def test_a_plain_file_is_read_the_right_way_round(
    tensors: dict[str, torch.Tensor], width: int | None, live: LiveModel, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "d.safetensors")
    sae = saes.load(tmp_path / "d.safetensors", width=width)
    assert (sae.n_features, sae.width, sae.site) == (100, 32, None)
    assert np.allclose(sae.decoder_row(7), ROWS[7].numpy(), rtol=1e-2)
    assert sae.vector(live, 7, "L0").site.name == "L0"
    with pytest.raises(SiteError, match="does not say where it was trained"):
        sae.vector(live, 7)


def test_what_does_not_fit_is_refused_in_a_sentence(live: LiveModel, tmp_path: Path) -> None:
    sae = saes.load(folder(tmp_path / "one", hook_name="blocks.0.hook_resid_post"))
    for wrong in (100, -1, True, 1.5):
        with pytest.raises(FileRefusedError, match="features 0 to 99, not"):
            sae.decoder_row(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileRefusedError, match="no side of width 33"):
        saes.load(tmp_path / "one", width=33)
    wide = open_model(gpt2(n_embd=64), tokenizer())
    try:
        with pytest.raises(FileRefusedError, match="width 32, but .* width 64; was it trained on another model"):
            sae.vector(wide, 3)
    finally:
        wide.release()
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(2)}, tmp_path / "none.safetensors")
    with pytest.raises(
        FileRefusedError, match=r"No decoder matrix was found in 'none.safetensors' \(it holds a \[3, 4\], b \[2\]"
    ):
        saes.load(tmp_path / "none.safetensors")
    (tmp_path / "p.safetensors").write_bytes(pickle.dumps({"W_dec": 1}))
    with pytest.raises(FileRefusedError, match="is not safetensors.*nothing in it was run"):
        saes.load(tmp_path / "p.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileRefusedError, match="holds 0 safetensors files where one is expected .it has nothing"):
        saes.load(tmp_path / "empty")
    with pytest.raises(FileRefusedError, match="cannot be opened"):
        saes.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("config", ["[1]", "{", "[" * 100_000, "\ufeff"])
def test_a_configuration_that_is_no_table_is_refused(config: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "one")
    (path / "cfg.json").write_text(config)
    with pytest.raises(FileRefusedError, match=r"'cfg.json' of 'one'"):
        saes.load(path)


def test_a_site_that_has_no_name_here_is_left_to_the_caller(tmp_path: Path) -> None:
    path = folder(tmp_path / "one", hook_name="blocks.0.hook_somewhere", d_in="32")
    assert saes.load(path).site is None
    (path / "cfg.json").unlink()
    assert saes.load(path).site is None
