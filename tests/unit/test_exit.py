"""A process that ends while a widget computes ends well."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import interp_widgets as iw
session = iw.open()
session.ask("When Mary and John went to the store, John gave a drink to", target=" Mary", foil=" John")
widget = iw.HeadAblation(session)
"""


def test_a_process_that_ends_while_a_sweep_runs_is_not_taken_down_by_it() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-500:]
