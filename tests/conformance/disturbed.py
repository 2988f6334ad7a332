"""Runs a guest program exactly, but disturbed: `python disturbed.py MODE PROGRAM`.

`step`: every instruction by itself, as under a debugger (a breakpoint is set where nothing is).
`kick`: another thread stops the processor a few thousand times a second.
"""

import random
import sys
import threading
import time
from functools import partial
from pathlib import Path

from ringlet.config import MachineConfig
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.machine import bare
from ringlet.machine.machine import Machine
from ringlet.vcpu.processor import Processor

MEMORY = 128 << 20
NOWHERE = 0x1234_5678_9000
DR7_DR0_ACCESS = 0x402 | 3 << 16


def kick(machine: Machine, done: threading.Event) -> None:
    """Stop the processor at moments that have nothing to do with what it does."""
    moments = random.Random(1)
    while not done.is_set():
        machine.cpu.kick()
        time.sleep(moments.random() * 0.0004)


def main(mode: str, program: str) -> int:
    """Run it and return its status."""
    make_cpu = partial(Processor, speculate=False)
    machine = bare.build(MachineConfig(Path(program), MEMORY), make_cpu, FdSink(1), avx=True)
    done = threading.Event()
    if mode == "step":
        machine.cpu.set("dr0", NOWHERE)
        machine.cpu.set("dr7", DR7_DR0_ACCESS)
    else:
        threading.Thread(target=kick, args=(machine, done)).start()
    try:
        return machine.run().status
    finally:
        done.set()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
