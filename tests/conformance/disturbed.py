"""Runs a guest program exactly, but disturbed: `python disturbed.py MODE PROGRAM [PLACE]`.

`PLACE` is that of a flat image, as for `ringlet run --flat`.

`step`: every instruction by itself, as under a debugger (a breakpoint is set where nothing is).
`kick`: another thread stops the processor a few thousand times a second.
`debug`: a debugger steps every instruction, which the guest must not see.
`watch`: a debugger watches data that is not there.
`break`: a debugger has a breakpoint on every function.
`wide`: the host reports faults as one whose addresses have 57 bits.
"""

import random
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from ringlet.config import MachineConfig
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.flat_spec import parse_flat
from ringlet.machine import bare
from ringlet.machine.outcome import End
from ringlet.machine.vm import Vm
from ringlet.vcpu.processor import Processor
from ringlet_probes.vcpu import simulate_wide_host, wide_faults

MEMORY = 128 << 20
NOWHERE = 0x1234_5678_9000
DR7_DR0_ACCESS = 0x402 | 3 << 16


def kick(machine: Vm, done: threading.Event) -> None:
    """Stop the processor at arbitrary times, independent of the program."""
    moments = random.Random(1)
    while not done.is_set():
        machine.cpu.kick()
        time.sleep(moments.random() * 0.0004)


class Debugger:
    """Goes on from every stop at once."""

    def __init__(self, cpu: Processor, *, step: bool) -> None:
        self._cpu = cpu
        self._step = step
        self.stops = 0
        cpu.debug_go(step, skip=False)

    def trapped(self) -> None:
        """Step on."""
        self.stops += 1
        self._cpu.debug_go(self._step, skip=True)

    def dying(self, end: End) -> None:
        """Stop watching the processor."""


def functions(program: str) -> list[int]:
    """Return the addresses of the program's functions."""
    rows = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    words = (row.split() for row in rows.splitlines())
    return [int(word[0], 16) for word in words if len(word) == 3 and word[1] in "tT"]


def debug(mode: str, program: str, machine: Vm) -> Debugger:
    """Attach a debugger to the machine."""
    cpu = machine.cpu
    assert isinstance(cpu, Processor)
    if mode == "break":
        cpu.set_breakpoints(functions(program)[:256])
    elif mode == "watch":
        cpu.set_watchpoints([(NOWHERE, 8, 3)])
    debugger = Debugger(cpu, step=mode == "debug")
    machine.attach_debugger(debugger)
    return debugger


def main(mode: str, program: str, place: str | None = None) -> int:
    """Run the program and return its status."""
    if mode == "wide":
        simulate_wide_host()
    make_cpu = partial(Processor, speculate=False)
    where = parse_flat(place, "PLACE") if place is not None else None
    config = MachineConfig(Path(program), MEMORY, flat=where)
    machine = bare.build(config, make_cpu, FdSink(1), avx=True).machine
    done = threading.Event()
    if mode == "step":
        machine.cpu.set("dr0", NOWHERE)
        machine.cpu.set("dr7", DR7_DR0_ACCESS)
    elif mode in {"debug", "watch", "break"}:
        debugger = debug(mode, program, machine)
    elif mode == "kick":
        threading.Thread(target=kick, args=(machine, done)).start()
    try:
        status = machine.run().status
        if mode in {"debug", "break"}:
            assert debugger.stops > 100, debugger.stops
        if mode == "wide":
            assert wide_faults() > 100, wide_faults()
        return status
    finally:
        done.set()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
