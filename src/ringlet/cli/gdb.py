"""`--gdb`: a run that gdb can debug."""

from pathlib import Path
from typing import cast

from ringlet.cli.streams import complain
from ringlet.cli.supervise import supervise
from ringlet.machine.elf import is_elf64
from ringlet.machine.outcome import End
from ringlet.machine.vm import Vm

STATUS_UNKNOWN = 1


def debugged(machine: Vm, where: str, file: Path | None, *, wait: bool) -> End:
    """Run `machine` as `supervise` does, and serve gdb at `where`.

    `file` is the guest's program or kernel, if it has one of its own.  With `wait`, the guest does
    not start until gdb continues it.  Raises ConfigError if the server cannot listen at `where`.
    """
    # Imported late: a run without gdb does not need the server.
    from ringlet.debug.server import Cpu, GdbServer, listen, place_of

    listener = listen(where)
    wide = file is not None and is_elf64(file)
    server = GdbServer(machine, cast("Cpu", machine.cpu), listener, wide=wide)
    machine.attach_debugger(server)
    server.start(wait=wait)
    complain(f"listening for gdb; in gdb, enter: target remote {place_of(listener)}")
    status = STATUS_UNKNOWN
    try:
        end = supervise(machine)
        status = end.status
    finally:
        server.close(status)
    return end
