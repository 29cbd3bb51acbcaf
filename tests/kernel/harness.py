"""A real ipykernel, spoken to as JupyterLab speaks to it, without a browser.

Comm messages go through a subshell that is created on the control channel and named in the message header: so they are
handled on a thread of their own, also while a cell runs, which is the commonest threading of real life.

    with Kernel() as kernel:
        cell = kernel.run("import ipywidgets; slider = ipywidgets.IntSlider(); slider")
        slider = kernel.widget(cell)
        slider.set(value=7)
        kernel.wait(lambda: kernel.value("slider.value") == 7, "the slider's new value")
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

ROOT = Path(__file__).resolve().parents[2]
CONTROL_PROTOCOL = "1.0.0"
WIDGET_TARGET = "jupyter.widget"
VIEW = "application/vnd.jupyter.widget-view+json"
Json = dict[str, Any]


class CellFailedError(AssertionError):
    """A cell raised; the message is its traceback."""


class KernelGoneError(AssertionError):
    """The kernel's process has ended while something was awaited; the message ends with its log."""


@dataclass
class Cell:
    """One run of one cell, filled as its messages arrive."""

    code: str
    id: str
    outputs: list[Json] = field(default_factory=list[Json])
    error: Json | None = None
    done: bool = False

    @property
    def stdout(self) -> str:
        """What the cell has printed so far."""
        return "".join(one["text"] for one in self.outputs if one.get("name") == "stdout")

    @property
    def stderr(self) -> str:
        """What the cell has written to stderr so far."""
        return "".join(one["text"] for one in self.outputs if one.get("name") == "stderr")


@dataclass(frozen=True)
class Custom:
    """A custom message that a widget sent, with its time of arrival (`time.monotonic`) and the kernel's own time of sending."""

    content: Json
    buffers: tuple[bytes, ...]
    time: float
    sent: float


class Comm:
    """The browser's end of one comm: the state as a page would have it, and every custom message."""

    def __init__(self, kernel: Kernel, comm_id: str, target: str = WIDGET_TARGET) -> None:
        self.kernel, self.id, self.target = kernel, comm_id, target
        self.state: Json = {}
        self.states: dict[str, Json] | None = None
        self.messages: list[Custom] = []
        self.closed = False

    def send(self, content: Json, buffers: Sequence[bytes] = (), *, main: bool = False) -> str:
        """Send a custom message, over the subshell unless `main`; its id."""
        return self._message({"method": "custom", "content": content}, buffers, main=main)

    def set(self, *, main: bool = False, **state: Any) -> str:
        """Set traits as the browser does; the message's id."""
        return self._message({"method": "update", "state": state, "buffer_paths": []}, (), main=main)

    def request_states(self) -> str:
        """Ask on `jupyter.widget.control` for all states; the answer lands in `states`."""
        return self._message({"method": "request_states"}, (), main=False)

    def close(self) -> None:
        """Close the comm from the browser's side, as a page does when a widget's model is disposed."""
        self.kernel.send("comm_close", {"comm_id": self.id, "data": {}}, subshell=True)
        self.closed = True

    def wait(self, holds: Callable[[Custom], object], what: str, timeout: float = 20.0) -> Custom:
        """Wait for the first custom message, past ones included, for which `holds`; return it."""
        self.kernel.wait(lambda: any(map(holds, list(self.messages))), what, timeout)
        return next(message for message in list(self.messages) if holds(message))

    def _message(self, data: Json, buffers: Sequence[bytes], *, main: bool) -> str:
        content = {"comm_id": self.id, "data": data}
        return self.kernel.send("comm_msg", content, buffers, subshell=not main)

    def take(self, kind: str, data: Json, buffers: Sequence[bytes], sent: float) -> None:
        """Take in one message of the kernel (called by the reader)."""
        if kind == "comm_close":
            self.closed = True
        elif data.get("method") == "custom":
            self.messages.append(Custom(data["content"], tuple(buffers), time.monotonic(), sent))
        elif data.get("method") == "update_states":
            self.states = data["states"]
        elif "state" in data:
            state: Json = data["state"]
            for path, buffer in zip(data.get("buffer_paths", []), buffers, strict=True):
                _place(state, path, buffer)
            self.state = {**self.state, **state}


def _place(state: Any, path: Sequence[str | int], buffer: bytes) -> None:
    for step in path[:-1]:
        state = state[step]
    state[path[-1]] = buffer


class Kernel:
    """One kernel process and its client; a context manager that ends both.

    Attributes:
        busy: how often this kernel has said that it is busy.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="iw-kernel-")
        self._log = Path(self._folder.name) / "kernel.log"
        self._environment = {**os.environ, **_private(Path(self._folder.name)), **(environment or {})}
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- cells ---------------------------------------------------------------------------------------------------

    def start(self, code: str, cell_id: str | None = None) -> Cell:
        """Begin to run a cell and return at once; wait with `finish`. `cell_id`: which cell of the notebook it is."""
        metadata = {} if cell_id is None else {"cellId": cell_id}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        with self._sending:
            message = self._session.msg("execute_request", content, metadata=metadata)
            cell = Cell(code, message["header"]["msg_id"])
            self._cells[cell.id] = cell
            self._session.send(self._shell, message)
            while self._shell.poll(0):  # what a cell did is told on iopub; its reply would only fill the socket
                self._shell.recv_multipart()
        return cell

    def finish(self, cell: Cell, timeout: float = 60.0) -> Cell:
        """Wait for a started cell; CellFailedError if it raised."""
        self.wait(lambda: cell.done, f"the end of the cell {cell.code!r:.200}", timeout)
        if cell.error is not None:
            raise CellFailedError("\n".join(cell.error["traceback"]))
        return cell

    def run(self, code: str, timeout: float = 60.0) -> Cell:
        """Run a cell to its end; CellFailedError if it raised."""
        return self.finish(self.start(code), timeout)

    def run_cell(self, code: str, cell_id: str, timeout: float = 60.0) -> Cell:
        """Run a cell of the notebook, once more perhaps, to its end."""
        return self.finish(self.start(code, cell_id), timeout)

    def value(self, expression: str, timeout: float = 60.0) -> Any:
        """The value of a Python expression in the kernel, through JSON."""
        return json.loads(self.run(f"print(__import__('json').dumps({expression}))", timeout).stdout)

    # --- comms ---------------------------------------------------------------------------------------------------

    @property
    def comms(self) -> dict[str, Comm]:
        """Every comm of this kernel, closed ones too, by id."""
        return dict(self._comms)

    def widget(self, cell: Cell) -> Comm:
        """The comm of the widget that a cell displayed last."""
        views = [one["data"][VIEW]["model_id"] for one in cell.outputs if VIEW in one.get("data", {})]
        assert views, f"no widget was displayed by {cell.code!r}; outputs: {cell.outputs}"
        return self._comms[views[-1]]

    def comm(self, where: Callable[[Json], object], what: str, timeout: float = 20.0) -> Comm:
        """The first open comm whose state satisfies `where`, waited for."""
        self.wait(lambda: self._matching(where), what, timeout)
        return self._matching(where)[0]

    def reload_page(self) -> dict[str, Json]:
        """What a reloaded page asks for: the states of all widgets by comm id (each with `state`, `buffers`)."""
        control = Comm(self, os.urandom(16).hex(), "jupyter.widget.control")
        self._comms[control.id] = control
        opening = {"comm_id": control.id, "target_name": control.target, "data": {}}
        self.send("comm_open", opening, subshell=True, metadata={"version": CONTROL_PROTOCOL})
        control.request_states()
        self.wait(lambda: control.states is not None, "the states of all widgets")
        return control.states or {}

    def send(
        self,
        kind: str,
        content: Json,
        buffers: Sequence[bytes] = (),
        *,
        subshell: bool,
        metadata: Json | None = None,
    ) -> str:
        """Send any shell message, over the subshell or to the main shell; its id."""
        subshell_id = self.subshell() if subshell else None
        with self._sending:
            message = self._session.msg(kind, content, metadata=metadata)
            if subshell_id is not None:
                message["header"]["subshell_id"] = subshell_id
            self._session.send(self._shell, message, buffers=list(buffers))
        return message["header"]["msg_id"]

    def subshell(self) -> str:
        """The id of the one subshell of all comms, made at first use as JupyterLab makes it."""
        with self._sending:
            known = self._subshell or self._ask_control("create_subshell_request")["subshell_id"]
            self._subshell = known
            return known

    def handled(self, message_id: str) -> bool:
        """Whether the kernel has said that it is done with a message."""
        return message_id in self._idle

    # --- life ----------------------------------------------------------------------------------------------------

    def wait(self, holds: Callable[[], object], what: str, timeout: float = 20.0) -> None:
        """Wait until `holds()`, looked at after every message; AssertionError naming `what` after `timeout` s."""
        end = time.monotonic() + timeout
        while True:
            seen = self._arrivals
            if holds():
                return
            if self._process.poll() is not None:
                raise KernelGoneError(f"the kernel ended while waiting for {what}\n{self._log.read_text()[-4000:]}")
            left = end - time.monotonic()
            assert left > 0, f"not within {timeout} s: {what}"
            with self._arrived:
                if self._arrivals == seen:
                    self._arrived.wait(min(left, 0.5))

    def interrupt(self) -> None:
        """What the stop button does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def shut_down(self, timeout: float = 20.0) -> float:
        """Ask the kernel to end, as a restart does first; when its process was gone (`time.monotonic`)."""
        self._session.send(self._control, "shutdown_request", {"restart": True})
        self._process.wait(timeout)
        return time.monotonic()

    def restart(self) -> None:
        """What the restart button does: a new process; every comm of the old one is dead."""
        self._end()
        self._begin()

    def close(self) -> None:
        """End the process and the client."""
        self._end()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The process id of the kernel."""
        return self._process.pid

    # --- inside --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._sending = threading.RLock()
        self._arrived = threading.Condition()
        self._arrivals = 0
        self._cells: dict[str, Cell] = {}
        self._comms: dict[str, Comm] = {}
        self._idle: set[str] = set()
        self.busy = 0
        self._subshell: str | None = None
        file = str(Path(self._folder.name) / "connection.json")
        Path(file).unlink(missing_ok=True)
        key = os.urandom(16).hex().encode()
        connection = write_connection_file(file, ip="127.0.0.1", key=key)[1]
        self._session = Session(key=key)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", file]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, cwd=self._folder.name, stdout=log, stderr=log, start_new_session=True
            )
        self._connect(connection)

    def _connect(self, connection: Mapping[str, Any]) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shell = self._socket(zmq.DEALER, connection["shell_port"])
        self._control = self._socket(zmq.DEALER, connection["control_port"])
        self._iopub = self._socket(zmq.SUB, connection["iopub_port"])
        self._open = True
        self._reader = threading.Thread(target=self._read, name="iopub-reader", daemon=True)
        self._reader.start()
        # Asked again until the answer is heard on iopub too: what is said before the subscription stands is lost.
        asked: list[str] = []

        def heard() -> bool:
            asked.append(self.send("kernel_info_request", {}, subshell=False))
            return any(map(self.handled, asked))

        self.wait(heard, "the kernel's first answer", timeout=60)

    def _socket(self, kind: int, port: int) -> zmq.Socket[bytes]:
        opened = self._context.socket(kind)
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.RCVHWM, 0)  # a slow test must not lose messages
        if kind == zmq.SUB:
            opened.setsockopt(zmq.SUBSCRIBE, b"")
        opened.connect(f"tcp://127.0.0.1:{port}")
        return opened

    def _end(self) -> None:
        self._open = False
        self._reader.join()
        self._context.destroy()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self) -> None:
        while self._open:
            if not self._iopub.poll(100):
                continue
            _, message = self._session.recv(self._iopub)
            if message is None:
                continue
            self._take(message)
            with self._arrived:
                self._arrivals += 1
                self._arrived.notify_all()

    def _take(self, message: Json) -> None:
        kind, content = message["msg_type"], message["content"]
        parent = message["parent_header"].get("msg_id", "")
        if kind.startswith("comm_"):
            sent = message["header"]["date"].timestamp()
            self._take_comm(kind, content, [bytes(buffer) for buffer in message["buffers"]], sent)
        elif kind == "status" and content["execution_state"] == "busy":
            self.busy += 1
        elif kind == "status" and content["execution_state"] == "idle":
            self._idle.add(parent)
            if parent in self._cells:
                self._cells[parent].done = True
        elif parent in self._cells:
            cell = self._cells[parent]
            if kind == "error":
                cell.error = content
            elif kind in {"stream", "display_data", "execute_result", "update_display_data"}:
                cell.outputs.append(content)

    def _take_comm(self, kind: str, content: Json, buffers: Sequence[bytes], sent: float) -> None:
        if kind == "comm_open":
            self._comms[content["comm_id"]] = Comm(self, content["comm_id"], content["target_name"])
        if (known := self._comms.get(content["comm_id"])) is not None:
            known.take(kind, content["data"], buffers, sent)

    def _matching(self, where: Callable[[Json], object]) -> list[Comm]:
        return [one for one in list(self._comms.values()) if not one.closed and where(one.state)]

    def _ask_control(self, kind: str) -> Json:
        sent = self._session.send(self._control, kind, {})
        assert sent is not None
        while self._control.poll(20_000):
            _, reply = self._session.recv(self._control)
            if reply is not None and reply["parent_header"].get("msg_id") == sent["header"]["msg_id"]:
                return reply["content"]
        raise AssertionError(f"no answer to {kind} within 20 s")


def _private(folder: Path) -> dict[str, str]:
    """An environment in which the user's own IPython and Jupyter settings do not exist."""
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JPY_PARENT_PID": str(os.getpid()),  # a kernel whose tests have died ends itself
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
