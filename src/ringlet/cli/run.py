"""`ringlet run --bare`: builds a machine, runs it, and turns its end into an exit status."""

import contextlib
from pathlib import Path

from ringlet.cli.gdb import debugged
from ringlet.cli.stats import print_stats, printing_on_request
from ringlet.cli.streams import complain
from ringlet.cli.supervise import supervise
from ringlet.cli.watch import watched
from ringlet.config import BARE_MEMORY, DIRECT, MachineConfig, parse_memory
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.errors import ConfigError
from ringlet.machine import bare, host
from ringlet.machine.elf import read_program
from ringlet.machine.engine import Engine

STDOUT = 1


def run_bare(
    program: str,
    memory: str,
    *,
    stats: bool,
    exact: bool = False,
    direct: str = DIRECT.default,
    trace: str = "",
    compare: int = 0,
    gdb: str = "",
    gdb_wait: bool = False,
) -> int:
    """Run `program` on the bare machine and return the exit status.  Raises RingletError."""
    if not program:
        raise ConfigError("no program given; for example: ringlet run --bare PROGRAM.elf")
    size = parse_memory(memory or BARE_MEMORY, host.memory_size())
    config = MachineConfig(Path(program), size, stats, exact)
    read_program(config.program, config.memory)
    host.require()
    engine = Engine(exact=config.exact, direct=direct)
    machine = bare.build(config, engine, FdSink(STDOUT), avx="avx" in host.cpu_flags())
    counters = printing_on_request(machine) if config.stats else contextlib.nullcontext()
    with watched(machine, trace, compare), counters:
        end = debugged(machine, gdb, wait=gdb_wait) if gdb else supervise(machine)
    if end.message:
        complain(end.message)
    if config.stats:
        print_stats(machine.counters(), forms=machine.emulated_forms())
    return end.status
