"""Runs the machine that `ringlet run` describes, on the terminal or the streams of the command."""

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ringlet.cli.commands import AgentCommand, EitherCommand, Task
from ringlet.cli.consoles import (
    STDERR,
    STDIN,
    Booted,
    Console,
    ShellStreams,
    Told,
    console_for,
    discard,
)
from ringlet.cli.gdb import debugged
from ringlet.cli.named import Named
from ringlet.cli.progress import Progress
from ringlet.cli.signals import held
from ringlet.cli.started import STARTED_NS
from ringlet.cli.stats import Moments, print_stats, printing_on_request
from ringlet.cli.streams import complain
from ringlet.cli.supervise import supervise
from ringlet.cli.terminal import WindowSize, window_size
from ringlet.cli.watch import watched
from ringlet.config import MachineConfig
from ringlet.control.board import Board
from ringlet.control.command import in_environment
from ringlet.control.plan import Plan, check_files, plan
from ringlet.control.setup import setup_runner
from ringlet.control.spec import MachineSpec, on_command_line
from ringlet.control.words import BUSYBOX
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.errors import ConfigError
from ringlet.images.catalog import Settings
from ringlet.images.initramfs import Command, Serve, Shell
from ringlet.images.release import AMD64, split_release
from ringlet.machine import host
from ringlet.machine.bare import check_program
from ringlet.machine.loading import unmarked
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.vm import Vm

_GAVE_UP: Final = 3
_WAY_OUT: Final = "; Ctrl-A x ends it"
_NO_ROOT: Final = "Unable to mount root fs"
_NEEDS_INITRD: Final = (
    "; a kernel alone needs --initrd FILE, or a guest: ringlet run --kernel FILE debian"
)
_TRACES: Final = "; --trace FILE shows what came before"
_USUAL_SIZE: Final = WindowSize(24, 80)
_SHELLS: Final = ("sh", "/bin/sh", "ash", "bash", "/bin/bash")


@dataclass(frozen=True, slots=True)
class Watching:
    """What the user wants to see of a run, besides the guest's output."""

    verbose: bool = False
    stats: bool = False
    trace: str = ""
    compare: int = 0
    gdb: str = ""
    gdb_wait: bool = False


def run_program(spec: MachineSpec, watching: Watching) -> int:
    """Run a program on the bare machine and return the exit status.  Raises RingletError."""
    assert spec.program is not None
    check_program(MachineConfig(spec.program, spec.memory, flat=spec.flat))
    host.require()
    console = console_for(spec.console, bare=True)
    board = Board(spec, None, console, undisturbed=held)
    with console:
        end = board.run(lambda machine: execute(machine, spec, watching, console))
    if end.message:
        complain(end.message)
    if watching.stats and board.machine is not None:
        print_stats(board.machine.counters(), forms=board.machine.emulated_forms())
    return end.status


def run_kernel(spec: MachineSpec, watching: Watching, *, remove: bool = False) -> int:
    """Run a kernel of the user's own and return the exit status.  Raises RingletError.

    With `remove`, nothing remains of a machine with a name.
    """
    check_files(spec, on_command_line)
    host.require()
    assert spec.kernel is not None
    if doubt := unmarked(spec.kernel):
        complain(doubt)
    name = spec.kernel.name
    named = Named(spec, remove=remove)
    with named, Progress(f"starting {name}{_WAY_OUT}") as progress:
        console = console_for(spec.console, progress)
        found = plan(spec, Shell(), run_setup=setup_runner(), called=on_command_line)
        board = Board(
            spec, found, named.lines(console), undisturbed=held, complain=complain
        )
        with contextlib.closing(board):
            named.serve(board)
            end = _run(board, console, watching, Told())
        if end.kind is EndKind.PANIC and _NO_ROOT in end.message and spec.initrd is None:
            end = replace(end, message=end.message + _NEEDS_INITRD)
        named.end(end.status, end.message)
    return _status(end)


def run_guest(
    spec: MachineSpec,
    command: Sequence[str],
    watching: Watching,
    *,
    terminal: bool = False,
    remove: bool = False,
) -> int:
    """Run a guest with a name, an image or a root, and return the exit status.

    Without a command it has a shell on its console, or boots as its own init wants; without a
    terminal, a shell runs as a command that reads standard input.  With `terminal`, the command
    needs one, as for -t.  With `remove`, nothing remains of a machine with a name.  Raises
    RingletError.
    """
    check_files(spec, on_command_line)
    if terminal and not os.isatty(STDIN):
        raise ConfigError("-t: standard input is not a terminal; leave out -t")
    given = bool(command)
    # A kernel of the user's own may lack the driver of the agent, which is a 64-bit program.
    own = spec.kernel is not None or split_release(spec.package)[1].architecture != AMD64
    if own and terminal:
        command = _on_terminal(command)
    if not command and not os.isatty(STDIN) and not spec.image:
        command = ["sh"]
    on_console = not command and (own or spec.guest == BUSYBOX)
    boots = not on_console and not command and not terminal and os.isatty(STDIN)
    if not command and (spec.env or spec.cwd) and (on_console or boots):
        raise ConfigError("-e and -w need a command for the guest; for example: debian sh")
    host.require()
    named = Named(spec, command, remove=remove)
    with named, Progress("starting") as progress:
        term = os.environ.get("TERM", "vt100")
        log = FdSink(STDERR, "standard error") if watching.verbose else discard
        size = window_size(STDIN) or _USUAL_SIZE
        serves = Serve(term)
        task: Shell | Command | Serve | None = None if boots else serves
        if on_console:
            task = Shell(term, size.rows, size.columns)
        elif own and command:
            task = Command(in_environment(spec, command), term)
        if command:
            spec = replace(spec, reboot=False)
        found = plan(
            spec, task, otherwise=serves, run_setup=setup_runner(supervise),
            # Others need the agent, and without them it is what makes a shell start later.
            commands=bool(spec.name) if on_console else not (own and spec.name),
            quiet=not watching.verbose and spec.log is None,
            window=(size.rows, size.columns) if boots else (0, 0), progress=progress.step,
            called=on_command_line,
        )  # fmt: skip
        streams: ShellStreams | EitherCommand | AgentCommand | Booted
        if on_console:
            streams = ShellStreams(size, progress)
        elif found.boots:
            # An image's systemd may be older than that setting.
            streams = Booted(size if spec.guest else WindowSize(0, 0), progress)
        else:
            ran = task_of(spec, found, command, terminal=terminal or boots)
            named.settings(ran.env, ran.cwd, ran.user)
            kind = EitherCommand if own else AgentCommand
            streams = kind(ran, log, progress)
        progress.end_steps()
        progress.update(f"starting {found.name}{'' if command else _WAY_OUT}")
        board = Board(spec, found, named.lines(streams), undisturbed=held, complain=complain)
        connect = named.serve(board)
        if not isinstance(streams, ShellStreams):
            streams.connect = connect
        with contextlib.closing(board):
            end = _run(board, streams, watching, streams.told)
        what = "command" if given else "shell" if command else ""
        status = _result(end, streams.told, watching, what, board.tail.complaint())
        named.end(status, end.message)
    return status


def _result(end: End, told: Told, watching: Watching, command: str, complaint: str) -> int:
    """Return the exit status of a run, and say why it is none of the guest's.

    `command` is what ran, if anything did; `complaint` is what the guest's init said if it gave up.
    """
    if end.kind is EndKind.POWER_OFF and told.status is not None:
        return told.status
    if end.kind is EndKind.POWER_OFF and complaint:
        complain(f"the guest says: {complaint}")
        return _GAVE_UP
    if command and end.kind is EndKind.RESET:
        complain(f"{end.message} before the {command} ended")
        return end.status
    if end.kind is EndKind.PANIC and command and not watching.verbose:
        complain(f"{end.message}; --verbose shows the kernel's messages")
        return end.status
    if command and end.message and sys.stderr is not None and sys.stderr.isatty():
        print(file=sys.stderr)  # the command may have left its line unfinished
    return _status(end)


def task_of(
    spec: MachineSpec, found: Plan, command: Sequence[str], *, terminal: bool
) -> Task:
    """Return the command with what the image's configuration says of it."""
    settings = found.image.settings if found.image is not None else Settings()
    own = tuple(variable.partition("=")[::2] for variable in settings.env)
    words = [*settings.entrypoint, *(command or settings.command)] or ["sh"]
    if command and not settings.entrypoint:
        words = [*command]
    return Task(
        words, (*own, *spec.env), spec.cwd or settings.directory, settings.user, terminal=terminal
    )


def _on_terminal(command: Sequence[str]) -> Sequence[str]:
    """Return the command that runs on a terminal; none for the guest's shell.

    Raises ConfigError for another command.
    """
    if not command or tuple(command) in {(shell,) for shell in _SHELLS}:
        return []
    raise ConfigError(
        "-t: only the guest's shell has a terminal so far; leave out -t, or leave out the command"
    )


def _run(board: Board, console: Console, watching: Watching, told: Told) -> End:
    moments = Moments(STARTED_NS)
    with console:
        end = board.run(lambda machine: execute(machine, board.spec, watching, console))
    console.progress.end()
    if board.trouble:
        complain(board.trouble)
    if watching.stats and board.machine is not None:
        moments.init = told.init_ns
        if board.resets:
            moments.command = 0  # the command's start says nothing about a later machine
        print_stats(board.machine.counters(), moments, board.machine.emulated_forms())
    return end


def execute(machine: Vm, spec: MachineSpec, watching: Watching, console: Console) -> End:
    """Run a machine to its end, watched as the user wants it."""
    counters = printing_on_request(machine) if watching.stats else contextlib.nullcontext()
    progress = console.progress.update
    with watched(machine, watching.trace, watching.compare, progress), counters:
        if watching.gdb:
            console.progress.end()
            file = spec.program or spec.kernel
            return debugged(machine, watching.gdb, file, wait=watching.gdb_wait)
        end = supervise(machine)
    if end.kind is EndKind.TRIPLE_FAULT and not (watching.trace or watching.compare):
        return replace(end, message=end.message + _TRACES)
    return end


def _status(end: End) -> int:
    if end.message:
        complain(end.message)
    return end.status
