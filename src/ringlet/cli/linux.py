"""`ringlet run --kernel` and `ringlet run debian`: run Linux on a PC."""

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ringlet.cli.consoles import (
    STDERR,
    STDIN,
    CommandStreams,
    Console,
    ShellStreams,
    Told,
    console_for,
    discard,
)
from ringlet.cli.gdb import debugged
from ringlet.cli.progress import Progress
from ringlet.cli.signals import held
from ringlet.cli.started import STARTED_NS
from ringlet.cli.stats import Moments, print_stats, printing_on_request
from ringlet.cli.streams import complain
from ringlet.cli.supervise import supervise
from ringlet.cli.terminal import WindowSize, window_size
from ringlet.cli.watch import watched
from ringlet.config import DEBIAN_LEAST, DIRECT, LinuxConfig, linux_memory
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.images.arguments import with_huge_pages
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from ringlet.images.initramfs import Command, Shell, make_initramfs
from ringlet.images.store import translations_directory
from ringlet.machine import boot, host
from ringlet.machine.engine import Engine
from ringlet.machine.linux import check, read_kernel
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.pc import Options

NAMES: Final = ("debian",)
"""The guests that the command line knows by name."""

# The kernel resets the machine at once after a panic, and the reset ends the run.
_PANIC: Final = " panic=-1"
_WAY_OUT: Final = "; Ctrl-A x ends it"
_USUAL_SIZE: Final = WindowSize(24, 80)


@dataclass(frozen=True, slots=True)
class LinuxOptions:
    """The options of the command line as the user gave them."""

    kernel: str = ""
    initrd: str = ""
    append: str = ""
    memory: str = ""
    console: str = "stdio"
    reboot: bool = True
    debug_exit: bool = False
    stats: bool = False
    exact: bool = False
    direct: str = DIRECT.default
    cold: bool = False
    trace: str = ""
    compare: int = 0
    gdb: str = ""
    gdb_wait: bool = False


def run_linux(options: LinuxOptions) -> int:
    """Run the kernel that the options name and return the exit status.  Raises RingletError."""
    initrd = Path(options.initrd) if options.initrd else None
    memory = linux_memory(options.memory, host.memory_size())
    config = LinuxConfig(Path(options.kernel), memory, initrd, options.append)
    # Check before any file is opened or written.
    check(read_kernel(config.kernel, config.memory), config.append, initrd)
    host.require()
    with Progress(f"starting {config.kernel.name}{_WAY_OUT}") as progress:
        end = _run(config, options, console_for(options.console, progress), Told())
    return _status(end)


def run_debian(options: LinuxOptions, package: str, command: Sequence[str], verbose: bool) -> int:
    """Run a shell or `command` on Debian's kernel with busybox and return the exit status.

    Without a terminal, the shell runs as a command that reads standard input.  Raises
    RingletError.
    """
    given = bool(command)
    if not command and not os.isatty(STDIN):
        command = ["sh"]
    memory = linux_memory(options.memory, host.memory_size(), least=DEBIAN_LEAST)
    host.require()
    with Progress("starting") as progress:
        kernel = fetch_kernel(package, progress.update)
        read_kernel(kernel.vmlinuz, memory)
        busybox = find_busybox(progress.update)
        progress.update(f"starting Linux {kernel.release}{'' if command else _WAY_OUT}")
        append = f"console=ttyS0 {'' if verbose else 'quiet '}{options.append}"
        append = with_huge_pages(append, kernel.vmlinuz)
        term = os.environ.get("TERM", "vt100")
        task: Shell | Command
        streams: ShellStreams | CommandStreams
        if command:
            append += _PANIC
            options = replace(options, reboot=False)
            task = Command(tuple(os.fsencode(argument) for argument in command), term)
            log = FdSink(STDERR, "standard error") if verbose else discard
            streams = CommandStreams(log, progress)
        else:
            size = window_size(STDIN) or _USUAL_SIZE
            task = Shell(term, size.rows, size.columns)
            streams = ShellStreams(size, progress)
        initrd = make_initramfs(busybox, task)
        config = LinuxConfig(kernel.vmlinuz, memory, initrd, append)
        end = _run(config, options, streams, streams.told)
    if streams.told.status is not None and end.kind is EndKind.POWER_OFF:
        return streams.told.status
    if command and end.kind is EndKind.RESET:
        complain(_early_reset("command" if given else "shell", verbose))
        return end.status
    if command and end.message and sys.stderr is not None and sys.stderr.isatty():
        print(file=sys.stderr)  # the command may have left its line unfinished
    return _status(end)


def _early_reset(task: str, verbose: bool) -> str:
    """Return the message that the guest's reset came before the end of `task`."""
    message = f"the guest reset its machine before the {task} ended"
    if verbose:
        return message
    return f"{message}, as its kernel does after a panic; -v shows the kernel's messages"


def _run(config: LinuxConfig, options: LinuxOptions, console: Console, told: Told) -> End:
    """Run the machine, and build and run it anew after each reset unless a reset ends the run."""
    directory = None if options.cold else translations_directory()
    engine = Engine(
        exact=options.exact, direct=options.direct, directory=directory, kernel=config.kernel
    )
    moments = Moments(STARTED_NS)
    with console:
        while True:
            pc = boot.build(config, engine, Options(console.wires(), options.debug_exit))
            console.attach(pc)
            counters = (
                printing_on_request(pc.machine) if options.stats else contextlib.nullcontext()
            )
            with watched(pc.machine, options.trace, options.compare), counters:
                if options.gdb:
                    console.progress.end()
                    end = debugged(pc.machine, options.gdb, wait=options.gdb_wait)
                else:
                    end = supervise(pc.machine)
            trouble = _keep(engine)
            if end.kind is not EndKind.RESET or not options.reboot:
                break
            moments.command = 0  # the command's start says nothing about the next machine
    console.progress.end()
    if trouble:
        complain(trouble)
    if options.stats:
        moments.init = told.init_ns
        print_stats(pc.machine.counters(), moments, pc.machine.emulated_forms())
    return end


def _keep(engine: Engine) -> str:
    """Keep the translations; return a warning if they cannot be kept, or an empty text."""
    try:
        with held():
            engine.keep()
    except OSError as error:
        where = error.filename or "translations"
        what = error.strerror or error
        return f"{where}: cannot keep translations: {what}; --cold runs without them"
    return ""


def _status(end: End) -> int:
    if end.message:
        complain(end.message)
    return end.status
