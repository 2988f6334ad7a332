"""`ringlet.Machine`: a PC with Linux that a program controls."""

import asyncio
import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ringlet.config import (
    DEBIAN_LEAST,
    DIRECT,
    MEMORY,
    PACKAGE,
    LinuxConfig,
    linux_memory,
    parse_direct,
)
from ringlet.control.console import Console
from ringlet.errors import ConfigError
from ringlet.images.arguments import with_huge_pages
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
    """A PC that starts a Linux kernel and whose console the program uses.

    `kernel` is a bzImage or vmlinux, `initrd` a file or its contents, `append` the command line,
    and `memory` a number of bytes or a size such as "512M", or None for the default of
    `ringlet run`; `exact`, `direct` and `cold` are its options with those names.  The run ends when
    the guest resets the machine.
    Use it as a context manager, or call `close`.  Wrong values raise a
    `ringlet.errors.RingletError`.
    """

    def __init__(
        self,
        kernel: str | Path,
        *,
        initrd: str | Path | bytes | None = None,
        append: str = "console=ttyS0",
        memory: str | int | None = None,
        exact: bool = False,
        direct: str = DIRECT.default,
        cold: bool = False,
    ) -> None:
        self._config = LinuxConfig(
            Path(kernel),
            linux_memory(memory, host.memory_size(), name=MEMORY.parameter),
            Path(initrd) if isinstance(initrd, str) else initrd,
            append,
        )
        directory = None if cold else translations_directory()
        self._engine = Engine(
            exact=exact,
            direct=parse_direct(direct, DIRECT.parameter),
            directory=directory,
            kernel=self._config.kernel,
        )
        self._pc: Pc | None = None
        self._runner: Runner | None = None
        self.console = Console(self._poll, self._running)

    @classmethod
    def debian(
        cls,
        *,
        package: str = PACKAGE.default,
        append: str = "",
        memory: str | int | None = None,
        exact: bool = False,
        direct: str = DIRECT.default,
        cold: bool = False,
    ) -> Self:
        """Return a machine with Debian's kernel and a busybox shell on its console."""
        size = linux_memory(
            memory, host.memory_size(), name=MEMORY.parameter, least=DEBIAN_LEAST
        )
        parse_direct(direct, DIRECT.parameter)
        kernel = fetch_kernel(package).vmlinuz
        return cls(
            kernel,
            initrd=make_initramfs(find_busybox(), Shell()),
            append=with_huge_pages(f"console=ttyS0 quiet {append}", kernel),
            memory=size,
            exact=exact,
            direct=direct,
            cold=cold,
        )

    # --- running

    def boot(self) -> None:
        """Build the machine and run it in a thread of its own."""
        if self._runner is not None:
            raise ConfigError("this machine was started before; make another one")
        host.require()
        wire = Wire(self.console.take, self.console.backlog.take, handshake=True)
        self._pc = boot.build(self._config, self._engine, Options([wire]))
        self._runner = Runner(self._pc.machine)
        self._runner.start()
        threading.Thread(target=self._watch, args=(self._runner,), daemon=True).start()

    def wait(self, timeout: float | None = None) -> End:
        """Wait for the end of the guest and return how it ended.

        Raises TimeoutError, and any exception of the run.
        """
        runner = self._running()
        if not runner.done.wait(timeout):
            raise TimeoutError(f"the guest is still running after {timeout} s")
        if runner.error is not None:
            raise runner.error
        assert runner.end is not None
        return runner.end

    async def finished(self) -> End:
        """Do the same as `wait`, for coroutines."""
        return await asyncio.to_thread(self.wait)

    def stop(self) -> None:
        """Stop the guest at once, as if the power was cut."""
        self._running().machine.stop(outcome.quit_by_user())

    def close(self) -> None:
        """Stop the guest if it runs, and wait for its end."""
        if self._runner is not None:
            self.stop()
            self._runner.done.wait()
            self.console.end()
            with contextlib.suppress(OSError):  # translations that are not kept are made again
                self._engine.keep()

    def counters(self) -> dict[str, int]:
        """Return the machine's counters, which `ringlet.observe` describes."""
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

    # --- implementation

    def _running(self) -> Runner:
        if self._runner is None:
            raise ConfigError("this machine was not started; call boot()")
        return self._runner

    def _poll(self) -> None:
        if self._pc is not None:
            self._pc.machine.post(self._pc.coms[0].poll)

    def _watch(self, runner: Runner) -> None:
        runner.done.wait()
        self.console.end()
