"""A real JupyterLab in a real Chromium.

One `Lab` (the server) and one `Chromium` serve a whole run; every test opens its own notebook in its own page. A page
keeps what went wrong: console errors, and requests to any host but this machine, which must never be there.

    def test_a_click_is_seen(lab: Lab, chromium: Chromium) -> None:
        with chromium.open(lab, cells=["import ipywidgets; ipywidgets.IntSlider()"]) as notebook:
            notebook.run_all()
            notebook.page.get_by_role("slider").press("ArrowRight")
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Playwright, sync_playwright

from tests.browser import chromium as browsers

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "pictures"
HERE = {"127.0.0.1", "localhost", "[::1]", "::1"}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)
# What JupyterLab itself logs, or leaves uncaught, as an error when nothing is wrong; everything else on the console fails the test.
NOISE = (
    re.compile(r"Could not restore the debugger state: Canceled future"),
    re.compile(r"Canceled future for kernel_info_request message before replies were done"),
)
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}
# What takes a new kernel longest is to load torch: it does so while the page is loading too.
PRELOADED = """__import__("tests.unit.tiny_models")"""
Theme = Literal["light", "dark"]
Json = dict[str, Any]


class BrowserMissingError(RuntimeError):
    """There is no Chrome or Chromium on this machine."""


class Lab:
    """A JupyterLab server on 127.0.0.1 with settings, kernels and home of its own; a context manager."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="iw-lab-"))
        self.folder = self.home / "notebooks"
        self.folder.mkdir()
        self._settings()
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.log = self.home / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the server with all its kernels and remove what it wrote."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def add(self, cells: Sequence[str] | Path) -> str:
        """Put a notebook there (code cells, or a copy of a file) with this Python as its kernel; its path in Lab."""
        notebook = json.loads(cells.read_text("utf-8")) if isinstance(cells, Path) else _notebook(cells)
        notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        stem = cells.stem if isinstance(cells, Path) else "cells"
        name = f"{stem}-{secrets.token_hex(4)}.ipynb"
        (self.folder / name).write_text(json.dumps(notebook), "utf-8")
        return name

    def begin(self, path: str) -> None:
        """Begin the kernel of one notebook, before any page asks for it."""
        about = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        self._api("sessions", "POST", about)

    def kernels(self) -> list[Json]:
        """The kernels that run now, as the server lists them."""
        return self._api("kernels")

    def end(self, path: str) -> None:
        """End the kernel of one notebook."""
        for session in self._api("sessions"):
            if session["path"] == path:
                self._api(f"sessions/{session['id']}", "DELETE")

    def _api(self, path: str, method: str = "GET", content: Json | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def _command(self) -> list[str]:
        root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        settings = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": urlsplit(self.url).port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": self.folder,
            "IdentityProvider.token": "",
            "ServerApp.disable_check_xsrf": True,
            "LabApp.expose_app_in_browser": True,
            "LabApp.extension_manager": "readonly",
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.news_url": "None",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [sys.executable, "-m", "jupyterlab", "--no-browser", *root, *options]

    def _environment(self) -> dict[str, str]:
        folders = {
            "HOME": "home",
            "IPYTHONDIR": "ipython",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        }
        paths = {name: str(self.home / folder) for name, folder in folders.items()}
        paths["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # Of several kernels called python3, the one of this environment counts.
        return {**os.environ, **paths, "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

    def _settings(self) -> None:
        (self.home / "home").mkdir()
        startup = self.home / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "imports.py").write_text(PRELOADED)
        for plugin, values in SETTINGS.items():
            file = self.home / "settings" / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))

    def _await(self, timeout: float = 150.0) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self._api("status")
            except OSError:
                time.sleep(0.1)  # the port is not open yet: there is nothing to wait on but the clock
            else:
                return
        raise RuntimeError(f"JupyterLab did not start\n{self.log.read_text()[-4000:]}")


def _notebook(cells: Sequence[str]) -> Json:
    made = [
        {
            "cell_type": "code",
            "id": f"cell-{index}",
            "source": source,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for index, source in enumerate(cells)
    ]
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Witness:
    """What a page did that it should not have done."""

    errors: list[str] = field(default_factory=list[str])
    foreign: list[str] = field(default_factory=list[str])

    def watch(self, page: Page) -> None:
        """Listen from before the first request on."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._error(f"uncaught: {error}"))
        page.on("request", lambda request: self._request(request.url))
        page.on("websocket", lambda opened: self._request(opened.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._error(f"{message.text} ({message.location.get('url', '')})")

    def _error(self, text: str) -> None:
        if not any(known.search(text) for known in NOISE):
            self.errors.append(text)

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https", "ws", "wss", "ftp"} and parts.hostname not in HERE:
            self.foreign.append(url)


class Notebook:
    """One notebook open in one page."""

    def __init__(self, lab: Lab, page: Page, path: str, witness: Witness) -> None:
        self.lab, self.page, self.path, self.witness = lab, page, path, witness

    def run_all(self, timeout: float = 120.0) -> None:
        """Run every cell to its end; AssertionError with the traceback of a cell that raised."""
        self.command("notebook:run-all-cells", timeout=timeout)
        self.wait(IDLE, "an idle kernel", timeout)
        _assert_none_raised(self.outputs())

    def run(self, code: str, timeout: float = 60.0) -> list[Json]:
        """Add a cell with this code at the end, run it, and return its outputs."""
        self.page.evaluate(ADD_CELL, code)
        self.command("notebook:run-cell", timeout=timeout)
        self.wait(IDLE, "an idle kernel", timeout)
        return self.outputs(-1)

    def replace(self, code: str, timeout: float = 120.0) -> None:
        """Have this code in the first cell, and run it; AssertionError with the traceback if it raised."""
        self.page.evaluate(FIRST_CELL, code)
        self.command("notebook:run-cell", timeout=timeout)
        self.wait(IDLE, "an idle kernel", timeout)
        _assert_none_raised(self.outputs(0))

    def outputs(self, cell: int | None = None) -> list[Json]:
        """The outputs of one code cell, or of all, as the notebook would save them."""
        cells = self.page.evaluate(OUTPUTS)
        return [output for one in cells for output in one] if cell is None else cells[cell]

    def value(self, code: str, timeout: float = 60.0) -> str:
        """Run code in no cell, so that nothing on the page moves; what its last expression shows.

        Raises:
            AssertionError: with the traceback, when it raises.
        """
        *before, last = ast.parse(code).body
        expression = ast.unparse(last) if isinstance(last, ast.Expr) else "None"
        lines = ast.unparse(ast.Module(before if isinstance(last, ast.Expr) else [*before, last], []))
        self.page.set_default_timeout(timeout * 1000)
        reply = self.page.evaluate(EXECUTE, [lines, expression])
        found = reply["user_expressions"]["value"] if reply["status"] == "ok" else reply
        assert found["status"] == "ok", "\n".join(_plain(line) for line in found["traceback"])
        return found["data"]["text/plain"]

    def view(self, widget: str) -> Locator:
        """The first view of a widget."""
        return self.page.locator(f'.iw-root[data-widget="{widget}"]').first

    def metric(self, widget: str) -> float:
        """The exact number that a view shows."""
        value = self.view(widget).locator('[data-iw="metric"]').get_attribute("data-value")
        assert value is not None, f"{widget} shows no number"
        return float(value)

    def calm(self, timeout: float = 60.0) -> None:
        """Wait until no view computes."""
        self.wait(CALM, "calm views", timeout)

    def command(self, name: str, arguments: Json | None = None, timeout: float = 30.0) -> None:
        """Execute a command of JupyterLab and wait for its end."""
        self.page.set_default_timeout(timeout * 1000)
        self.page.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, arguments or {}])

    def wait(self, expression: str, what: str, timeout: float = 20.0) -> None:
        """Wait until a JavaScript function returns something true; AssertionError naming `what`."""
        try:
            self.page.wait_for_function(expression, timeout=timeout * 1000)
        except Exception as error:
            raise AssertionError(f"not within {timeout} s: {what}") from error

    def lightness(self) -> float:
        """Of the ink of a view, 0 to 255."""
        ink = self.page.evaluate("() => getComputedStyle(document.querySelector('.iw-root')).color")
        red, green, blue = (float(part) for part in re.findall(r"[0-9.]+", ink)[:3])
        return 0.3 * red + 0.6 * green + 0.1 * blue

    def theme(self, theme: Theme) -> None:
        """Switch JupyterLab to its light or dark theme and wait until it shows."""
        self.command("apputils:change-theme", {"theme": f"JupyterLab {theme.title()}"})
        self.wait(f"() => document.body.dataset.jpThemeLight === '{str(theme == 'light').lower()}'", f"{theme} theme")

    def screenshot(self, path: Path, selector: str | None = None) -> Path:
        """A picture of the page, or of the first element that `selector` names."""
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.page.locator(selector).first if selector else self.page).screenshot(path=path, animations="disabled")
        return path

    def restart_kernel(self) -> None:
        """Restart the kernel as the menu does, without its question."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        self.wait(IDLE, "an idle kernel after the restart", 60)

    def interrupt_kernel(self) -> None:
        """Interrupt the kernel, as the stop button does."""
        self.command("notebook:interrupt-kernel")

    def save(self) -> Json:
        """Save, and return the file as it is on the disk."""
        self.command("docmanager:save")
        return json.loads((self.lab.folder / self.path).read_text("utf-8"))

    def reload(self) -> None:
        """Load the page again on the living kernel."""
        self.page.reload()
        self.ready()

    def ready(self) -> None:
        """Wait until the notebook is open and its kernel answers."""
        self.wait("() => window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length > 0", "the notebook", 60)
        self.wait(IDLE, "an idle kernel", 60)

    def assert_clean(self) -> None:
        """No console error, and nothing asked of another machine."""
        assert not self.witness.foreign, f"requests left this machine: {self.witness.foreign}"
        assert not self.witness.errors, "console errors:\n" + "\n".join(self.witness.errors)


class Chromium:
    """One browser process; every notebook gets a page and a profile of its own."""

    def __init__(self, playwright: Playwright) -> None:
        found = browsers.find()
        if found is None:
            raise BrowserMissingError(browsers.ADVICE)
        self._browser: Browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))

    def close(self) -> None:
        """End the browser."""
        self._browser.close()

    @contextmanager
    def open(
        self, lab: Lab, cells: Sequence[str] | Path, *, width: int = 1280, height: int = 1600, check: bool = True
    ) -> Generator[Notebook]:
        """Open a new notebook with these cells (or a copy of a file); afterwards its kernel ends.

        With `check`, leaving asserts that the page logged no error and asked nothing of another machine.
        """
        context: BrowserContext = self._browser.new_context(viewport={"width": width, "height": height})
        page, witness, path = context.new_page(), Witness(), lab.add(cells)
        witness.watch(page)
        try:
            lab.begin(path)
            page.goto(f"{lab.url}/lab/tree/{quote(path)}?reset")
            notebook = Notebook(lab, page, path, witness)
            notebook.ready()
            yield notebook
            if check:
                notebook.assert_clean()
        finally:
            context.close()
            lab.end(path)


@contextmanager
def chromium() -> Generator[Chromium]:
    """A browser for as long as the block lasts."""
    with sync_playwright() as playwright:
        started = Chromium(playwright)
        try:
            yield started
        finally:
            started.close()


def _assert_none_raised(outputs: Sequence[Json]) -> None:
    failed = [one for one in outputs if one["output_type"] == "error"]
    assert not failed, "\n".join(_plain(line) for one in failed for line in one["traceback"])


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


CALM = "() => [...document.querySelectorAll('.iw-root')].every((n) => n.getAttribute('aria-busy') === 'false')"
IDLE = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(cell => cell.model.type === 'code').map(cell => cell.model.outputs.toJSON())"""
EXECUTE = """async ([code, expression]) => {
    const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
    const request = { code, user_expressions: { value: expression }, store_history: false };
    return (await kernel.requestExecute(request).done).content;
}"""
ADD_CELL = """(code) => {
    const panel = window.jupyterapp.shell.currentWidget, cells = panel.model.sharedModel;
    cells.insertCell(cells.cells.length, {cell_type: 'code', source: code, metadata: {}});
    panel.content.activeCellIndex = cells.cells.length - 1;
}"""
FIRST_CELL = """(code) => {
    const panel = window.jupyterapp.shell.currentWidget;
    panel.model.sharedModel.cells[0].setSource(code);
    panel.content.activeCellIndex = 0;
}"""
