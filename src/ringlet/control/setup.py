"""Runs the guests that make images: one command on a disk, its end and the last of its output."""

import contextlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ringlet.control.board import Board
from ringlet.control.plan import Plan
from ringlet.control.spec import MachineSpec
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.errors import ImageError
from ringlet.images.arguments import with_huge_pages
from ringlet.images.building import Outcome, Runner, Task, Update
from ringlet.images.channel import StatusPort
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.pc import Wire
from ringlet.machine.vm import Vm
from ringlet.machine.wired import Wired

LIMIT_S: Final = 1800.0
"""How long the command may take, in seconds."""
KEPT: Final = 1 << 14
"""The last bytes of an output that are kept."""
_APPEND: Final = "console=ttyS0 quiet panic=-1"
_SHOWN: Final = re.compile(rb"Setting up ([a-z0-9][a-z0-9+.-]*)")

Execute = Callable[[Vm], End]


def execute_here(machine: Vm) -> End:
    """Run `machine` in the calling thread."""
    return machine.run()


def setup_runner(execute: Execute = execute_here) -> Runner:
    """Return what runs tasks on machines that `execute` runs."""
    return partial(run_task, execute=execute)


def run_task(task: Task, update: Update, *, execute: Execute) -> Outcome:
    """Run a task to its end.  Raises RingletError, and ImageError if it takes too long."""
    kernel = task.kernel.vmlinuz
    disks = tuple(DiskSpec(path, Access.WRITE, Format.RAW) for path in task.disks)
    plan = Plan(
        kernel, task.memory, with_huge_pages(_APPEND, kernel), f"Linux {task.kernel.release}",
        lambda address: task.initrd, disks,
    )  # fmt: skip
    ports = _Ports(update)
    spec = MachineSpec(memory=task.memory, timeout=LIMIT_S)
    with contextlib.closing(Board(spec, plan, ports)) as board:
        end = board.run(execute)
    if end.kind is EndKind.TIMEOUT:
        raise ImageError(f"the guest did not finish within {LIMIT_S / 60:.0f} minutes")
    return Outcome(ports.status[0] if ports.status else None, ports.text())


class _Ports:
    """The serial ports of `ringlet.images.channel`, of a command that reads nothing."""

    def __init__(self, update: Update) -> None:
        self.status: list[int] = []
        self._update = update
        self._messages, self._output, self._errors = bytearray(), bytearray(), bytearray()

    def wires(self) -> Sequence[Wire]:
        """Return the connections of COM1 to COM4."""
        control = StatusPort(
            on_init=_nothing, on_ready=_nothing, on_exit=self.status.append, on_next=_nothing
        )
        return [
            Wire(partial(_keep, self._messages)), Wire(self._printed),
            Wire(partial(_keep, self._errors)), Wire(control),
        ]  # fmt: skip

    def attach(self, pc: Wired) -> None:
        """Use `pc` from now on; the command has no input that would need it."""

    def text(self) -> str:
        """Return the last that the command, or else the kernel, has printed."""
        data = self._errors or self._output or self._messages
        return data.decode(errors="replace").strip()

    def _printed(self, data: bytes) -> None:
        _keep(self._output, data)
        if found := _SHOWN.findall(data):
            self._update(f"setting up {found[-1].decode()}")


def _keep(last: bytearray, data: bytes) -> None:
    last += data
    del last[:-KEPT]


def _nothing() -> None:
    """Do nothing."""
