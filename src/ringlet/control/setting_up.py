"""Runs the guest that sets an image up: one command, whose end and last output are all that counts.

`ringlet.images.building` says what to run; this is the machine for it.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Final

from ringlet.config import LinuxConfig
from ringlet.devices.backends.disks import Disk, open_disk
from ringlet.devices.virtio.block import Block
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.errors import ImageError
from ringlet.images.arguments import with_huge_pages
from ringlet.images.building import Outcome, Task, Update
from ringlet.images.channel import StatusPort
from ringlet.images.store import translations_directory
from ringlet.machine import boot, outcome
from ringlet.machine.engine import Engine
from ringlet.machine.pc import Options, Wire
from ringlet.machine.runner import Runner

LIMIT_S: Final = 1800.0
"""How long the command may take, in seconds."""
KEPT: Final = 1 << 14
"""The last bytes of the command's output that are kept."""
_SHOWN: Final = re.compile(rb"Setting up ([a-z0-9][a-z0-9+.-]*)")
_APPEND: Final = "console=ttyS0 quiet panic=-1"
_GRACE_S: Final = 10.0


def run_task(task: Task, update: Update) -> Outcome:
    """Run the guest to its end.  Raises RingletError, and ImageError if it takes too long."""
    messages, printed, wrong = _Tail(), _Tail(), _Tail()
    told: list[int] = []

    def on_output(data: bytes) -> None:
        printed(data)
        if found := _SHOWN.findall(data):
            update(f"setting up {found[-1].decode()}")

    status = StatusPort(on_init=_nothing, on_ready=_nothing, on_exit=told.append, on_next=_nothing)
    wires = [Wire(messages), Wire(on_output), Wire(wrong), Wire(status)]
    append = with_huge_pages(_APPEND, task.kernel.vmlinuz)
    config = LinuxConfig(task.kernel.vmlinuz, task.memory, task.initrd, append)
    engine = Engine(directory=translations_directory(), kernel=task.kernel.vmlinuz)
    with _opened(task) as disks:
        devices = [partial(Block, disk, name=f"disk{n}") for n, disk in enumerate(disks)]
        machine = boot.build(config, engine, Options(wires, devices=devices)).machine
        runner = Runner(machine)
        runner.start()
        try:
            in_time = runner.done.wait(LIMIT_S)
        finally:
            if not runner.done.is_set():
                machine.stop(outcome.quit_by_user())
                runner.done.wait(_GRACE_S)
    if runner.error is not None:
        raise runner.error
    if not in_time:
        raise ImageError(f"the guest did not finish within {LIMIT_S / 60:.0f} minutes")
    with contextlib.suppress(OSError):  # the next run translates again
        engine.keep()
    text = wrong.text() or printed.text() or messages.text()
    return Outcome(told[0] if told else None, text)


class _Tail:
    """The last bytes of an output."""

    def __init__(self) -> None:
        self._data = b""

    def __call__(self, data: bytes) -> None:
        self._data = (self._data + data)[-KEPT:]

    def text(self) -> str:
        """Return them as text."""
        return self._data.decode(errors="replace").strip()


@contextlib.contextmanager
def _opened(task: Task) -> Iterator[list[Disk]]:
    """Give the disks, which are closed, with all that was written, after the body."""
    with contextlib.ExitStack() as stack:
        disks = []
        for path in task.disks:
            disk = open_disk(DiskSpec(path, Access.WRITE, Format.RAW), _nothing)
            stack.callback(disk.close)
            disks.append(disk)
        yield disks


def _nothing(*_: object) -> None:
    """Do nothing."""
