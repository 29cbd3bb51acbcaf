"""Makes the environments of other libraries that our numbers are compared with, once per machine.

`python tests/peers/environments.py` builds what is missing and prints one line `name path-of-python` for each.
They live outside the clone, in `${XDG_CACHE_HOME:-~/.cache}/interp_widgets/peers-<hash>`, where the hash is that of the
requirement files, so that a fresh clone finds what an earlier one built. Only the standard library is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
QUIET = ("-qq", "--disable-pip-version-check")


@dataclass(frozen=True)
class Environment:
    """One virtual environment: what it installs, what it borrows, and what must import in the end."""

    name: str
    imports: str
    requirements: tuple[str, ...] = ()
    without_dependencies: tuple[str, ...] = ()
    borrows: str | None = None


ENVIRONMENTS = (
    Environment(
        "current",
        imports="import transformer_lens, nnsight, captum, circuitsvis, inseq",
        requirements=("current.txt",),
        without_dependencies=("current-no-deps.txt",),
    ),
    Environment(
        "hooked",
        imports="from transformer_lens import HookedTransformer",
        without_dependencies=("hooked-no-deps.txt",),
        borrows="current",
    ),
)


def cache() -> Path:
    """The folder of all environments made from the requirement files as they are now."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(sys.version.encode())
    for file in sorted(HERE.glob("*.txt")):
        digest.update(file.name.encode() + file.read_bytes())
    return root / "interp_widgets" / f"peers-{digest.hexdigest()[:12]}"


def python(name: str) -> Path:
    """The interpreter of one environment, whether built or not."""
    return cache() / name / "bin" / "python"


def build(environment: Environment) -> None:
    """Build one environment from nothing and prove that its libraries import."""
    folder = cache() / environment.name
    print(f"building {folder}", file=sys.stderr, flush=True)
    venv.create(folder, clear=True, symlinks=os.name == "posix", with_pip=True)
    own = str(python(environment.name))
    if environment.borrows is not None:
        _borrow(environment.name, environment.borrows)
    pip = [own, "-m", "pip", "install", *QUIET]
    for file in environment.requirements:
        subprocess.run([*pip, "-r", str(HERE / file)], check=True)
    for file in environment.without_dependencies:
        subprocess.run([*pip, "--no-deps", "-r", str(HERE / file)], check=True)
    subprocess.run([own, "-c", environment.imports], check=True)
    (folder / "ready").touch()


def _borrow(name: str, lender: str) -> None:
    """Let one environment see another's packages behind its own: torch is on the disk once."""
    purelib = [str(python(name)), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(purelib, check=True, capture_output=True, text=True).stdout.strip())
    (own / "borrowed.pth").write_text(str(own).replace(str(cache() / name), str(cache() / lender)) + "\n")


def main() -> None:
    """Build what is missing, one process at a time, and say where each interpreter is."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for environment in ENVIRONMENTS:
            if not (cache() / environment.name / "ready").exists():
                build(environment)
            print(environment.name, python(environment.name), flush=True)


if __name__ == "__main__":
    main()
