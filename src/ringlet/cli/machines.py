"""The commands for machines with names: ps, logs, cp, stop, kill and rm."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ringlet.cli.consoles import STDOUT
from ringlet.cli.harmless import Harmless
from ringlet.cli.streams import complain, emit
from ringlet.config import format_size
from ringlet.control.background.client import Attached, attach, machines
from ringlet.control.background.log import read_log
from ringlet.control.background.places import Found
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.errors import ConfigError, RingletError, printable

_HEAD: Final = ("NAME", "GUEST", "MEMORY", "STATE", "AGE", "PORTS", "PID")
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_WIDEST: Final = 40


def run_ps(*, everything: bool, as_json: bool, quiet: bool = False) -> int:
    """List the machines that run, or, with `everything`, also those that have ended.

    With `quiet`, print the names alone.
    """
    found = [machine.look() for machine in _looked_at(machines())]
    shown = [one for one in found if everything or one.alive]
    if as_json:
        emit(json.dumps([_record(one) for one in shown], indent=2))
        return 0
    if quiet:
        for one in shown:
            emit(one.name)
        return 0
    rows = [_HEAD, *(_row(one, time.time()) for one in shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        emit("  ".join(cells).rstrip())
    return 0


def _looked_at(found: Iterable[Attached]) -> Iterable[Attached]:
    """Yield those that were not removed meanwhile."""
    for machine in found:
        if machine.state != "removed":
            yield machine


def _row(found: Found, now: float) -> tuple[str, ...]:
    state = found.state
    if found.status is not None:
        state = f"ended ({found.status})"
    cells = (
        found.name, found.guest, format_size(found.memory), state, _age(now - found.created),
        ",".join(found.ports), str(found.pid) if found.pid > 0 else "",
    )  # fmt: skip
    return tuple(_cell(cell) for cell in cells)


def _cell(text: str) -> str:
    """Return text that no terminal obeys, and that leaves room for the other columns."""
    plain = printable(text)
    return plain if len(plain) <= _WIDEST else plain[: _WIDEST - 3] + "..."


def _age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"


def _record(found: Found) -> dict[str, object]:
    return {
        "name": found.name, "guest": found.guest, "memory": found.memory, "state": found.state,
        "created": found.created, "ports": [*found.ports], "pid": found.pid,
        "status": found.status, "message": found.message, "command": [*found.command],
    }  # fmt: skip


def run_logs(name: str, *, follow: bool, lines: int | None = None) -> int:
    """Print what the guest has printed, or its last `lines`; with `follow`, until it ends.

    On a terminal, what could control it is left out, but for colours.
    """
    machine = attach(name)
    sink: Callable[[bytes], object] = FdSink(STDOUT)
    if os.isatty(STDOUT):
        sink = Harmless(sink)
    goes_on = (lambda: machine.pid != 0) if follow else None
    for data in read_log(machine.look().directory, goes_on, lines):
        sink(data)
    with contextlib.suppress(ConfigError):  # it was removed meanwhile
        if message := machine.look().message:
            complain(message)
    return 0


def run_cp(source: str, target: str) -> int:
    """Copy a file or a tree into a guest or out of it."""
    from_guest, to_guest = _place(source), _place(target)
    if "-" in (source, target):
        raise ConfigError(
            "-: cp copies files, not a stream; use `ringlet exec -i NAME tar x` and `tar c`, or "
            "./- for a file of that name"
        )
    if from_guest is not None and to_guest is None:
        with attach(from_guest[0]) as machine:
            machine.files.copy_out(from_guest[1], target)
    elif to_guest is not None and from_guest is None:
        with attach(to_guest[0]) as machine:
            machine.files.copy_in(source, to_guest[1])
    elif to_guest is not None:
        raise ConfigError("both are guests' files; copy to the host first")
    else:
        raise ConfigError(
            f"{source} {target}: no machine is named; give NAME:PATH for the guest's file"
        )
    return 0


def _place(text: str) -> tuple[str, str] | None:
    """Return the machine and the path of NAME:PATH; None for a file of the host."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name in ("", ".", ".."):
        return None
    if not path:
        raise ConfigError(f"{text}: no path in the guest; for example: {name}:/tmp")
    return name, path


def run_stop(names: Sequence[str], timeout: float) -> int:
    """Stop machines, and print the names of those that have ended."""
    return _each(names, lambda machine: _stop(machine, timeout))


def _stop(machine: Attached, timeout: float) -> None:
    machine.stop(timeout)


def run_kill(names: Sequence[str]) -> int:
    """End machines at once."""
    return _each(names, Attached.kill)


def run_rm(names: Sequence[str], *, force: bool) -> int:
    """Remove what is left of machines; with `force`, also of those that run."""

    def remove(machine: Attached) -> None:
        if force:
            machine.kill()
        machine.remove()

    return _each(names, remove)


def _each(names: Sequence[str], action: Callable[[Attached], None]) -> int:
    """Do `action` for each machine and print its name; go on after an error, which is told."""
    status = 0
    for name in names:
        try:
            action(attach(name))
        except RingletError as error:
            complain(str(error))
            status = error.exit_status
        else:
            emit(name)
    if status and sys.stdout is not None:
        sys.stdout.flush()
    return status
