"""What the package adds to a notebook that has torch, transformers and ipywidgets anyway; a ratio, measured in fresh processes."""

from __future__ import annotations

import compileall
import importlib.util
import json
import statistics
import subprocess
import sys

import pytest

MEASURE = """
import json, time
start = time.process_time(); import torch; torch_seconds = time.process_time() - start
import transformers, ipywidgets
state = torch.get_rng_state(), torch.get_default_dtype()
import threading
threads = threading.active_count()
start = time.process_time(); import interp_widgets; ours = time.process_time() - start
same = torch.equal(state[0], torch.get_rng_state()) and state[1] is torch.get_default_dtype()
print(json.dumps([ours / torch_seconds, same and threading.active_count() == threads]))
"""


def measured() -> list[float]:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.case("L09")
@pytest.mark.timeout(400)
def test_importing_costs_less_than_a_tenth_of_torchs_own_import_and_touches_nothing() -> None:
    package = importlib.util.find_spec("interp_widgets")
    assert package is not None and package.submodule_search_locations
    # as installed: with the bytecode of every module on the disk
    compileall.compile_dir(package.submodule_search_locations[0], quiet=2)
    runs = [measured() for _ in range(2)]
    assert all(clean for _, clean in runs), "the import moved the random state, the default dtype, or started a thread"
    ratio = statistics.fmean(ratio for ratio, _ in runs)
    print(f"import of interp_widgets / import of torch: {ratio:.3f}")
    assert ratio < 0.1
