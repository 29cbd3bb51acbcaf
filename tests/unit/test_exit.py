"""A process that ends while a widget computes ends well."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.alone

PROGRAM = """
import interp_widgets as iw
session = iw.open()
session.ask("When Mary and John went to the store, John gave a drink to", target=" Mary", foil=" John")
widget = iw.HeadAblation(session)
"""


@pytest.mark.timeout(400)
def test_a_process_that_ends_while_a_sweep_runs_is_not_taken_down_by_it() -> None:
    command = [sys.executable, "-c", PROGRAM]
    running = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(3)
    ]
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-500:]
