"""A guest's accesses to PCI by its own code: every kind of instruction, at a page of BARs."""
from __future__ import annotations

import random
import struct
import time

from ringlet.core.state import Exit
from tests.fuzz.pci_machine import DATA, Machine
from tests.unit.vcpu import board as place

_EXITS = {Exit.EXIT_HLT, Exit.EXIT_SHUTDOWN, Exit.EXIT_NO_RAM}
_AGAIN = {Exit.EXIT_NONE, Exit.EXIT_INTERRUPTED, Exit.EXIT_EOI}
_MOST_EXITS = 10_000
_MOST_TRIES = 20
_LONGEST_NS = 100_000_000
_CODE = place.CODE

_MEMORY = tuple(bytes.fromhex(code) for code in (
    "8807 668907 8907 488907 8a07 668b07 8b07 488b07 0fb607 480fbe07 486307 c60755 66c7071234"
    " c70701000000 48c70701000000 8707 868f10000000 f00fc107 f0ff07 f00fc70f f0480fc70f f00fb10f"
    " f00fab07 0907 830701 f717 d127 3807 ff37 8f07 ff27 ff17 0f0107 0f010f"
    " f3aa f3ab f348ab f3a4 f3a5 f348a5 f3ae f3a6 aa a5 f36e f36f f36d 6d"
    " 0f1107 0f1007 c5fc1107 c5fc1007 660f7f07 0fae07 0fae0f 0fae27 0f013f 0fae3f 0f180f 0fc307"
    " 480fc307 660fd607 660f3a160701 dd07 dd1f df2f 0fb04701 660fc10f"
).split())
"""Instructions with a memory operand at RDI; strings also use RSI, RCX and DX."""
_PORTS = tuple(bytes.fromhex(code) for code in "ec 66ed ed ee 66ef ef".split())
_FETCH = bytes.fromhex("ffe7")
_STACK = bytes.fromhex("4889fc50 58 4889fcc8100000 c9".replace(" ", ""))
_SEGMENT = bytes.fromhex("b8080000008ed8")
_BREAK = b"\xcc"
_FLUSH = bytes.fromhex("0f20d80f22d8")


def run_code(machine: Machine, rng: random.Random, phys: int) -> str:
    """Let the guest access a page at `phys`, and what follows it; return what it used."""
    board = machine.board
    machine.mend()
    entry = (phys & ~0xFFF & (1 << 46) - 1) | 7
    follows = rng.choice((entry + 0x1000, entry, place.DATA | 7, 0))
    board.poke(place.DEVICE_PT, entry, follows)
    special = rng.random()
    kind = "memory"
    code = _FLUSH
    if special < 0.85:
        code += b"".join(_access(rng) for _ in range(rng.choice((1, 4, 12))))
    elif special < 0.88:
        kind, code = "fetch", code + _FETCH
    elif special < 0.91:
        kind, code = "stack", code + _STACK
    elif special < 0.94:
        kind, code = "descriptor", code + _SEGMENT
        board.p.set_table("gdtr", place.DEVICE + rng.choice((0, 0xFF8)), 0xFFFF)
    elif special < 0.96:
        kind, code = "vector", code + _BREAK
        board.p.set_table("idtr", place.DEVICE, 0xFFF)
    else:
        kind, code = "tables", code + _access(rng)
        board.poke(place.DEVICE_PD, entry)
    board.enter(0)
    offset = rng.choice((rng.randrange(64), 4 * rng.randrange(0x400), 0xFFF, 0xFF8, 0xFFD))
    board.set(rdi=place.DEVICE + offset, rsi=rng.choice((place.DATA, place.DEVICE + offset)),
              rcx=rng.choice((1, 3, 40)), rax=rng.choice((rng.getrandbits(64), 0, 1)),
              rdx=rng.choice((DATA, DATA - 4, 0x80)), rsp=place.STACK, cr3=place.PML4)
    board.p.write_phys(_CODE, code + b"\xf4")
    board.p.drop_code(_CODE, len(code) + 1)
    ended = _go(machine)
    board.p.set_table("gdtr", place.GDT, 0x27)
    board.p.set_table("idtr", place.IDT, 0x1FF)
    board.poke(place.DEVICE_PD, place.DEVICE_PT | 7)
    return kind if ended else "loops"


def ring_by_code(machine: Machine, phys: int, queue: int) -> None:
    """Let the guest notify a device of a queue, as a driver does."""
    board = machine.board
    machine.mend()
    board.poke(place.DEVICE_PT, phys & ~0xFFF | 7)
    board.p.write_phys(_CODE, _FLUSH + b"\x66\x89\x07\xf4")
    board.p.drop_code(_CODE, 16)
    for _ in range(_MOST_TRIES):
        board.enter(0)
        board.set(rdi=place.DEVICE + (phys & 0xFFF), rax=queue, cr3=place.PML4)
        if _go(machine) and board.raised() is None:
            return
        # Messages that were sent before may have asked for an NMI; and a busy host takes its time.


def _access(rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        port = DATA + rng.randrange(-4, 4)
        value = rng.choice((1 << 31 | rng.randrange(8) << 11 | 4 * rng.randrange(20), 6,
                            0xC000_0000, 0xFEE0_0000, rng.getrandbits(32)))
        return (b"\xba" + struct.pack("<I", port) + b"\xb8" + struct.pack("<I", value)
                + rng.choice(_PORTS))
    if rng.random() < 0.2:
        return b"\xb9\x03\0\0\0" + rng.choice(_MEMORY)
    return rng.choice(_MEMORY)


def _go(machine: Machine) -> bool:
    """Run the code to its end; False: it does not end, as where a jump leads into a loop."""
    processor = machine.processor
    due = time.monotonic_ns() + _LONGEST_NS
    processor.set_alarm(due)
    for _ in range(_MOST_EXITS):
        kind = processor.run()
        machine.work()
        if kind in _EXITS or (kind == Exit.EXIT_INTERRUPTED and time.monotonic_ns() >= due):
            processor.set_alarm(None)
            return kind in _EXITS
        if kind in {Exit.EXIT_MMIO_READ, Exit.EXIT_MMIO_WRITE}:
            size = processor.exit_info().size
            processor.complete((1 << 8 * size) - 1)
        elif kind not in _AGAIN:
            raise ValueError(f"exit {kind}")
    raise ValueError("the guest's code does not end")
