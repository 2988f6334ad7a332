"""`ringlet run --kernel` and `ringlet run debian`: a PC with Linux, from the options to its end."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console as Screen

from ringlet.cli.consoles import (
    STDERR,
    STDIN,
    CommandStreams,
    Console,
    ShellStreams,
    console_for,
    discard,
)
from ringlet.cli.gdb import debugged
from ringlet.cli.stats import print_stats
from ringlet.cli.streams import complain
from ringlet.cli.supervise import supervise
from ringlet.cli.terminal import window_size
from ringlet.config import LINUX_MEMORY, LinuxConfig, parse_memory
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from ringlet.images.initramfs import Command, Shell, make_initramfs
from ringlet.images.store import translations_directory
from ringlet.machine import boot, host
from ringlet.machine.engine import Engine
from ringlet.machine.linux import read_kernel
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.pc import Options

NAMES: Final = ("debian",)
"""Guests that need no kernel to be given."""

# The kernel restarts the machine at once after a panic, which ends the run.
_PANIC: Final = " panic=-1"


@dataclass(frozen=True, slots=True)
class LinuxOptions:
    """The command line's options, as they were given."""

    kernel: str = ""
    initrd: str = ""
    append: str = ""
    memory: str = ""
    console: str = "stdio"
    reboot: bool = True
    debug_exit: bool = False
    stats: bool = False
    exact: bool = False
    cold: bool = False
    gdb: str = ""
    gdb_wait: bool = False


def run_linux(options: LinuxOptions) -> int:
    """Start the kernel that the options name; return the exit status.  Raises RingletError."""
    initrd = Path(options.initrd) if options.initrd else None
    config = LinuxConfig(Path(options.kernel), _memory(options), initrd, options.append)
    read_kernel(config.kernel, config.memory)
    host.require()
    return _status(_run(config, options, console_for(options.console)))


def run_debian(options: LinuxOptions, package: str, command: Sequence[str], verbose: bool) -> int:
    """Start Debian's kernel with busybox: a shell, or `command`; return the exit status.

    Without a terminal the shell is a command, which reads standard input.  Raises RingletError.
    """
    if not command and not os.isatty(STDIN):
        command = ["sh"]
    memory = _memory(options)
    host.require()
    with Screen(stderr=True).status("starting") as progress:
        kernel = fetch_kernel(package, progress.update)
        read_kernel(kernel.vmlinuz, memory)
        busybox = find_busybox(progress.update)
        progress.update(f"starting Linux {kernel.release}")
        task = _task(command)
        initrd = make_initramfs(busybox, task)
    append = f"console=ttyS0 {'' if verbose else 'quiet '}{options.append}"
    streams: ShellStreams | CommandStreams
    if command:
        append += _PANIC
        options = replace(options, reboot=False)
        streams = CommandStreams(FdSink(STDERR, "standard error") if verbose else discard)
    else:
        streams = ShellStreams()
    end = _run(LinuxConfig(kernel.vmlinuz, memory, initrd, append), options, streams)
    if streams.status is not None and end.kind is EndKind.POWER_OFF:
        return streams.status
    if command and end.kind is EndKind.RESET:
        complain("the guest's kernel panicked before the command ended; -v shows its messages")
        return end.status
    return _status(end)


def _task(command: Sequence[str]) -> Shell | Command:
    term = os.environ.get("TERM", "vt100")
    if command:
        return Command(tuple(os.fsencode(argument) for argument in command), term)
    size = window_size(STDIN)
    return Shell(term) if size is None else Shell(term, size.rows, size.columns)


def _memory(options: LinuxOptions) -> int:
    return parse_memory(options.memory or LINUX_MEMORY, host.memory_size())


def _run(config: LinuxConfig, options: LinuxOptions, console: Console) -> End:
    """Run the machine, anew after each reset unless that ends the run."""
    directory = None if options.cold else translations_directory()
    engine = Engine(exact=options.exact, directory=directory, kernel=config.kernel)
    with console:
        while True:
            pc = boot.build(config, engine, Options(console.wires(), options.debug_exit))
            console.attach(pc)
            if options.gdb:
                end = debugged(pc.machine, options.gdb, wait=options.gdb_wait)
            else:
                end = supervise(pc.machine)
            _keep(engine)
            if end.kind is not EndKind.RESET or not options.reboot:
                break
    if options.stats:
        print_stats(pc.machine.counters())
    return end


def _keep(engine: Engine) -> None:
    """Keep the translations; if that is not possible, the guest has run all the same."""
    try:
        engine.keep()
    except OSError as error:
        complain(
            f"{error.filename or 'translations'}: translations were not kept: "
            f"{error.strerror or error}; --cold does without"
        )


def _status(end: End) -> int:
    if end.message:
        if sys.stderr is not None and sys.stderr.isatty():
            print(file=sys.stderr)
        complain(end.message)
    return end.status
