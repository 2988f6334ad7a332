"""Runs a machine in a process of its own, which outlives the terminal: `ringlet run -d`."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from ringlet.cli.commands import AgentCommand, Task
from ringlet.cli.consoles import Console, Quiet, discard
from ringlet.cli.launch import Watching, execute, task_of
from ringlet.cli.named import Named
from ringlet.cli.progress import Progress
from ringlet.cli.signals import Stopped, held, let_go, status_of
from ringlet.cli.streams import complain, emit
from ringlet.cli.supervise import supervise
from ringlet.control.agent.agent import START_TIMEOUT
from ringlet.control.background.names import make_name
from ringlet.control.background.places import ERRORS, machines, require_free
from ringlet.control.board import Board
from ringlet.control.plan import Plan, check_files, plan
from ringlet.control.setup import setup_runner
from ringlet.control.spec import MachineSpec, on_command_line
from ringlet.control.words import BUSYBOX
from ringlet.errors import (
    CommandError,
    ConfigError,
    HostError,
    InternalError,
    RingletError,
    unexpected,
)
from ringlet.images.initramfs import Serve, Shell
from ringlet.machine import host
from ringlet.machine.outcome import STATUS_TIMEOUT, End, EndKind

_STREAMS: Final = (0, 1, 2)
_LONGEST_REPORT: Final = 1 << 16
MAX_COMPLAINTS: Final = 1000
"""Lines in the log of errors of a machine in the background."""


class _Complaints:
    """Writes the first lines that the user should know to the log of errors."""

    def __init__(self) -> None:
        self._left = MAX_COMPLAINTS

    def __call__(self, line: str) -> None:
        if self._left:
            self._left -= 1
            complain(line)


class StartError(RingletError):
    """What the machine's process has said."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


def run_detached(
    spec: MachineSpec, command: Sequence[str], watching: Watching, *, remove: bool
) -> int:
    """Start the machine in the background, print its name once it is up, and return 0.

    Raises RingletError, with the status of a machine that has ended before.
    """
    check_files(spec, on_command_line)
    host.require()
    if spec.kernel is not None and command:
        raise ConfigError(
            "-d: a kernel of your own takes no command in the background; leave out the command"
        )
    spec = replace(spec, name=spec.name or make_name({found.name for found in machines()}))
    require_free(spec.name)
    reads, writes = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with held():
        process = os.fork()
        if not process:
            _child(spec, command, watching, writes, remove=remove)
    os.close(writes)
    try:
        with Progress(f"starting {spec.name}") as progress, os.fdopen(reads, "rb") as reports:
            _await(process, reports, progress)
    except (Stopped, KeyboardInterrupt):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        raise
    emit(spec.name)
    return 0


def _await(process: int, reports: Any, progress: Progress) -> None:
    """Return when the machine is up.  Raises StartError."""
    while line := reports.readline(_LONGEST_REPORT):
        report = json.loads(line)
        if "up" in report:
            return
        if "failed" in report:
            raise StartError(report["failed"], report["status"])
        if "step" in report:
            progress.step(report["step"])
        else:
            progress.end_steps()
            progress.update(f"starting {report['starting']}")
    _, code = os.waitpid(process, 0)
    raise HostError(
        f"the machine's process was ended ({os.waitstatus_to_exitcode(code)}) before its guest was "
        "ready; see whether the host has memory left"
    )


class _Report:
    """The pipe to the process that waits until the machine is up.  Any thread may use it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the last word was said."""
        return self._fd < 0

    def step(self, text: str) -> None:
        """Tell what is done before the machine can start."""
        self._say({"step": text})

    def starting(self, name: str) -> None:
        """Tell that the machine starts."""
        self._say({"starting": name})

    def up(self) -> None:
        """Tell that the machine is up."""
        self._say({"up": True}, last=True)

    def failed(self, message: str, status: int) -> None:
        """Tell why it will not be."""
        self._say({"failed": message, "status": status}, last=True)

    def _say(self, report: dict[str, object], *, last: bool = False) -> None:
        with self._lock:
            if self._fd < 0:
                return
            with contextlib.suppress(OSError):  # it waits no more
                os.write(self._fd, json.dumps(report).encode() + b"\n")
            if last:
                os.close(self._fd)
                self._fd = -1


def _child(
    spec: MachineSpec, command: Sequence[str], watching: Watching, pipe: int, *, remove: bool
) -> NoReturn:
    """Become the machine's process."""
    status = InternalError.exit_status
    try:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        let_go()
        pipe = _keep_only(pipe)
        status = _run(spec, command, watching, _Report(pipe), remove=remove)
    except Stopped as stopped:
        status = stopped.exit_status
    finally:
        # Neither the caller's handlers nor its buffers are this process's.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def _keep_only(pipe: int) -> int:
    """Close all files but `pipe`, which is 3 then; the standard streams are /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    moved = os.dup(pipe)
    for fd in _STREAMS:
        os.dup2(null, fd)
    os.dup2(moved, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return 3


def _write_errors(directory: Path) -> None:
    log = os.open(directory / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _run(
    spec: MachineSpec, command: Sequence[str], watching: Watching, report: _Report, *, remove: bool
) -> int:
    """Run the machine to its end and return the exit status; every error becomes one line."""
    named = Named(spec, command, remove=remove, on_up=report.up)
    try:
        with named:
            assert named.place is not None
            _write_errors(named.place.directory)
            try:
                end = _run_named(named, spec, command, watching, report)
            except Stopped:
                if not named.built:
                    named.forget()
                raise
            except Exception as error:
                if not named.built:
                    named.forget()
                raise error if isinstance(error, RingletError) else unexpected(error) from error
            if not report.over and end.status == status_of(signal.SIGTERM):
                named.forget()  # its user did not wait until it was up
            named.end(end.status, end.message)
    except (RingletError, InternalError) as error:
        complain(str(error))
        report.failed(str(error), error.exit_status)
        return error.exit_status
    if not report.over:
        why = end.message or "the guest has ended before it was ready"
        seen = "" if remove else f"; ringlet logs {spec.name} shows what it has printed"
        report.failed(why + seen, end.status or STATUS_TIMEOUT)
    return end.status


class _Background(AgentCommand):
    """A command whose output goes to the log, and which reads nothing."""

    def __init__(self, task: Task, named: Named, report: _Report) -> None:
        super().__init__(task, discard, sinks=(named.log, named.log))
        self._report = report

    def refused(self, error: CommandError) -> None:
        """Tell the user that the command cannot be started."""
        complain(str(error))
        self._report.failed(str(error), error.exit_status)

    def _started(self) -> None:
        super()._started()
        self._report.up()


def _run_named(
    named: Named, spec: MachineSpec, command: Sequence[str], watching: Watching, report: _Report
) -> End:
    found, task = _plan(named, spec, command, report.step)
    console: Console = Quiet()
    if task is not None:
        named.on_up = _nothing  # it is up when the command has started
        console = _Background(replace(task, reads=False), named, report)
        spec = replace(spec, reboot=False)
    report.starting(found.name)
    board = Board(spec, found, named.lines(console), undisturbed=held, complain=_Complaints())
    with contextlib.closing(board):
        connect = named.serve(board)
        if isinstance(console, AgentCommand):
            console.connect = connect
        limit = threading.Timer(START_TIMEOUT, _give_up, [board, report])
        limit.daemon = True
        limit.start()
        with console:
            end = board.run(lambda machine: execute(machine, spec, watching, console))
        limit.cancel()
    if board.trouble:
        complain(board.trouble)
    told = console.told.status if isinstance(console, AgentCommand) else None
    if told is not None and end.kind is EndKind.POWER_OFF:
        return End(end.kind, told)
    return end


def _nothing() -> None:
    """Do nothing."""


def _give_up(board: Board, report: _Report) -> None:
    if not report.over:
        why = f"the guest takes no commands after {START_TIMEOUT:g} s"
        board.stop(End(EndKind.TIMEOUT, STATUS_TIMEOUT, why))


def _plan(
    named: Named, spec: MachineSpec, command: Sequence[str], progress: Callable[[str], None]
) -> tuple[Plan, Task | None]:
    """Return what the machine starts from, and its command, if it has one."""
    runner = setup_runner(supervise)
    if not (spec.guest or spec.image or spec.root):
        return plan(spec, Shell(), run_setup=runner, called=on_command_line), None
    serves = bool(command) or spec.guest == BUSYBOX
    quiet = bool(command) and spec.log is None
    found = plan(
        spec, Serve() if serves else None, run_setup=runner, quiet=quiet, progress=progress,
        called=on_command_line,
    )  # fmt: skip
    serves = not found.boots
    task = task_of(spec, found, command, terminal=False)
    named.settings(task.env, task.cwd, task.user)
    runs = serves and (bool(command) or spec.guest != BUSYBOX)
    return found, task if runs else None
