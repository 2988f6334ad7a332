"""Answers to gdb's packets about a real, stopped processor."""

import struct
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringlet.debug.commands import Commands, Next
from ringlet.debug.layouts import LAYOUTS, Choice
from ringlet.debug.protocol import PACKET_SIZE
from ringlet.debug.stops import Points
from ringlet.debug.target import describe
from tests.unit.vcpu.board import CODE, DATA, HOLE, READ_ONLY, STACK, Board

REGISTERS = LAYOUTS[64].registers
NUMBER = {register.name: index for index, register in enumerate(REGISTERS)}


class Debugged:
    """A board and the commands about it."""

    def __init__(self) -> None:
        self.board = Board()
        cpu = self.board.p
        self.points = Points(cpu.set_breakpoints, cpu.set_watchpoints)
        layout = Choice(cpu).layout
        self.commands = Commands(cpu, self.points, layout, lambda command: f"<{command}>")

    def ask(self, packet: bytes) -> bytes:
        reply, then = self.commands.answer(packet)
        assert then is Next.STAY
        assert reply is not None
        return reply

    def read(self, name: str) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(b"p%x" % NUMBER[name]).decode()), "little")

    def write(self, name: str, value: int) -> bytes:
        size = REGISTERS[NUMBER[name]].bits // 8
        text = value.to_bytes(size, "little").hex().encode()
        return self.ask(b"P%x=%b" % (NUMBER[name], text))


@pytest.fixture
def it() -> Debugged:
    return Debugged()


# --- registers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rax", 0x123456789ABCDEF0), ("r15", 1 << 63), ("rsp", 0), ("rip", CODE + 5),
        ("eflags", 0xAD7), ("fs_base", 0xFFFF800000000000), ("gs_base", 5),
        ("st0", 0x3FFF8000000000000000), ("st7", 1), ("fctrl", 0x27F), ("xmm0", 1 << 100),
        ("xmm15", 77), ("ymm0h", 1 << 127), ("ymm15h", 9), ("mxcsr", 0x1FA0), ("k_gs_base", 3),
    ],
)  # fmt: skip
def test_register_is_written(it: Debugged, name: str, value: int) -> None:
    assert it.write(name, value) == b"OK"

    assert it.read(name) == value


def test_registers_are_those_of_the_processor(it: Debugged) -> None:
    assert (it.read("rip"), it.read("rsp"), it.read("cs")) == (CODE, STACK, 8)
    assert it.read("cr0") == it.board.get("cr0")


@pytest.mark.parametrize(
    ("name", "value"),
    [("rip", 1 << 47), ("fs_base", 1 << 63), ("k_gs_base", 1 << 50), ("cs", 3), ("cr0", 0),
     ("cr3", 0), ("efer", 0), ("fop", 1)],
)  # fmt: skip
def test_register_that_is_not_for_debuggers(it: Debugged, name: str, value: int) -> None:
    before = it.read(name)

    assert it.write(name, value) == b"E03"

    assert it.read(name) == before


def test_flags_of_the_processor_itself_stay(it: Debugged) -> None:
    it.write("eflags", 0xFFFFFFFF)

    assert it.read("eflags") == 0x247FD7


def test_reserved_bits_of_mxcsr_stay_clear(it: Debugged) -> None:
    it.write("mxcsr", 0xFFFFFFFF)

    assert it.read("mxcsr") == 0xFFFF


def test_code_runs_with_registers_as_written(it: Debugged) -> None:
    it.write("xmm3", 0x1122334455667788)
    it.board.run("660F7ED8")  # movd eax, xmm3

    assert it.read("rax") == 0x55667788


def test_all_registers(it: Debugged) -> None:
    whole = it.ask(b"g")
    it.write("rbx", 99)
    changed = it.ask(b"g")

    assert len(whole) == sum(register.bits for register in REGISTERS) // 4
    assert changed != whole
    assert it.ask(b"G" + whole) == b"OK"
    assert it.ask(b"g") == whole


def test_tag_word(it: Debugged) -> None:
    it.board.run("D9E8" + "D9EE")  # fld1, fldz

    assert it.read("ftag") == 0b00_01_11_11_11_11_11_11
    assert it.read("st1") == 0x3FFF8000000000000000


def test_description_agrees_with_the_registers() -> None:
    root = ET.fromstring(describe(LAYOUTS[64]))
    rows = [(row.attrib["name"], int(row.attrib["bitsize"])) for row in root.iter("reg")]

    assert rows == [(register.name, register.bits) for register in REGISTERS]
    assert root.findtext("architecture") == "i386:x86-64"


def test_description_in_pieces(it: Debugged) -> None:
    whole, offset, mark = b"", 0, b"m"
    while mark == b"m":
        reply = it.ask(b"qXfer:features:read:target.xml:%x,200" % offset)
        mark, part = reply[:1], reply[1:]
        whole += part
        offset += len(part)

    assert (mark, whole) == (b"l", describe(LAYOUTS[64]))


# --- memory


def test_memory_is_read_and_written(it: Debugged) -> None:
    assert it.ask(b"M%x,4:01020304" % DATA) == b"OK"
    assert it.ask(b"X%x,3:\x00#}" % (DATA + 4)) == b"OK"

    assert it.ask(b"m%x,7" % DATA) == b"0102030400237d"


def test_memory_the_guest_may_only_read(it: Debugged) -> None:
    assert it.ask(b"M%x,1:55" % READ_ONLY) == b"OK"
    assert it.ask(b"m%x,1" % READ_ONLY) == b"55"


@pytest.mark.parametrize("packet", [b"m%x,1" % HOLE, b"M%x,1:00" % HOLE, b"m8000000000000000,8"])
def test_memory_that_is_not_there(it: Debugged, packet: bytes) -> None:
    assert it.ask(packet) == b"E0e"


def test_memory_up_to_a_hole(it: Debugged) -> None:
    assert it.ask(b"m%x,10" % (HOLE - 2)) == b"0000"


def test_much_memory_is_as_much_as_fits(it: Debugged) -> None:
    assert len(it.ask(b"m%x,ffffffffffffffff" % DATA)) <= PACKET_SIZE


# --- points


def test_points(it: Debugged) -> None:
    assert it.ask(b"Z0,%x,1" % CODE) == b"OK"
    assert it.ask(b"Z1,%x,1" % CODE) == b"OK"
    assert it.ask(b"Z2,%x,8" % DATA) == b"OK"
    assert it.ask(b"z0,%x,1" % CODE) == b"OK"

    assert it.points.breaks == {CODE: {1}}
    assert it.points.watches == [(2, DATA, 8)]


def test_points_that_there_is_no_room_for(it: Debugged) -> None:
    for n in range(256):
        assert it.ask(b"Z0,%x,1" % n) == b"OK"
    for n in range(4):
        assert it.ask(b"Z4,%x,4" % n) == b"OK"

    assert it.ask(b"Z0,1000,1") == b"E1c"
    assert it.ask(b"Z2,1000,1") == b"E1c"
    assert it.ask(b"z0,5,1") == b"OK"
    assert it.ask(b"Z1,1000,1") == b"OK"


@pytest.mark.parametrize("packet", [b"Z2,0,3", b"Z3,0,0", b"Z4,0,10"])
def test_watchpoint_of_a_size_that_there_is_not(it: Debugged, packet: bytes) -> None:
    assert it.ask(packet) == b"E1c"


# --- resuming, and other packets


@pytest.mark.parametrize(
    ("packet", "reply", "then"),
    [
        (b"c", None, Next.RUN), (b"s", None, Next.STEP), (b"vCont;c", None, Next.RUN),
        (b"vCont;s:1;c", None, Next.STEP), (b"vCont;C05:1", None, Next.RUN),
        (b"D", b"OK", Next.DETACH), (b"D;1", b"OK", Next.DETACH), (b"k", None, Next.KILL),
        (b"vKill;1", b"OK", Next.KILL),
    ],
)  # fmt: skip
def test_going_on(it: Debugged, packet: bytes, reply: bytes | None, then: Next) -> None:
    assert it.commands.answer(packet) == (reply, then)


def test_going_on_elsewhere(it: Debugged) -> None:
    it.commands.answer(b"c%x" % (CODE + 16))

    assert it.board.get("rip") == CODE + 16


@pytest.mark.parametrize(
    ("packet", "reply"),
    [
        (b"?", b"T02thread:1;"), (b"Hg0", b"OK"), (b"T1", b"OK"), (b"qC", b"QC1"),
        (b"qfThreadInfo", b"m1"), (b"qsThreadInfo", b"l"), (b"qAttached", b"1"),
        (b"QStartNoAckMode", b"OK"), (b"vMustReplyEmpty", b""), (b"vCont?", b"vCont;c;C;s;S"),
        (b"", b""), (b"qOffsets", b""), (b"Xyz", b"E01"), (b"vCont;", b"E01"),
        (b"qXfer:features:read:other.xml:0,10", b"E00"), (b"qXfer:auxv:read::0,10", b""),
        (b"c8000000000000000", b"E03"), (b"qRcmd,6869", b"<hi>".hex().encode()),
    ],
)  # fmt: skip
def test_answers(it: Debugged, packet: bytes, reply: bytes) -> None:
    assert it.ask(packet) == reply


def test_what_is_supported(it: Debugged) -> None:
    said = it.ask(b"qSupported:multiprocess+;swbreak+").split(b";")

    assert b"qXfer:features:read+" in said
    assert b"PacketSize=4000" in said


PIECES = st.sampled_from(
    [b"G", b"P", b"p", b"m", b"M", b"X", b"Z", b"z", b"c", b"s", b"v", b"q", b"Q", b"Cont;", b"=",
     b",", b":", b";", b"0", b"1", b"ff", b"ffffffffffffffff", b"Xfer:features:read:target.xml:",
     b"Rcmd,", b"8000", b"%x" % DATA]
)  # fmt: skip
PACKETS = st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=12).map(b"".join))
FUZZED = Debugged()


@settings(max_examples=600)
@example(b"m" + b"f" * 16 + b"," + b"f" * 16)
@example(b"M" + b"f" * 16 + b",1:00")
@example(b"G" + b"ff" * 800)
@given(PACKETS)
def test_every_packet_has_an_answer(packet: bytes) -> None:
    reply, then = FUZZED.commands.answer(packet)

    assert reply is None or len(reply) <= PACKET_SIZE
    assert isinstance(then, Next)


def test_a_guest_with_registers_full_of_ones_still_ends(it: Debugged) -> None:
    for register in REGISTERS:
        it.ask(b"P%x=%b" % (NUMBER[register.name], b"ff" * (register.bits // 8)))
    it.board.p.write_phys(CODE, struct.pack("<B", 0xF4))

    it.board.set(rip=CODE)
    it.board.p.run()
