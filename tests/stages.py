"""Runs the stages of `make test` one after the other, stops at the first that fails, and sums up in one last line.

`python tests/stages.py` runs all, `python tests/stages.py unit kernel` only those named, `--list` names them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "reports"
PYTHON = sys.executable
WORKERS = 2  # unit tests that run at once
BUNDLES = "interp_widgets/static"
# A bundle that is built but not committed shows in no diff.
_NO_STRAYS = f'strays=$(git ls-files --others --exclude-standard {BUNDLES}); echo $strays; test -z "$strays"'


@dataclass(frozen=True)
class Stage:
    """One named step: its commands in order, and the environment that they see beside the present one."""

    name: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    environment: dict[str, str] = field(default_factory=dict[str, str])


def _pytest(name: str, *what: str, python: str = PYTHON) -> tuple[str, ...]:
    # No cache and no plugins beside our own: the run must not depend on the one before, or on the machine.
    report = f"--junitxml={REPORTS / name}.xml"
    return (python, "-m", "pytest", "-q", "--durations=5", "-p", "no:cacheprovider", report, *what)


def _peers() -> tuple[Stage, ...]:
    from tests.peers import environments

    stages: list[Stage] = []
    for environment in environments.ENVIRONMENTS:
        folder = f"tests/peers/{environment.name}"
        if any((ROOT / folder).glob("test_*.py")):
            name = f"peers-{environment.name}"
            command = _pytest(name, folder, python=str(environments.python(environment.name)))
            title = f"The same numbers as other libraries ({environment.name})"
            stages.append(Stage(name, title, (command,), {"PYTHONPATH": str(ROOT)}))
    return tuple(stages)


def stages() -> tuple[Stage, ...]:
    """Every stage of `make test`, in order: what is quick and what most often fails comes first."""
    vitest = ("--reporter=default", "--reporter=junit", f"--outputFile.junit={REPORTS / 'js-unit'}.xml")
    wheel = "tests/unit/test_wheel.py"
    unit = ("tests/unit", f"--ignore={wheel}")
    ruff, npm = (PYTHON, "-m", "ruff"), ("npm", "run", "--silent")
    return (
        Stage("lint", "Python lint", ((*ruff, "check", "."), (*ruff, "format", "--check", "."))),
        Stage("types", "Python types", ((PYTHON, "-m", "basedpyright", "--level", "error", "--pythonpath", PYTHON),)),
        Stage("layers", "Layers: arrows point down", ((_script("lint-imports"), "--no-logo", "--no-cache"),)),
        Stage("js", "TypeScript types and lint", ((*npm, "check"), (*npm, "lint"))),
        Stage("js-unit", "TypeScript unit tests", (("npm", "test", "--silent", "--", *vitest),)),
        Stage(
            "bundles",
            "The committed bundles are fresh",
            ((*npm, "build"), ("git", "diff", "--stat", "--exit-code", "--", BUNDLES), ("sh", "-c", _NO_STRAYS)),
        ),
        Stage(
            "unit",
            "Python unit tests",
            (_pytest("unit", *unit, "-m", "not alone", "-n", str(WORKERS), "--dist", "worksteal"),),
        ),
        Stage("alone", "Floods, threads, interrupts, lifetime", (_pytest("alone", *unit, "-m", "alone"),)),
        Stage("wheel", "The wheel, in a clean environment without Node", (_pytest("wheel", wheel),)),
        *_peers(),
        Stage("kernel", "A real kernel", (_pytest("kernel", "tests/kernel"),)),
        Stage("browser", "A real JupyterLab in a real browser", (_pytest("browser", "tests/browser"),)),
    )


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def run(stage: Stage) -> bool:
    """Run one stage under a heading; whether it passed."""
    print(f"\n=== {stage.title} " + "=" * max(3, 100 - len(stage.title)), flush=True)
    began = time.monotonic()
    environment = {**os.environ, **stage.environment}
    passed = all(
        subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0 for command in stage.commands
    )
    print(f"--- {stage.name} {'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return passed


def counts() -> tuple[int, int]:
    """How many single tests the stages so far report as passed and as failed."""
    passed = failed = 0
    for report in REPORTS.glob("*.xml"):
        for suite in ET.parse(report).getroot().iter("testsuite"):
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            failed += bad
            passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    return passed, failed


def share_of_faults() -> tuple[int, float]:
    """How many tests of the fault catalogue the stages so far report, and the seconds on the clock that they took."""
    from tests import cases

    names = {test.rpartition("::")[2] for tests in cases.marks().values() for test in tests if "::" in test}
    count, seconds = 0, 0.0
    for report in REPORTS.glob("*.xml"):
        at_once = WORKERS if report.stem == "unit" else 1
        ran = ET.parse(report).getroot().iter("testcase")
        theirs = [one for one in ran if (one.get("name") or "").partition("[")[0] in names]
        count += len(theirs)
        seconds += sum(float(one.get("time") or 0) for one in theirs) / at_once
    return count, seconds


def main() -> int:
    """Run what the command line names."""
    known = {stage.name: stage for stage in stages()}
    parser = argparse.ArgumentParser(prog="make test", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="stage", help="the stages to run (default: all)")
    parser.add_argument("--list", action="store_true", help="name the stages and stop")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(known):
        parser.error(f"no stage is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if asked.list:
        print("\n".join(f"{stage.name:15} {stage.title}" for stage in known.values()))
        return 0
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    return _run_all([known[name] for name in asked.names or known])


def _run_all(chosen: list[Stage]) -> int:
    began = time.monotonic()
    done = 0
    while done < len(chosen) and run(chosen[done]):
        done += 1
    passed, failed = counts()
    stopped = len(chosen) - done
    where = f"; stopped at stage {chosen[done].name}" if stopped else ""
    minutes = (time.monotonic() - began) / 60
    # A stage without single tests (lint, types) counts as one.
    passed += sum(not (REPORTS / f"{stage.name}.xml").exists() for stage in chosen[:done])
    failed += bool(stopped) and not failed
    count, seconds = share_of_faults()
    print(f"\n{count} of them are cases of the fault catalogue, and took {seconds / 60:.1f} minutes")
    print(
        f"{passed} passed, {failed} failed in {minutes:.1f} minutes ({done} of {len(chosen)} stages{where})",
        flush=True,
    )
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
