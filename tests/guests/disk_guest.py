"""A guest with disks, which the test talks to on its console."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ringlet.config import LinuxConfig
from ringlet.devices.backends.backlog import Backlog
from ringlet.devices.backends.disks import Disk, open_disk
from ringlet.devices.virtio.block import Block
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.images.arguments import with_huge_pages
from ringlet.images.building import KernelModules
from ringlet.images.busybox import find_busybox
from ringlet.images.channel import StatusPort
from ringlet.images.debian import CachedKernel
from ringlet.images.initramfs import Command, Root, make_initramfs
from ringlet.images.store import translations_directory
from ringlet.machine import boot, outcome
from ringlet.machine.engine import Engine
from ringlet.machine.outcome import End
from ringlet.machine.pc import Options, Pc, Wire
from ringlet.machine.runner import Runner

MEMORY = 512 << 20


class DiskGuest:
    """A guest that starts from the disk `base`, whose changes disappear with it.

    With `overlay` the guest cannot write to its disk, and keeps the changes in its memory.
    """

    def __init__(
        self,
        kernel: CachedKernel,
        modules: KernelModules,
        base: Path,
        *command: str,
        overlay: bool = False,
    ) -> None:
        root = Root(
            options="ro" if overlay else "rw", overlay=overlay, boot=not command,
            modules=("virtio_blk", "overlay"), modules_disk="/dev/vdb",
        )  # fmt: skip
        task = Command(tuple(word.encode() for word in command)) if command else None
        initrd = modules.archive.read_bytes() + make_initramfs(find_busybox(), task, root=root)
        append = with_huge_pages("console=ttyS0 quiet panic=-1", kernel.vmlinuz)
        self._config = LinuxConfig(kernel.vmlinuz, MEMORY, initrd, append)
        self._specs = [
            DiskSpec(base, Access.READ_ONLY if overlay else Access.SNAPSHOT, Format.RAW),
            DiskSpec(modules.disk, Access.READ_ONLY, Format.RAW),
        ]
        self._changed = threading.Condition()
        self._backlog = Backlog(self._wake)
        self._pc: Pc | None = None
        self.console = b""
        self.output = b""
        self.errors = b""
        self.status: list[int] = []

    def run(self, seconds: float = 90) -> End:
        """Run the guest to its end."""
        with self.running() as runner:
            assert runner.done.wait(seconds), self.console.decode(errors="replace")[-2000:]
        assert runner.error is None
        assert runner.end is not None
        return runner.end

    @contextlib.contextmanager
    def running(self) -> Iterator[Runner]:
        """Run the guest while the body runs."""
        engine = Engine(directory=translations_directory(), kernel=self._config.kernel)
        with self._disks() as disks:
            devices = [partial(Block, disk, name=f"disk{n}") for n, disk in enumerate(disks)]
            self._pc = boot.build(self._config, engine, Options(self._wires(), devices=devices))
            runner = Runner(self._pc.machine)
            runner.start()
            try:
                yield runner
            finally:
                self._pc.machine.stop(outcome.quit_by_user())
                runner.done.wait(10)
        engine.keep()

    def type(self, text: str) -> None:
        """Send `text` to the console."""
        self._backlog.put(text.encode())

    def expect(self, text: str, seconds: float = 90) -> None:
        """Wait until the console has printed `text`; what came before it is dropped."""
        end = time.monotonic() + seconds
        with self._changed:
            while text.encode() not in self.console:
                left = end - time.monotonic()
                assert left > 0, self.console.decode(errors="replace")[-2000:]
                self._changed.wait(left)
            self.console = self.console.partition(text.encode())[2]

    def _wires(self) -> Sequence[Wire]:
        status = StatusPort(
            on_init=_nothing, on_ready=_nothing, on_exit=self.status.append, on_next=_nothing
        )
        return [
            Wire(self._printed, self._backlog.take, handshake=True), Wire(self._put_out),
            Wire(self._put_errors), Wire(status),
        ]  # fmt: skip

    def _printed(self, data: bytes) -> None:
        with self._changed:
            self.console += data
            self._changed.notify_all()

    def _put_out(self, data: bytes) -> None:
        self.output += data

    def _put_errors(self, data: bytes) -> None:
        self.errors += data

    def _wake(self) -> None:
        if self._pc is not None:
            self._pc.machine.post(self._pc.coms[0].poll)

    @contextlib.contextmanager
    def _disks(self) -> Iterator[list[Disk]]:
        with contextlib.ExitStack() as stack:
            disks = [open_disk(spec, print) for spec in self._specs]
            for disk in disks:
                stack.callback(disk.close)
            yield disks


def _nothing() -> None:
    """Do nothing."""
