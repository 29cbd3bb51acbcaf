"""The kernel harness itself: what it says of a kernel is what a page would see."""

from __future__ import annotations

import time

import pytest

from tests.kernel.harness import CellFailedError, Kernel

SLIDER = "import ipywidgets; slider = ipywidgets.IntSlider(value=3, min=0, max=10); slider"
TELLS_ITS_THREAD = """
import ipywidgets, threading
class Tells(ipywidgets.Widget):
    def __init__(self):
        super().__init__()
        self.on_msg(lambda widget, content, buffers: widget.send(
            {"thread": threading.current_thread() is threading.main_thread(), "got": content}, buffers))
tells = Tells(); tells.send({"hello": True})
"""


def test_a_cell_gives_its_output_and_its_value(shared_kernel: Kernel) -> None:
    assert shared_kernel.run("print('a' * 3)").stdout == "aaa\n"
    assert shared_kernel.value("[1, 2.5, None]") == [1, 2.5, None]


def test_a_cell_that_raises_is_told_with_its_traceback(shared_kernel: Kernel) -> None:
    with pytest.raises(CellFailedError, match="ZeroDivisionError"):
        shared_kernel.run("1 / 0")


def test_a_displayed_widget_has_a_comm_with_its_state(shared_kernel: Kernel) -> None:
    slider = shared_kernel.widget(shared_kernel.run(SLIDER))
    assert (slider.state["value"], slider.state["max"]) == (3, 10)


def test_a_trait_set_here_changes_in_the_kernel_and_one_set_there_changes_here(shared_kernel: Kernel) -> None:
    slider = shared_kernel.widget(shared_kernel.run(SLIDER))
    sent = slider.set(value=7)
    shared_kernel.wait(lambda: shared_kernel.handled(sent), "the kernel's word that it has the value")
    assert shared_kernel.value("slider.value") == 7
    shared_kernel.run("slider.value = 9")
    assert slider.state["value"] == 9


def test_binary_traits_arrive_where_they_belong(shared_kernel: Kernel) -> None:
    shown = shared_kernel.widget(shared_kernel.run("image = ipywidgets.Image(value=b'\\x00\\xff'); image"))
    assert shown.state["value"] == b"\x00\xff"


def test_custom_messages_go_both_ways_with_buffers(kernel: Kernel) -> None:
    kernel.run(TELLS_ITS_THREAD)
    tells = kernel.comm(lambda state: True, "the only widget")
    tells.wait(lambda message: message.content == {"hello": True}, "the greeting")
    tells.send({"a": [1]}, [b"\x00\x01"])
    answer = tells.wait(lambda message: "got" in message.content, "the answer")
    assert answer.content["got"] == {"a": [1]}
    assert answer.buffers == (b"\x00\x01",)


def test_a_message_over_the_subshell_is_answered_on_another_thread_while_a_cell_runs(kernel: Kernel) -> None:
    kernel.run(TELLS_ITS_THREAD)
    tells = kernel.comm(lambda state: True, "the only widget")
    for number in range(2):  # ipykernel 7.4 may send the first to the main thread
        sent = tells.send({"number": number})
        kernel.wait(lambda sent=sent: kernel.handled(sent), "the answer in an idle kernel")
    cell = kernel.start("import time; print('begun', flush=True); time.sleep(3)")
    kernel.wait(lambda: "begun" in cell.stdout, "the cell's first line")
    began = time.monotonic()
    tells.send({"number": "while busy"})
    answer = tells.wait(lambda message: message.content.get("got") == {"number": "while busy"}, "the answer while busy")
    assert answer.content["thread"] is False
    assert not cell.done
    assert answer.time - began < 1.5
    kernel.interrupt()
    with pytest.raises(CellFailedError, match="KeyboardInterrupt"):
        kernel.finish(cell)


def test_a_message_to_the_main_shell_waits_for_the_cell(kernel: Kernel) -> None:
    kernel.run(TELLS_ITS_THREAD)
    tells = kernel.comm(lambda state: True, "the only widget")
    cell = kernel.start("import time; print('begun', flush=True); time.sleep(1)")
    kernel.wait(lambda: "begun" in cell.stdout, "the cell's first line")
    tells.send({"number": 1}, main=True)
    answer = tells.wait(lambda message: "got" in message.content, "the answer")
    assert answer.content["thread"] is True
    assert cell.done


def test_a_page_that_reloads_gets_the_state_of_all_widgets(kernel: Kernel) -> None:
    slider = kernel.widget(kernel.run(SLIDER))
    assert kernel.reload_page()[slider.id]["state"]["value"] == 3


def test_a_restart_leaves_nothing_of_the_old_kernel(kernel: Kernel) -> None:
    kernel.run(SLIDER)
    before = kernel.pid
    kernel.restart()
    assert kernel.pid != before
    assert kernel.comms == {}
    with pytest.raises(CellFailedError, match="NameError"):
        kernel.run("slider")
    assert kernel.widget(kernel.run(SLIDER)).state["value"] == 3
    kernel.subshell()


def test_waiting_for_what_never_comes_fails_with_its_name(shared_kernel: Kernel) -> None:
    with pytest.raises(AssertionError, match="not within 0.1 s: a miracle"):
        shared_kernel.wait(lambda: False, "a miracle", timeout=0.1)


def test_a_kernel_that_dies_is_told_with_its_log(kernel: Kernel) -> None:
    with pytest.raises(AssertionError, match="the kernel ended while waiting"):
        kernel.run("import os, sys; print('last words', file=sys.__stderr__, flush=True); os._exit(3)")
