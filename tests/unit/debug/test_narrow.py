"""Answers to gdb's packets about a processor in 16- and 32-bit code."""

from xml.etree import ElementTree as ET

import pytest

from ringlet.core.state import Exit
from ringlet.debug.commands import Commands, Next
from ringlet.debug.layouts import LAYOUTS, Choice
from ringlet.debug.monitor import Monitor
from ringlet.debug.stops import Kind, Points
from ringlet.debug.target import describe
from ringlet.machine.place import program_counter
from ringlet.vcpu.debug.stops import DebugReason
from ringlet.vcpu.processor import Processor
from tests.unit.debug.short import TO_32_BITS, WIDE, real, v86
from tests.unit.vcpu.board import CODE, Board
from tests.unit.vcpu.narrow_run import START

BOOT = ".code16\nljmp $0x80, $there - 0x800\nthere: mov $5, %ax\nmov %ax, %bx\nhlt\n"
"""`there` is 1005h, in a segment with the base 800h."""
TO_16_BITS = f"""{TO_32_BITS}
        ljmp $0x18, $1f - {START}
        .code16
1:      mov $0x1234, %ax
        mov $0x5678, %bx
        hlt
"""
"""`1:` is 1117h, in a segment with the base 1000h."""


class Debugged:
    """A processor, its breakpoints, and the commands about it."""

    def __init__(self, cpu: Processor, *, wide: bool = False) -> None:
        self.cpu = cpu
        self.choice = Choice(cpu, wide)
        self.monitor = Monitor(cpu, self.choice, dict).answer
        points = Points(cpu.set_breakpoints, cpu.set_watchpoints)
        self.commands = Commands(cpu, points, self.choice.layout, self.monitor)

    def ask(self, packet: bytes) -> bytes:
        reply, then = self.commands.answer(packet)
        assert then is Next.STAY
        assert reply is not None
        return reply

    def describe(self) -> str:
        """Read the description, and return its architecture."""
        text = self.ask(b"qXfer:features:read:target.xml:0,4000")
        found = ET.fromstring(text[1:]).findtext("architecture")
        assert found is not None
        return found

    def _number(self, name: str) -> int:
        return [register.name for register in self.commands.layout.registers].index(name)

    def read(self, name: str) -> int:
        text = self.ask(b"p%x" % self._number(name))
        return int.from_bytes(bytes.fromhex(text.decode()), "little")

    def write(self, name: str, value: int) -> bytes:
        number = self._number(name)
        size = self.commands.layout.registers[number].bits // 8
        return self.ask(b"P%x=%b" % (number, value.to_bytes(size, "little").hex().encode()))

    def run_to(self, linear: int) -> None:
        """Run to a breakpoint."""
        assert self.ask(b"Z0,%x,1" % linear) == b"OK"
        self.cpu.debug_go(step=False, skip=True)
        assert self.cpu.run() == Exit.EXIT_DEBUG
        assert self.cpu.debug_stop() == (DebugReason.DEBUG_BREAKPOINT, 0)
        assert program_counter(self.cpu) == linear

    def step(self) -> int:
        """Run an instruction, and return the linear address of the next."""
        self.cpu.debug_go(step=True, skip=True)
        assert self.cpu.run() == Exit.EXIT_DEBUG
        assert self.cpu.debug_stop() == (DebugReason.DEBUG_STEPPED, 0)
        return self.read("eip")


# --- what gdb is told


def test_architecture_is_that_of_the_code() -> None:
    it = Debugged(real(TO_16_BITS))
    assert it.describe() == "i8086"
    it.run_to(WIDE)
    assert it.describe() == "i386"
    it.run_to(0x1117)
    assert it.describe() == "i8086"
    assert Debugged(Board().p).describe() == "i386:x86-64"


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_description_agrees_with_the_registers(bits: int) -> None:
    layout = LAYOUTS[bits]
    root = ET.fromstring(describe(layout))
    rows = [(row.attrib["name"], int(row.attrib["bitsize"])) for row in root.iter("reg")]

    assert rows == [(register.name, register.bits) for register in layout.registers]
    assert len({name for name, _ in rows}) == len(rows)


def test_registers_are_those_of_the_description_that_gdb_has_read() -> None:
    it = Debugged(real(TO_32_BITS + "hlt\n"))
    it.describe()
    size = len(it.ask(b"g"))
    it.run_to(WIDE)
    it.choice.ask("64")
    assert len(it.ask(b"g")) == size

    it.describe()

    assert len(it.ask(b"g")) == sum(r.bits for r in LAYOUTS[64].registers) // 4
    assert it.read("rip") == WIDE


def test_file_of_64_bits_has_its_registers_from_the_start() -> None:
    it = Debugged(real(TO_32_BITS), wide=True)

    assert it.describe() == "i386:x86-64"
    assert (it.read("rip"), it.read("rsp")) == (START, 0x800)


@pytest.mark.parametrize(
    ("word", "architecture"),
    [("16", "i8086"), ("32", "i386"), ("64", "i386:x86-64"), ("mode", "i8086"),
     ("auto", "i386:x86-64")],
)  # fmt: skip
def test_user_chooses(word: str, architecture: str) -> None:
    it = Debugged(real(TO_32_BITS), wide=True)

    assert "unset tdesc filename" in it.monitor(f"bits {word}")

    assert it.describe() == architecture


@pytest.mark.parametrize("command", ["bits", "bits 8", "bits 64 32", "", "segment"])
def test_monitor_says_what_it_knows(command: str) -> None:
    it = Debugged(real(BOOT))

    assert "monitor bits 16|32|64|mode|auto" in it.monitor(command)
    assert it.describe() == "i8086"


# --- where the processor is


def test_program_counter_is_a_linear_address() -> None:
    it = Debugged(real(BOOT))
    it.run_to(0x1005)

    assert (it.read("eip"), it.read("ip"), it.read("cs"), it.read("cs_base")) == (
        0x1005, 0x805, 0x80, 0x800,
    )  # fmt: skip


def test_same_offset_in_another_segment_is_no_breakpoint() -> None:
    it = Debugged(real(BOOT))
    it.ask(b"Z0,805,1")

    it.run_to(0x1005)


def test_steps_through_a_far_jump() -> None:
    it = Debugged(real(BOOT))

    assert [it.step() for _ in range(3)] == [0x1005, 0x1008, 0x100A]
    assert (it.read("eax"), it.read("ebx")) == (5, 5)


def test_steps_through_changes_of_mode() -> None:
    it = Debugged(real(TO_16_BITS))
    it.run_to(WIDE)

    assert [it.step() for _ in range(3)] == [0x1117, 0x111A, 0x111D]
    assert (it.read("eax"), it.read("ebx"), it.read("cs")) == (0x1234, 0x5678, 0x18)


def test_it_goes_on_from_a_breakpoint_in_a_segment() -> None:
    it = Debugged(real(BOOT))
    it.run_to(0x1005)
    it.cpu.debug_go(step=False, skip=True)

    assert it.cpu.run() == Exit.EXIT_HLT


def test_virtual_8086_mode() -> None:
    it = Debugged(v86(".code16\nmov $5, %ax\nmov %ax, 2\nmov %ax, %bx\nnop\n", 0x20000))
    assert it.describe() == "i8086"
    assert it.monitor("mode") == "virtual-8086 mode, CPL 3\n"
    it.ask(b"Z%x,20002,2" % Kind.WRITE)

    assert it.step() == START + 3
    it.cpu.debug_go(step=False, skip=True)
    assert it.cpu.run() == Exit.EXIT_DEBUG
    assert it.cpu.debug_stop() == (DebugReason.DEBUG_WATCHPOINT, 1)
    it.ask(b"z%x,20002,2" % Kind.WRITE)
    it.run_to(START + 8)
    assert (it.read("ip"), it.read("ebx"), it.read("cs")) == (8, 5, START >> 4)


def test_program_counter_is_written_within_the_segment() -> None:
    it = Debugged(real(BOOT))
    it.run_to(0x1005)

    assert it.write("eip", 0x1008) == b"OK"
    assert (it.read("eip"), it.read("ip")) == (0x1008, 0x808)
    assert it.write("eip", 0x10800) == b"E03"
    assert it.write("eip", 0x7FF) == b"E03"
    assert it.read("ip") == 0x808


def test_watchpoint_is_a_linear_address() -> None:
    it = Debugged(real(".code16\nmov $0x2000, %ax\nmov %ax, %ds\nmov %ax, 4\nhlt\n"))
    it.ask(b"Z%x,20004,2" % Kind.WRITE)
    it.cpu.debug_go(step=False, skip=False)

    assert it.cpu.run() == Exit.EXIT_DEBUG
    assert it.cpu.debug_stop() == (DebugReason.DEBUG_WATCHPOINT, 1)
    assert it.read("ip") == START + 8


# --- registers and memory obey the mode


def test_registers_have_32_bits() -> None:
    it = Debugged(real(TO_32_BITS + "hlt\n"))
    it.run_to(WIDE)
    it.choice.ask("64")
    it.describe()

    assert it.write("rax", 0xFFFFFFFF) == b"OK"
    assert it.write("rax", 1 << 32) == b"E03"
    assert it.write("rip", 1 << 32) == b"E03"
    assert it.write("fs_base", 1 << 32) == b"E03"
    assert it.write("r12", 1 << 63) == b"OK"  # it is kept until 64-bit mode
    assert (it.read("rax"), it.read("rip"), it.read("fs_base")) == (0xFFFFFFFF, WIDE, 0)


def test_written_register_is_used() -> None:
    it = Debugged(real(TO_32_BITS + "mov %ecx, 0x20000\nhlt\n"))
    it.run_to(WIDE)
    it.write("ecx", 0xCAFE1234)
    it.cpu.debug_go(step=False, skip=True)

    assert it.cpu.run() == Exit.EXIT_HLT
    assert it.ask(b"m20000,4") == b"3412feca"


def test_linear_addresses_have_32_bits() -> None:
    it = Debugged(real(BOOT))

    assert it.ask(b"m%x,8" % (1 << 32)) == b"E0e"
    assert it.ask(b"m%x,8" % ((1 << 64) - 8)) == b"E0e"
    assert it.ask(b"M%x,1:00" % (1 << 32)) == b"E0e"
    assert it.ask(b"M%x,2:0000" % 0xFFFFFFFF) == b"E0e"
    assert it.ask(b"m1000,2") == b"ea05"


def test_narrow_registers_of_64_bit_code() -> None:
    """gdb has not read the new description yet."""
    it = Debugged(Board().p)
    it.choice.ask("32")
    it.describe()
    it.cpu.set("rax", 0x1122334455667788)

    assert (it.read("eax"), it.read("eip")) == (0x55667788, CODE)
    assert not LAYOUTS[32].holds(0xFFFFFFFF81000000)


def test_bases_of_segments() -> None:
    it = Debugged(real(".code16\nmov $0x1234, %ax\nmov %ax, %ds\nmov %ax, %fs\nnop\nhlt\n"))
    it.run_to(START + 7)

    assert [it.read(f"{name}_base") for name in ("cs", "ss", "ds", "es", "fs", "gs")] == [
        0, 0, 0x12340, 0, 0x12340, 0,
    ]  # fmt: skip
    assert it.write("ds_base", 0) == b"E03"


@pytest.mark.parametrize(
    ("source", "place", "says"),
    [
        (BOOT, 0x1005, "real mode, CPL 0"),
        (TO_32_BITS + "hlt\n", WIDE, "protected mode (32-bit code), CPL 0"),
        (TO_16_BITS, 0x1117, "protected mode (16-bit code), CPL 0"),
    ],
)
def test_monitor_shows_the_mode(source: str, place: int, says: str) -> None:
    it = Debugged(real(source))
    it.run_to(place)

    assert it.monitor("mode") == f"{says}\n"


def test_monitor_shows_the_segments() -> None:
    it = Debugged(real(TO_16_BITS))
    it.run_to(0x1117)

    said = it.monitor("segments")

    assert "\ncs   0018  base 00001000  limit 0000ffff  rights 009b\n" in said
    assert "\nds   0010  base 00000000  limit ffffffff  rights c093\n" in said
    assert "\ngdtr       base 00001020  limit 00000037\n" in said
