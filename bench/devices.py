"""Costs of device accesses by themselves: python -m bench.devices.

Each figure is the least of some rounds of a loop in the guest, less the loop's own cost.
"""

import os
import struct
import time

from tests.unit.vcpu.board import DEVICE, DEVICE_PHYS, HOLE, Board

from ringlet.machine.bus import MemoryBus, PortBus

APIC = 0xFEE00000
PORT = 0xC000
TIMES = 1_000
ROUNDS = 200
READ, WRITE, NOTHING = "8B03", "8903", ""


class Register:
    """A device with one register."""

    value = 0

    def read(self, offset: int, size: int) -> int:
        """Return the value."""
        del offset, size
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the value."""
        del offset, size
        self.value = value


def board_of() -> Board:
    """Return a board with a register on its buses, and the local APIC at `HOLE`."""
    board, device = Board(), Register()
    memory, ports = MemoryBus(), PortBus()
    memory.map(DEVICE_PHYS, 0x1000, device)
    ports.map(PORT, 4, device, width=4)
    board.p.attach_memory(memory.read, memory.write)
    board.p.attach_ports(ports.read, ports.write)
    board.map(HOLE, APIC | 7)
    return board


def measure(board: Board, code: str, times: int = TIMES) -> float:
    """Return the nanoseconds that the code takes in a loop."""
    body = bytes.fromhex(code) + b"\xff\xc9"  # dec ecx
    loop = body + b"\x0f\x85" + struct.pack("<i", -(len(body) + 6))
    best = float("inf")
    for _ in range(ROUNDS):
        board.set(rbx=DEVICE, rsi=HOLE, rdx=PORT, rax=0, rcx=times)
        begun = time.perf_counter_ns()
        board.run(loop)
        best = min(best, (time.perf_counter_ns() - begun) / times)
    return best


def eventfd_write() -> float:
    """Return the nanoseconds that write() to an eventfd takes."""
    fd, one = os.eventfd(0, os.EFD_NONBLOCK), struct.pack("<Q", 1)
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(TIMES):
            os.write(fd, one)
        best = min(best, (time.perf_counter_ns() - begun) / TIMES)
    os.close(fd)
    return best


def report(what: str, nanoseconds: float) -> None:
    """Print a line."""
    print(f"{what:44} {nanoseconds:8,.0f} ns")


def main() -> None:
    """Print the costs."""
    board = board_of()
    empty = measure(board, NOTHING)
    report("read of a device in Python", measure(board, READ) - empty)
    report("write of a device in Python", measure(board, WRITE) - empty)
    report("the same, each with a host fault", measure(watched(), WRITE, 50) - empty)
    report("IN from a device in Python", measure(board, "ED") - empty)
    report("OUT to a device in Python", measure(board, "EF") - empty)
    for what, code in (
        ("read of the local APIC's TPR", "8B8680000000"),
        ("write of the local APIC's TPR", "898680000000"),
        ("write of its EOI", "C786B000000000000000"),
        ("write of its ICR, to no processor", "C7860003000000000C00"),
        ("read of its timer's count", "8B8690030000"),
    ):
        report(what, measure(board, code) - empty)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    board.p.add_doorbell(DEVICE_PHYS, 4, None, bell)
    board.p.add_port_doorbell(PORT, 4, None, bell)
    report("doorbell in memory", measure(board, WRITE) - empty)
    report("doorbell at a port", measure(board, "EF") - empty)
    report("os.write to an eventfd, from Python", eventfd_write())


def watched() -> Board:
    """Return a board whose instructions fault at devices each time, as they do in a trace."""
    board = board_of()
    board.p.watch_blocks(64)
    return board


if __name__ == "__main__":
    main()
