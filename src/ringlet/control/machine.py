"""`ringlet.Machine`: a virtual machine that a program builds, runs and watches."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, Unpack

from ringlet.config import DIRECT, PACKAGE, MachineConfig, format_size
from ringlet.control.agent.agent import Agent
from ringlet.control.agent.command import Result
from ringlet.control.agent.files import Files
from ringlet.control.agent.options import RunOptions
from ringlet.control.agent.process import Process
from ringlet.control.agent.readiness import wait_until_booted
from ringlet.control.board import Board
from ringlet.control.closing import Closing
from ringlet.control.console import Console
from ringlet.control.events import Events, Handler, Stops
from ringlet.control.guest_thread import GuestThread
from ringlet.control.inside import Cpu, Memory, NoKernelYet, inside
from ringlet.control.plan import check_files, plan
from ringlet.control.setup import setup_runner
from ringlet.control.spec import Disks, MachineSpec, Mounts, Ports, Variables, machine_spec
from ringlet.control.turning_off import turn_off
from ringlet.control.words import BUSYBOX
from ringlet.devices.virtio.threads import block_signals
from ringlet.errors import (
    AgentError,
    AgentTimeoutError,
    BootError,
    ConfigError,
    GuestEnded,
    GuestPanic,
    GuestTimeout,
    RingletError,
)
from ringlet.images.initramfs import Shell
from ringlet.machine import host, outcome
from ringlet.machine.bare import check_program
from ringlet.machine.loading import starts_linux
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.pc import Wire
from ringlet.machine.vm import Vm
from ringlet.machine.wired import Wired
from ringlet.network_config import NetConfig, NetMode

DEBIAN: Final = "debian"
_TERM: Final = "dumb"
"""A program is no terminal: with this, a shell asks it nothing (ESC [ 6 n) and draws nothing."""

_COLUMNS: Final = 10_000
"""The width of the console, so that a shell breaks no line that a program types."""

_PROMPT: Final = "# "
_SOON_S: Final = 1.0
"""How long after its agent a guest ends; more means that only the agent has ended."""


class Machine(Closing):
    """A virtual machine.

    `guest` is a guest's name, an image, or the file of a kernel or disk, as for `ringlet run`.
    With `kernel`, the guest starts that kernel; with `initrd` as well, there is no other guest.
    `memory` is a size ("512M", "1.5G"), a number of MiB, or, from 1048576 on, of bytes; None gives
    1 GiB, or half of a smaller host's RAM.  `append` is text for the kernel's command line.
    `mounts` has "HOST:GUEST[:ro]" or maps HOST to GUEST; `ports` has "HOST:GUEST" or maps them;
    `disks` has "FILE[,ro|,snapshot]"; `net` is "none", "user" or "tap:NAME".  `user_data` is a file
    for cloud-init in the guest, or its contents as bytes; `vsock` is the path of a socket to the
    guest (docs/networking.md).  `env` has variables for all commands.  After `timeout` (seconds, or
    "2m") the run ends.  With `reboot`, a reset by the guest starts it again, else it ends the run.
    `log` is a file for the console's output.  `exact`, `direct`, `cold`, `debug_exit` and `package`
    are the options of `ringlet run` with those names.  `program` is the file of a program for the
    bare machine, and `flat` the mode and place of one without a format, such as "16@0x7c00".

    Use it as a context manager, which starts nothing but frees everything, or call `close`.
    Raises ConfigError, ProgramError or ImageError, at once for all that can be checked at once.
    """

    def __init__(
        self,
        guest: str | Path | None = DEBIAN,
        *,
        kernel: str | Path | None = None,
        initrd: str | Path | bytes | None = None,
        root: str | Path | None = None,
        memory: str | int | None = None,
        cpus: int = 1,
        append: str | None = None,
        mounts: Mounts = None,
        disks: Disks = None,
        ports: Ports = None,
        net: str | NetConfig | None = None,
        user_data: str | Path | bytes | None = None,
        vsock: str | Path | None = None,
        env: Variables = None,
        timeout: str | float | None = None,
        name: str = "",
        log: str | Path | None = None,
        package: str = PACKAGE.default,
        direct: str = DIRECT.default,
        exact: bool = False,
        cold: bool = False,
        reboot: bool = False,
        debug_exit: bool = False,
        program: str | Path | None = None,
        flat: str | None = None,
    ) -> None:
        alone = program is not None or (initrd is not None and kernel is not None)
        if alone and guest == DEBIAN:
            guest = None
        spec = machine_spec(
            None if guest is None else str(guest), kernel=kernel, initrd=initrd, root=root,
            memory=memory, cpus=cpus, append=append, mounts=mounts, disks=disks, ports=ports,
            net=net, user_data=user_data, vsock=vsock, env=env, timeout=timeout, name=name, log=log,
            package=package, direct=direct, exact=exact, cold=cold, reboot=reboot,
            debug_exit=debug_exit, program=program, flat=flat,
        )  # fmt: skip
        self._set_up(spec)

    def _set_up(self, spec: MachineSpec) -> None:
        if spec.program is None:
            check_files(spec)
        else:
            check_program(MachineConfig(spec.program, spec.memory, flat=spec.flat))
        self.spec = spec
        self._board: Board | None = None
        self._thread: threading.Thread | None = None
        self._agent: Agent | None = None
        self._end: End | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._counters: dict[str, int] = {}
        self.thread = GuestThread()
        self.console = Console(self._poll, self._running)
        self.memory = Memory(self)
        self.cpu = Cpu(self)
        self._events = Events(self.memory)

    @classmethod
    def of(cls, spec: MachineSpec) -> Self:
        """Return the machine that `spec` describes.  Raises ConfigError and ProgramError."""
        machine = cls.__new__(cls)
        machine._set_up(spec)  # noqa: SLF001 - it is its own
        return machine

    # --- its life

    def start(self) -> Self:
        """Build the machine, let it run in a thread of its own, and return it.

        The first use of a guest fetches it.  Raises ConfigError if it was started before,
        HostError, ImageError and ProgramError.
        """
        if self._thread is not None:
            raise ConfigError("this machine was started before; make another one")
        host.require()
        task = Shell(_TERM, columns=_COLUMNS) if self.spec.guest == BUSYBOX else None
        bare = self.spec.program is not None
        found = None if bare else plan(self.spec, task, run_setup=setup_runner())
        self._board = Board(self.spec, found, _Lines(self))
        self._board.build()
        self._agent = self._board.connect()
        self._thread = threading.Thread(target=self._run, name="vcpu0", daemon=True)
        self._thread.start()
        return self

    def ready(self, timeout: float | None = 60.0) -> Self:
        """Wait until a guest has booted and takes commands, and return the machine.

        One with systemd has started its services by then, or has failed to start some of them; one
        with a network has a route, unless that takes more than ten seconds.

        That of "busybox" has printed its shell's prompt by then, which `console.expect` consumes
        here.

        Raises BootError if it is not ready after `timeout` seconds or ends before, GuestPanic if
        its kernel panics, and ConfigError for a kernel of your own, of which nobody knows when.
        """
        self._running()
        if self._agent is None and not self.spec.guest:
            raise ConfigError("a kernel of your own does not say when it is ready; use expect")
        try:
            if self._agent is not None and self.spec.guest != BUSYBOX:
                with self._told_of_the_end():
                    self._agent.wait_ready(timeout)
                    if self._board is not None and self._board.boots:
                        networked = self.spec.net.mode is NetMode.USER
                        wait_until_booted(self._agent, timeout, networked=networked)
            else:
                self.console.expect(_PROMPT, timeout)
        except GuestPanic:
            raise
        except GuestTimeout as error:
            raise BootError(f"the guest is not ready after {timeout or 0:g} s: {error}") from None
        except GuestEnded as error:
            raise BootError(f"the guest ended before it was ready: {error}") from None
        return self

    def wait(self, timeout: float | None = None) -> End:
        """Wait for the end of the guest, at most `timeout` seconds, and return how it ended.

        Raises GuestTimeout if it still runs or has used up the machine's own timeout, GuestPanic
        if its kernel panicked, and any error of the run.
        """
        self._running()
        if self._here() or not self._done.wait(timeout):
            raise GuestTimeout(f"the guest is still running after {timeout or 0:g} s")
        if self._error is not None:
            raise self._error
        assert self._end is not None
        if (panic := self._panic()) is not None:
            raise panic
        if self._end.kind is EndKind.TIMEOUT:
            raise GuestTimeout(self._end.message)
        return self._end

    def stop(self, timeout: float = 10.0) -> None:
        """Let the guest turn itself off, and cut the power if it runs after `timeout` seconds.

        Its agent tells its init, which ends its services and writes its files.  If there is no
        agent, or if it does not answer, the guest's power button is pressed.  A guest that does not
        heed that either (its kernel has no driver for it yet) is cut off at once.
        """
        self._running()
        self.thread.resume()
        if not self._here():
            turn_off(self._running(), self._ask, self._done, time.monotonic() + timeout)
        self.kill()

    def _ask(self, seconds: float) -> bool:
        """Have the agent turn the guest off; return whether it answers."""
        agent = self._agent
        if agent is None:
            return False
        try:
            agent.wait_ready(0)
            agent.shutdown(timeout=seconds)
        except AgentError:
            return False
        return True

    def kill(self) -> None:
        """Stop the guest at once, as if the power was cut, and wait for that."""
        board = self._running()
        board.stop(outcome.quit_by_user())
        self.thread.resume()
        if not self._here():
            self._done.wait()

    def pause(self) -> None:
        """Stop the guest's processor until `resume`.  Its clocks go on.  Raises GuestEnded."""
        self._running()
        self.thread.pause()

    def resume(self) -> None:
        """Let a paused guest go on."""
        self._running()
        self.thread.resume()

    def close(self) -> None:
        """Stop the guest if it runs, keep its translations, and free its memory at once."""
        if self._board is None:
            return
        if self._here():
            raise ConfigError("a function that the machine calls cannot close it; use kill()")
        if self._thread is not None:
            self.kill()
            self._thread.join()
        self.console.end()
        if self._board.machine is not None:
            self._counters = self._board.machine.counters()
        self.memory.forget()
        self._board.close()

    # --- commands and files

    def run(
        self, command: str | Sequence[str], **options: Unpack[RunOptions]
    ) -> Result[str]:
        """Run a command in the guest, wait for its end, and return its output and status.

        Options are `input`, `env`, `cwd`, `user`, `timeout`, `check`, `on_stdout` and `on_stderr`.
        A text is given to the guest's shell, a sequence is run as it is; a guest that still boots
        is waited for.  Outputs are text.  `user` is a name or a number; `on_stdout` and `on_stderr`
        get output as bytes as it comes, in the calling thread.  Raises CommandTimeoutError after
        `timeout` seconds, CommandFailedError with `check` if the status is not 0, CommandError if
        it cannot be started, GuestPanic and GuestEnded if the guest ends meanwhile, and ConfigError
        if the guest has no agent.
        """
        options["env"] = {**dict(self.spec.env), **(options.get("env") or {})}
        agent = self._commands()
        with self._told_of_the_end():
            return agent.run(command, **options)

    def popen(self, command: str | Sequence[str], /, **options: Any) -> Process:
        """Start a command in the guest and return it while it runs, with its streams.

        Options are `env`, `cwd`, `user`, `tty` (a terminal of its own, with `size`), `stdin` and
        `merge` (errors go to the output).  Raises what `run` raises.
        """
        options["env"] = {**dict(self.spec.env), **(options.get("env") or {})}
        agent = self._commands()
        with self._told_of_the_end():
            return agent.popen(command, **options)

    @property
    def files(self) -> Files:
        """The guest's files: read, write, list, stat, copy_in, copy_out and more."""
        return self._commands().files

    # --- looking inside

    def on(self, event: str, handler: Handler) -> None:
        """Call `handler` at an event.

        "break:SYMBOL" (or "break:SYMBOL+0x10", "break:0xADDRESS"): before the guest executes the
        instruction there; the guest stands still meanwhile, `cpu` and `memory` may be used.
        An address is linear.  A symbol is one of a Linux kernel, and its place is known once that
        prints something, so what it executes before that is missed.  "panic": with the GuestPanic,
        after the guest's kernel panicked.  "exit": with the End, after every end.  Raises
        ConfigError for another event, and for a symbol that a running guest's kernel does not
        have, or if the guest is not Linux.
        """
        if event.startswith("break:") and not event.startswith("break:0x") and self._is_foreign():
            raise ConfigError(f"{event}: only Linux kernels have symbols; give break:0xADDRESS")
        if self._events.add(event, handler) and self._board is not None:
            with contextlib.suppress(NoKernelYet):  # `_printed` tries again
                self._events.resolve()
            if self._events.resolved:
                self.thread.call(lambda: self._set_breakpoints(self.vm()))

    def _is_foreign(self) -> bool:
        """Return whether the guest is known not to be Linux."""
        spec = self.spec
        if spec.kernel is None or spec.guest or spec.image or spec.root:
            return spec.program is not None
        return not starts_linux(spec.kernel)

    def last_output(self) -> str:
        """Return the last lines that the guest printed on its console, read or not, as text."""
        return self._board.tail.text() if self._board is not None else ""

    def counters(self) -> dict[str, int]:
        """Return the machine's counters, which `ringlet run --stats` prints."""
        board = self._running()
        return self._counters or (board.machine.counters() if board.machine is not None else {})

    def __repr__(self) -> str:
        what = self.spec.guest or self.spec.image or str(self.spec.kernel or "disk")
        name = f"{self.spec.name}: " if self.spec.name else ""
        return f"<ringlet.Machine {name}{what}, {format_size(self.spec.memory)}, {self.state}>"

    @property
    def state(self) -> str:
        """Return "new", "running", "paused" or "ended"."""
        if self._thread is None:
            return "new"
        if self._done.is_set():
            return "ended"
        return "paused" if self.thread.paused else "running"

    def vm(self) -> Vm:
        """Return the machine's run loop, for the guest's thread.  Raises GuestEnded."""
        machine = self._running().machine
        if machine is None:
            raise GuestEnded("the guest has ended; its processor and memory are gone")
        return machine

    # --- implementation

    def _here(self) -> bool:
        """Return whether the calling thread is the machine's, in a function of `on`."""
        return threading.current_thread() is self._thread

    def _running(self) -> Board:
        if self._board is None:
            raise ConfigError("this machine was not started; call start()")
        return self._board

    def _commands(self) -> Agent:
        self._running()
        if self._agent is None:
            raise ConfigError(
                "this guest has no agent that runs commands; use its console: send and expect"
            )
        return self._agent

    def _poll(self) -> None:
        board = self._board
        if board is not None and board.pc is not None:
            board.pc.machine.post(board.pc.coms[0].poll)

    def _run(self) -> None:
        assert self._board is not None
        # The guest's thread handles the signals of faults; the main thread handles all others.
        block_signals()
        self.thread.begins()
        try:
            self._end = self._board.run(lambda machine: machine.run())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            self._error = self._error or error
        self.thread.end()
        panic = self._panic()
        try:
            self._events.ended(self._end, panic)
        except Exception as error:  # noqa: BLE001 - of a program's function; whoever waits gets it
            self._error = self._error or error
        self.console.end(panic)
        self._done.set()
        if self._agent is not None:
            self._agent.close()  # whoever waits for a command learns of the end

    @contextlib.contextmanager
    def _told_of_the_end(self) -> Iterator[None]:
        """Raise how the guest ended, if its agent is gone because the guest has ended."""
        try:
            yield
        except AgentTimeoutError:
            raise
        except AgentError as error:
            if self._here() or not self._done.wait(_SOON_S):
                raise
            panic = self._panic()
            if panic is not None:
                raise panic from None
            raise GuestEnded(f"the guest has ended: {error}") from None

    def _panic(self) -> GuestPanic | None:
        if self._end is None or self._end.kind is not EndKind.PANIC or self._board is None:
            return None
        return GuestPanic(self._end.message, self._board.tail.text())

    def _attached(self, pc: Wired) -> None:
        """Use `pc`, a new machine, from now on."""
        self.thread.attach(pc.machine)
        self.memory.forget()
        self._events.moved()
        if self._events.resolved:
            self._set_breakpoints(pc.machine)
        if self._thread is not None and self._board is not None:  # after a reset
            agent, self._agent = self._agent, self._board.connect()
            if agent is not None:
                agent.close()

    def _printed(self, data: bytes) -> None:
        """Take what the guest prints, and set the breakpoints that wait for its kernel."""
        self.console.take(data)
        if self._events.unresolved:
            try:
                self._events.resolve()
                self._set_breakpoints(self.vm())
            except NoKernelYet:
                return
            except RingletError as error:  # there is no such symbol: `wait` raises it
                self.vm().fail(error)

    def _set_breakpoints(self, machine: Vm) -> None:
        cpu = inside(machine)
        machine.attach_debugger(Stops(cpu, self._events, self._handler_failed))
        self._events.set_breakpoints(cpu)

    def _handler_failed(self, error: Exception) -> None:
        """End the run with the error of a program's function."""
        self._error = self._error or error
        self._running().stop(outcome.failed())


class _Lines:
    """The serial ports of a machine: COM1 is its console."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def wires(self) -> Sequence[Wire]:
        """Return the connection of COM1."""
        machine = self._machine
        source = machine.console.backlog.take
        return [Wire(machine._printed, source, handshake=True)]  # noqa: SLF001 - it is its own

    def attach(self, pc: Wired) -> None:
        """Use `pc` from now on."""
        self._machine._attached(pc)  # noqa: SLF001 - it is its own
