"""`ringlet.Machine`: a PC with Linux, for a program."""

import asyncio
import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ringlet.config import LINUX_MEMORY, PACKAGE, LinuxConfig, parse_memory
from ringlet.control.console import Console
from ringlet.errors import ConfigError
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from ringlet.images.initramfs import Shell, make_initramfs
from ringlet.images.store import translations_directory
from ringlet.machine import boot, host, outcome
from ringlet.machine.engine import Engine
from ringlet.machine.outcome import End
from ringlet.machine.pc import Options, Pc, Wire
from ringlet.machine.runner import Runner


class Machine:
    """A PC that starts a Linux kernel, with its console in the program's hands.

    `kernel` is a bzImage or vmlinux, `initrd` a file or its contents, `append` the command line,
    `memory` a number of bytes or a size such as "512M"; `exact` and `cold` are the options of those
    names.  A guest that resets its machine ends.  Use it as a context manager, or call `close`.
    Wrong values raise a `ringlet.errors.RingletError`.
    """

    def __init__(
        self,
        kernel: str | Path,
        *,
        initrd: str | Path | bytes | None = None,
        append: str = "console=ttyS0",
        memory: str | int = LINUX_MEMORY,
        exact: bool = False,
        cold: bool = False,
    ) -> None:
        self._config = LinuxConfig(
            Path(kernel),
            parse_memory(str(memory), host.memory_size()),
            Path(initrd) if isinstance(initrd, str) else initrd,
            append,
        )
        directory = None if cold else translations_directory()
        self._engine = Engine(exact=exact, directory=directory, kernel=self._config.kernel)
        self._pc: Pc | None = None
        self._runner: Runner | None = None
        self.console = Console(self._poll)

    @classmethod
    def debian(
        cls,
        *,
        package: str = PACKAGE.default,
        append: str = "",
        memory: str | int = LINUX_MEMORY,
        exact: bool = False,
        cold: bool = False,
    ) -> Self:
        """Return a machine with Debian's kernel and a shell of busybox on its console."""
        return cls(
            fetch_kernel(package).vmlinuz,
            initrd=make_initramfs(find_busybox(), Shell()),
            append=f"console=ttyS0 quiet {append}",
            memory=memory,
            exact=exact,
            cold=cold,
        )

    # --- a life

    def boot(self) -> None:
        """Build the machine and let it run, in a thread of its own."""
        if self._runner is not None:
            raise ConfigError("this machine has been started before; make another")
        host.require()
        wire = Wire(self.console.take, self.console.backlog.take, handshake=True)
        self._pc = boot.build(self._config, self._engine, Options([wire]))
        self._runner = Runner(self._pc.machine)
        self._runner.start()
        threading.Thread(target=self._watch, args=(self._runner,), daemon=True).start()

    def wait(self, timeout: float | None = None) -> End:
        """Wait for the end of the guest and return it.

        Raises TimeoutError, and what the run raised.
        """
        runner = self._running()
        if not runner.done.wait(timeout):
            raise TimeoutError(f"the guest still runs after {timeout} s")
        if runner.error is not None:
            raise runner.error
        assert runner.end is not None
        return runner.end

    async def finished(self) -> End:
        """`wait` for coroutines."""
        return await asyncio.to_thread(self.wait)

    def stop(self) -> None:
        """Pull the plug: the guest is asked nothing."""
        self._running().machine.stop(outcome.quit_by_user())

    def close(self) -> None:
        """End the guest if it runs, and wait for that."""
        if self._runner is not None:
            self.stop()
            self._runner.done.wait()
            with contextlib.suppress(OSError):  # what is not kept is translated again
                self._engine.keep()

    def counters(self) -> dict[str, int]:
        """Return the machine's counters (`ringlet.observe` says what they count)."""
        return self._running().machine.counters()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside

    def _running(self) -> Runner:
        if self._runner is None:
            raise ConfigError("this machine has not been started; call boot()")
        return self._runner

    def _poll(self) -> None:
        if self._pc is not None:
            self._pc.machine.post(self._pc.coms[0].poll)

    def _watch(self, runner: Runner) -> None:
        runner.done.wait()
        self.console.end()
