"""Loads of FS and GS at CPL 0 that translated code performs: with segments held before.

Sources: SDM 2, MOV and POP; SDM 3A 3.4.3 (hidden parts), 5.5 (privilege), 20.1.1 (real mode).
"""

from __future__ import annotations

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.flat_32 import GDT, IDT, TABLES, flat_32, put

FIRST, SECOND = 0x18, 0x20
"""Selectors of segments with 4 GiB, at 100h and 200h."""
START, PLACE, STACK = 0x8000, 0x3000, 0x9000
ROUNDS = 50
FS, GS = 4, 5
LOADS = {FS: ("8EE0", "8EE1"), GS: ("8EE8", "8EE9")}  # mov fs/gs, eax; mov fs/gs, ecx
READS = {FS: ("648B1E", "648B16"), GS: ("658B1E", "658B16")}  # mov ebx/edx, fs/gs:[esi]
NP, GP, PF = 11, 13, 14
ACCESSED = 1 << 40
PRESENT = 1 << 47


def whole(base: int, access: int = 0x93) -> int:
    """Return the descriptor of 4 GiB at a base below 64 KiB."""
    return 0x00CF00000000FFFF | access << 40 | base << 16


def guest() -> Processor:
    """A processor whose handlers halt, with different words in the two segments."""
    p = flat_32()
    put(p, GDT + FIRST, whole(0x100), whole(0x200), form="Q")
    p.set_table("gdtr", GDT, SECOND + 7)
    put(p, PLACE + 0x100, 0x1111)
    put(p, PLACE + 0x200, 0x2222)
    p.set("rsi", PLACE)
    p.set("rax", FIRST)
    p.set("rcx", SECOND)
    return p


def run(p: Processor, code: str, at: int = START) -> tuple[int, int]:
    """Run code with a HLT behind it; return EIP and the number of operations that left."""
    p.write_phys(at, bytes.fromhex(code + "F4"))
    p.set("rip", at)
    before = p.counters()["ops"]
    assert p.run() == Exit.EXIT_HLT
    return p.get("rip"), p.counters()["ops"] - before


def warm(p: Processor, segment: int = FS) -> None:
    """Let a segment register hold both segments."""
    run(p, "".join(LOADS[segment]), 0xA000)


@pytest.mark.parametrize("segment", [FS, GS])
def test_two_segments_take_turns_without_leaving(segment: int) -> None:
    p = guest()
    p.set("rdi", ROUNDS)
    first, second = zip(LOADS[segment], READS[segment], strict=True)
    warm(p, segment)

    # 1: load; read; load; read; dec edi; jnz 1b
    _, left = run(p, "".join(first) + "".join(second) + "4F 75F3".replace(" ", ""))

    assert (p.get("rbx"), p.get("rdx"), p.get("rdi")) == (0x1111, 0x2222, 0)
    assert p.get_segment(segment) == (SECOND, 0x200, 0xFFFFFFFF, 0xC093)
    assert left < 5


@pytest.mark.parametrize("null", [0, 1, 2, 3])
def test_null_selector_takes_turns_with_a_segment(null: int) -> None:
    p = guest()
    p.set("rcx", null)
    warm(p)
    _, left = run(p, "8EE1 8EE0 8EE1".replace(" ", ""))
    assert left == 1
    assert p.get_segment(FS)[0] == null

    run(p, "648B1E", 0xB000)  # a read in it

    assert p.get("rip") == 0x7000 + GP + 1


def test_a_load_of_a_null_selector_reads_no_table() -> None:
    p = guest()
    p.set("rcx", 0)
    warm(p)
    put(p, TABLES + 0x1000 + 4 * (GDT >> 12), 0)
    p.write_phys(START, bytes.fromhex("0F01388EE1F4"))  # invlpg [eax]; mov fs, ecx
    p.set("rip", START)
    p.set("rax", GDT)

    assert p.run() == Exit.EXIT_HLT

    assert p.get("rip") == START + 6


def test_a_changed_descriptor_is_loaded_anew() -> None:
    p = guest()
    warm(p)
    put(p, PLACE + 0x300, 0x3333)
    put(p, GDT + FIRST, whole(0x300), form="Q")

    run(p, "8EE0648B1E")

    assert p.get("rbx") == 0x3333
    assert p.get_segment(FS)[1] == 0x300


def test_the_accessed_bit_is_set_again() -> None:
    p = guest()
    warm(p)
    put(p, GDT + FIRST, whole(0x100) & ~ACCESSED, form="Q")

    run(p, "8EE0")

    assert p.read_phys(GDT + FIRST + 5, 1) == b"\x93"


@pytest.mark.parametrize(
    ("value", "vector"),
    [
        (whole(0x100) & ~PRESENT, NP),
        (whole(0x100, 0x83), GP),  # a system segment
        (whole(0x100, 0x99), GP),  # code that cannot be read
    ],
    ids=["not present", "system", "execute-only"],
)
def test_a_descriptor_that_became_wrong_faults(value: int, vector: int) -> None:
    p = guest()
    warm(p)
    put(p, GDT + FIRST, value, form="Q")

    eip, _ = run(p, "8EE0")

    assert eip == 0x7000 + vector + 1
    assert p.get_segment(FS)[:2] == (SECOND, 0x200)


def test_a_descriptor_without_a_page_faults() -> None:
    p = guest()
    warm(p)
    put(p, TABLES + 0x1000 + 4 * (GDT >> 12), 0)
    p.write_phys(START, bytes.fromhex("0F013B8EE0F4"))  # invlpg [ebx]; mov fs, eax
    p.set("rip", START)
    p.set("rbx", GDT)

    # The gate's own segment has no page either.
    assert p.run() == Exit.EXIT_SHUTDOWN
    assert p.get("cr2") in (GDT + FIRST, GDT + FIRST + 4, GDT + 8)


def test_another_table_has_other_descriptors() -> None:
    p = guest()
    warm(p)
    other = GDT + 0x800
    put(p, other, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, whole(0x300), whole(0x400), form="Q")
    put(p, 0xC000, SECOND + 7, other >> 16, form="H")
    p.write_phys(0xC000, (SECOND + 7).to_bytes(2, "little") + other.to_bytes(4, "little"))

    run(p, "0F011500C00000" + "8EE0")  # lgdt [0xC000]; mov fs, eax

    assert p.get_segment(FS)[1] == 0x300


def test_a_shorter_table_ends_what_was_remembered() -> None:
    p = guest()
    warm(p)
    p.set_table("gdtr", GDT, FIRST + 6)

    eip, _ = run(p, "8EE0")

    assert eip == 0x7000 + GP + 1


def test_without_protection_a_selector_is_a_base() -> None:
    p = guest()
    warm(p)
    # mov edx, cr0; and edx, 7FFFFFFEh; mov cr0, edx; mov fs, eax
    run(p, "0F20C2 81E2FEFFFF7F 0F22C2 8EE0".replace(" ", ""))

    assert p.get_segment(FS)[:2] == (FIRST, FIRST << 4)


def test_a_segment_with_a_limit_is_checked() -> None:
    """It takes the place of one that was remembered, with the same selector."""
    p = guest()
    warm(p)
    put(p, GDT + FIRST, 0x0040930001000FFF, form="Q")

    eip, _ = run(p, "8EE0648B1E")

    assert eip == 0x7000 + GP + 1
    assert p.get_segment(FS)[2] == 0xFFF


def test_ring_3_has_no_part_in_it() -> None:
    p = guest()
    warm(p)
    put(p, GDT + 0x28, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, form="Q")
    p.set_table("gdtr", GDT, 0x37)
    put(p, IDT + 8 * GP, 0x7000 + GP | 0x2B << 16 | 0xEE << 40, form="Q")
    p.set_segment(1, 0x2B, 0, 0xFFFFFFFF, 0xC0FB)
    for i in (0, 2, 3):
        p.set_segment(i, 0x33, 0, 0xFFFFFFFF, 0xC0F3)
    p.set("cpl", 3)
    p.write_phys(START, bytes.fromhex("8EE0F4"))
    p.set("rip", START)

    # HLT of the handler, which runs at CPL 3, is a #GP that never ends.
    p.set_alarm(1)
    p.run()

    assert p.get_segment(FS)[:2] == (SECOND, 0x200)


@pytest.mark.parametrize(("code", "size"), [("0FA1", 4), ("660FA1", 2)])
def test_pop_moves_the_stack_pointer(code: str, size: int) -> None:
    p = guest()
    warm(p)
    p.set("rsp", STACK)
    put(p, STACK, 0xABCD0000 | FIRST)

    _, left = run(p, code)

    assert left == 1
    assert p.get("rsp") == STACK + size
    assert p.get_segment(FS)[:2] == (FIRST, 0x100)


def test_flags_and_registers_are_kept() -> None:
    p = guest()
    warm(p)
    p.set("rflags", 0x8D7)
    before = [p.get(name) for name in ("rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp")]

    run(p, "8EE08EE18EE0")

    assert [p.get(n) for n in ("rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp")] == before
    assert p.get("rflags") == 0x8D7


@pytest.mark.parametrize("reg", range(8))
def test_mov_from_cr2(reg: int) -> None:
    p = guest()
    p.set("cr2", 0x89ABCDEF)

    _, left = run(p, f"0F20{0xD0 | reg:02X}")

    names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
    assert p.get(names[reg]) == 0x89ABCDEF
    assert left == 1 + (reg == 4)


def long_tables(p: Processor) -> None:
    """Map each of five GiB to the first 4 MiB of RAM."""
    put(p, TABLES, TABLES + 0x1007, form="Q")
    put(p, TABLES + 0x1000, *[TABLES + 0x2007] * 5, form="Q")
    put(p, TABLES + 0x2000, 0x87, 0x200087, form="Q")
    put(p, GDT, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, whole(0), whole(0), form="Q")
    p.set("cr4", 0x20)
    p.set("cr3", TABLES)
    p.set("cr0", 0x11)
    for i in range(6):
        p.set_segment(i, 8 if i == 1 else 0x10, 0, 0xFFFFFFFF, 0xC09B if i == 1 else 0xC093)
    p.set_table("gdtr", (1 << 32) + GDT, 0x1F)
    p.set("rax", FIRST)


def enter_long_mode(p: Processor) -> None:
    p.set("efer", 0x500)
    p.set("cr0", 0x80000011)


@pytest.mark.parametrize("load", ["8ED8", "8EE0"])
def test_in_long_mode_the_table_may_be_above_4_gib(load: str) -> None:
    """A load of DS or FS in compatibility mode reads the descriptor there, not 4 GiB below."""
    p = Processor(4 << 20)
    long_tables(p)
    enter_long_mode(p)
    run(p, load)
    put(p, TABLES + 0x1000, TABLES + 0x3007, form="Q")  # the first GiB: only the code is mapped
    put(p, TABLES + 0x3000, TABLES + 0x4007, form="Q")
    put(p, TABLES + 0x4000 + 8 * (START >> 12), START | 7, form="Q")
    p.set("cr3", TABLES)

    eip, _ = run(p, load)

    assert eip == START + 3


def test_a_segment_of_legacy_mode_is_not_that_of_long_mode() -> None:
    """The same GDTR is 4 GiB lower outside long mode."""
    p = Processor(4 << 20)
    long_tables(p)
    put(p, TABLES + 0x1000 + 8 * 4, TABLES + 0x3007, form="Q")  # the fifth GiB: another page
    put(p, TABLES + 0x3000, TABLES + 0x4007, form="Q")
    put(p, TABLES + 0x4000 + 8 * (GDT >> 12), 0x20007, form="Q")
    put(p, 0x20000, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, whole(0x300), form="Q")
    run(p, "8EE0")
    assert p.get_segment(FS)[1] == 0
    enter_long_mode(p)

    run(p, "8EE0")

    assert p.get_segment(FS)[1] == 0x300
