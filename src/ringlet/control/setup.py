"""Runs the guests that make images: one command on a disk, its end and the last of its output."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ringlet.control.board import Board
from ringlet.control.plan import Plan
from ringlet.control.spec import MachineSpec
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.images.building import Outcome, Runner, Task
from ringlet.images.channel import StatusPort
from ringlet.machine.outcome import End
from ringlet.machine.pc import Pc, Wire
from ringlet.machine.vm import Vm

_APPEND: Final = "console=ttyS0 quiet panic=-1"
_KEPT: Final = 1 << 14
"""The most bytes of output that are kept."""

Execute = Callable[[Vm], End]


class _Ports:
    """The serial ports of `ringlet.images.channel`, of a command that reads nothing."""

    def __init__(self, update: Callable[[str], None]) -> None:
        self.output = bytearray()
        self.status: int | None = None
        self._update = update

    def wires(self) -> Sequence[Wire]:
        """Return the connections of COM1 to COM4."""
        control = StatusPort(
            on_init=_nothing, on_ready=_nothing, on_exit=partial(setattr, self, "status"),
            on_next=_nothing,
        )  # fmt: skip
        return [Wire(self._take), Wire(self._take), Wire(self._take), Wire(control)]

    def attach(self, pc: Pc) -> None:
        """Use `pc` from now on."""

    def _take(self, data: bytes) -> None:
        self.output += data
        del self.output[:-_KEPT]
        for line in data.decode(errors="replace").splitlines():
            if line.startswith("Setting up "):
                self._update(line.split(" (")[0].replace("Setting up", "setting up"))


def run_task(task: Task, update: Callable[[str], None], *, execute: Execute) -> Outcome:
    """Run a task by `execute` and return its outcome (`ringlet.images.building.Runner`)."""
    disks = tuple(DiskSpec(path, Access.WRITE, Format.RAW) for path in task.disks)
    plan = Plan(
        task.kernel.vmlinuz, task.memory, _APPEND, f"Linux {task.kernel.release}",
        lambda address: task.initrd, disks,
    )  # fmt: skip
    ports = _Ports(update)
    board = Board(MachineSpec(memory=task.memory), plan, ports)
    with contextlib.closing(board):
        board.run(execute)
    return Outcome(ports.status, ports.output.decode(errors="replace"))


def execute_here(machine: Vm) -> End:
    """Run `machine` in the calling thread."""
    return machine.run()


def _nothing() -> None:
    """Do nothing."""


def setup_runner(execute: Execute = execute_here) -> Runner:
    """Return the runner of tasks whose machines are run by `execute`."""
    return partial(run_task, execute=execute)
