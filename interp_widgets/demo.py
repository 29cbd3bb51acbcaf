"""Opens JupyterLab on a fresh copy of the tour: `python -m interp_widgets demo --help` says how."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

TOUR = "tour.ipynb"
FOLDER = "~/interp_widgets_demo"
NO_LAB = 'JupyterLab is not installed in this Python; install it: pip install "interp_widgets[lab]"'


def tour() -> Path:
    """The tour as it was shipped: inside an installed package, or in `examples/` of a clone.

    Raises FileNotFoundError where neither is there.
    """
    package = Path(__file__).resolve().parent
    for path in (package / "examples" / TOUR, package.parent / "examples" / TOUR):
        if path.is_file():
            return path
    raise FileNotFoundError(f"the tour ({TOUR}) is missing from {package}; reinstall interp_widgets")


def fresh_copy(folder: Path) -> Path:
    """Copy the tour into `folder`; what is already there is kept, so a changed tour gets a numbered neighbour.

    >>> fresh_copy(Path("demo"))  # doctest: +SKIP
    PosixPath('demo/tour.ipynb')
    """
    folder.mkdir(parents=True, exist_ok=True)
    original = tour()
    copy, number = folder / TOUR, 1
    while copy.exists() and copy.read_bytes() != original.read_bytes():
        number += 1
        copy = folder / f"{original.stem}-{number}{original.suffix}"
    copy.write_bytes(original.read_bytes())
    return copy


def command(notebook: Path, *, browser: bool = True, port: int | None = None) -> list[str]:
    """The command line that opens a notebook in JupyterLab, on this machine alone and with this Python."""
    options = [f"--ServerApp.root_dir={notebook.parent}", f"--LabApp.default_url=/lab/tree/{notebook.name}"]
    if not browser:
        options.append("--no-browser")
    if port is not None:
        options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # in containers root is who there is; the server listens on 127.0.0.1 only
    never = "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    return [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", never, *options]


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy the tour, say where it is, and become JupyterLab; 1 with a sentence where that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m interp_widgets", description="Live widgets inside transformers.")
    demo = parser.add_subparsers(dest="command", required=True).add_parser("demo", help="open the tour in JupyterLab")
    demo.add_argument("--no-browser", action="store_true", help="print the address and open no browser (for servers)")
    demo.add_argument("--port", type=int, help="the port to listen on (default: 8888 or the next that is free)")
    demo.add_argument("--folder", type=Path, default=Path(FOLDER), help="where the copy goes (default: %(default)s)")
    asked = parser.parse_args(arguments)
    if importlib.util.find_spec("jupyterlab") is None:
        print(NO_LAB, file=sys.stderr)
        return 1
    notebook = fresh_copy(asked.folder.expanduser().resolve())
    print(f"The tour is {notebook}\nIn JupyterLab: Run > Run All Cells. Stop with Ctrl-C.", flush=True)
    line = command(notebook, browser=not asked.no_browser, port=asked.port)
    # Becoming JupyterLab, not starting it: who ends this process ends the server too.
    # Of several kernels called python3 on a machine, the one of this environment must run the tour.
    os.execve(line[0], line, {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"})  # noqa: S606  # fixed arguments, no shell
    return 0
