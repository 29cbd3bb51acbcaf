"""What is left in a notebook that is saved: little, nothing private, and readable where there is no kernel."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.harness import Chromium, Json, Lab, Notebook
from tests.browser.test_truth import LIVE

# The prompt is made so that its text is in no cell's source: what is found in the file was put there by a widget.
SECRET = "w41 w17 w23 w29 w19"
WORDS = [int(word[1:]) for word in SECRET.split()]
CELLS = [
    f"""
import interp_widgets as iw
from tests.unit import tiny_models
session = iw.open(tiny_models.gpt2(), tiny_models.tokenizer())
session.reference = ["w3 w4 w8 w11", "w20 w21 w22"]
session.ask(" ".join(f"w{{n}}" for n in {WORDS}), "w11", "w13")
vector = iw.steering_vector(session, ["w3 w4"], ["w7 w8"], "L1", name="push")
session.toggle("L1H2", mode="zero")
""",
    "iw.HeadAblation(session, mode='zero')",
    "iw.SteeringSliders(session, vectors={'push': vector}, tokens=6)",
    "iw.TokenAttribution(session, steps=4)",
]
LIMIT = 50_000
PICTURES = os.environ.get("IW_PICTURES")


@pytest.fixture(scope="module")
def opened(lab: Lab, chromium: Chromium) -> Iterator[Notebook]:
    with chromium.open(lab, CELLS, width=1200, height=2400) as notebook:
        shown(notebook)
        yield notebook


def shown(notebook: Notebook) -> None:
    notebook.run_all()
    notebook.wait("() => document.querySelectorAll('.iw-root [data-iw=metric]').length >= 3", "three views", 60)
    notebook.calm()


def states(saved: Json) -> Json:
    """The widgets' states that a notebook holds, by model id."""
    widgets = saved["metadata"].get("widgets", {})
    return widgets.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})


def without_bundles(saved: Json) -> Json:
    bare = copy.deepcopy(saved)
    for one in states(bare).values():
        for name in ("_esm", "_css", "text"):
            one.get("state", {}).pop(name, None)
    return bare


def empty(saved: Json) -> Json:
    """The same notebook before it was run."""
    bare = copy.deepcopy(saved)
    bare["metadata"].pop("widgets", None)
    for cell in bare["cells"]:
        cell["outputs"], cell["execution_count"] = [], None
    return bare


def size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def private(saved: Json) -> bool:
    """Whether anything of what was asked, or found, stands in the file."""
    text = json.dumps([[cell["outputs"] for cell in saved["cells"]], without_bundles(saved)["metadata"]])
    return SECRET in text or any(f'"{word}"' in text for word in SECRET.split())


@pytest.mark.case("K01", "H08")
def test_a_saved_notebook_grows_by_little_and_holds_nothing_of_what_was_asked(opened: Notebook) -> None:
    bare = opened.save()
    opened.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")  # the user asks for it: menu Settings
    try:
        full = opened.save()
    finally:
        opened.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
    grown = (size(bare) - size(empty(bare))) / 3
    beside = (size(without_bundles(full)) - size(empty(full))) / 3
    bundles = (size(full) - size(without_bundles(full))) / 3
    print(
        f"saved: {grown / 1e3:.1f} kB a widget; with widget state {beside / 1e3:.1f} kB beside {bundles / 1e3:.0f} kB of code"
    )
    assert states(bare) == {}
    assert len(states(full)) >= 4, "the state was not saved: the test shows nothing"
    assert grown <= LIMIT
    assert beside <= LIMIT
    assert not private(bare)
    assert not private(full)
    plain = [out["data"]["text/plain"] for cell in bare["cells"] for out in cell["outputs"] if "data" in out]
    assert len(plain) == 3
    assert all("run this cell" in "".join(text) for text in plain)


@pytest.mark.case("H05")
@pytest.mark.timeout(400)
def test_a_notebook_that_is_opened_again_with_its_saved_views_says_that_they_are_not_live(opened: Notebook) -> None:
    opened.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
    try:
        opened.save()
        opened.lab.end(opened.path)
        opened.reload()
        opened.wait(
            """() => { const roots = [...document.querySelectorAll('.iw-root')];
              return roots.length === 3 && roots.every((n) => n.dataset.connection === 'saved'
                && n.querySelector('[data-status]').innerText.includes('Run its cells')
                && n.getAttribute('aria-busy') === 'false'
                && n.querySelector('[data-status]').checkVisibility()
                && [...n.querySelectorAll('button, input, select, textarea')].every((c) => !c.checkVisibility())); }""",
            "three views that say they were saved",
            30,
        )
        if PICTURES:
            opened.screenshot(Path(PICTURES) / "saved.png")
    finally:
        opened.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
    shown(opened)
    opened.wait(LIVE, "live views once their cells have run again", 60)
    # What the kernel that was shut down is still asked, JupyterLab logs by itself.
    opened.witness.errors[:] = [e for e in opened.witness.errors if "404" not in e and "Comm not found" not in e]


def test_a_widget_that_keeps_its_prompt_in_a_trait_saves_it(opened: Notebook) -> None:
    """The negative control: the usual way to write such a widget."""
    opened.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
    try:
        assert not private(opened.save())
        opened.run(f"import ipywidgets\nipywidgets.Text(value=' '.join(f'w{{n}}' for n in {WORDS}))")
        assert private(opened.save())
    finally:
        opened.command("@jupyter-widgets/jupyterlab-manager:saveWidgetState")
