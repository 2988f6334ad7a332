"""The local APIC, as guest code and messages from outside use it."""

import struct
import threading
import time

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.model import tsc_khz
from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DEVICE,
    DEVICE_PHYS,
    DEVICE_PT,
    GP,
    HANDLERS,
    IDT,
    IF,
    STACK,
    Board,
)

BASE_MSR, DEADLINE_MSR = 0x1B, 0x6E0
XAPIC, X2APIC = 0xFEE00900, 0xFEE00D00
ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x02, 0x03, 0x08, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F
ISR, TMR, IRR, ESR, ICR, ICR_HIGH, SELF = 0x10, 0x18, 0x20, 0x28, 0x30, 0x31, 0x3F
LVT_TIMER, LINT0, LVT_ERROR, INITIAL, CURRENT, DIVIDE = 0x32, 0x35, 0x37, 0x38, 0x39, 0x3E
MASKED, PERIODIC, DEADLINE = 1 << 16, 1 << 17, 2 << 17
SHORT = 5.0
"""Seconds within which every expected event happens."""


class ApicBoard(Board):
    """A board with halting handlers for all vectors, and the APIC's registers by number."""

    def __init__(self, mode: int = X2APIC) -> None:
        super().__init__()
        self.poke(DEVICE_PT, 0xFEE00000 | 7)
        for vector in range(32, 256):
            handler = HANDLERS + 16 * vector
            self.poke(IDT + 16 * vector, handler & 0xFFFF | 8 << 16 | 0x8E << 40 | 1 << 48, 0)
            self.p.write_phys(handler, b"\xf4")
        self.p.set_table("idtr", IDT, 0xFFF)
        self.x2 = mode == X2APIC
        if self.x2:
            assert self.wrmsr(BASE_MSR, X2APIC) == Exit.EXIT_HLT

    def wrmsr(self, index: int, value: int) -> int:
        """Execute WRMSR and HLT; return the exit."""
        self.set(rcx=index, rax=value & 0xFFFFFFFF, rdx=value >> 32)
        return self.run("0F30")

    def rdmsr(self, index: int) -> int:
        self.set(rcx=index)
        assert self.run("0F32") == Exit.EXIT_HLT
        assert self.raised() is None
        return self.get("rdx") << 32 | self.get("rax")

    def write(self, reg: int, value: int) -> int:
        if self.x2:
            return self.wrmsr(0x800 + reg, value)
        self.set(rdi=DEVICE + reg * 16, rax=value)
        return self.run("8907")  # mov [rdi], eax

    def read(self, reg: int) -> int:
        if self.x2:
            return self.rdmsr(0x800 + reg)
        self.set(rdi=DEVICE + reg * 16)
        assert self.run("8B07") == Exit.EXIT_HLT  # mov eax, [rdi]
        return self.get("rax")

    def message(self, vector: int, *, level: bool = False, destination: int = 0) -> None:
        self.p.message(0xFEE00000 | destination << 12, vector | level << 15 | level << 14)

    def taken(self) -> int | None:
        """Enable interrupts for some NOPs; return the vector whose handler has halted."""
        self.set(rflags=2 | IF)
        self.run("90909090")
        at = self.get("rip") - 1 - HANDLERS
        self.set(rflags=2)
        return at // 16 if 0 <= at < 256 * 16 else None

    def holds(self, first: int, vector: int) -> bool:
        """Whether a vector is in ISR, TMR or IRR."""
        return bool(self.read(first + vector // 32) >> vector % 32 & 1)


@pytest.fixture(params=[XAPIC, X2APIC], ids=["xapic", "x2apic"])
def board(request: pytest.FixtureRequest) -> ApicBoard:
    return ApicBoard(request.param)


@pytest.fixture
def x2() -> ApicBoard:
    return ApicBoard()


# --- registers


def test_identity(board: ApicBoard) -> None:
    assert board.read(ID) == 0
    assert board.read(VERSION) == 0x50014


def test_virtual_wire_after_reset(board: ApicBoard) -> None:
    assert board.read(LINT0) == 0x700
    assert board.read(LVT_TIMER) == MASKED


def test_registers_in_memory_belong_to_xapic_mode_only(x2: ApicBoard) -> None:
    x2.set(rdi=DEVICE + VERSION * 16)
    x2.place("8B07")
    assert x2.p.run() == Exit.EXIT_MMIO_READ
    assert x2.p.exit_info().phys == 0xFEE00030


def test_other_devices_are_still_there() -> None:
    board = ApicBoard(XAPIC)
    board.device.set(0x1008, b"\x11\x22\x33\x44")
    board.set(rdi=DEVICE + 0x1008)
    board.run("8B07")
    assert board.get("rax") == 0x44332211
    assert board.device.reads == [(0x1008, 4)]
    assert DEVICE_PHYS >> 12 != 0xFEE00


@pytest.mark.parametrize("reg", [0x00, 0x01, DFR, ICR_HIGH, EOI, SELF, 0x40, 0xFF])
def test_what_x2apic_cannot_read(x2: ApicBoard, reg: int) -> None:
    x2.set(rcx=0x800 + reg)
    x2.run("0F32")
    assert x2.raised() == GP


@pytest.mark.parametrize(
    ("reg", "value"),
    [(ID, 0), (PPR, 0), (ISR, 0), (CURRENT, 0), (EOI, 1), (TPR, 0x100), (LVT_TIMER, 1 << 32),
     (ICR, 1 << 13), (SVR, 1 << 12), (DFR, 0), (0xFF, 0)],
)  # fmt: skip
def test_what_x2apic_cannot_write(x2: ApicBoard, reg: int, value: int) -> None:
    x2.write(reg, value)
    assert x2.raised() == GP


def test_x2apic_registers_need_the_mode() -> None:
    board = ApicBoard(XAPIC)
    board.wrmsr(0x80B, 0)
    assert board.raised() == GP


def test_any_value_in_any_register_of_the_page_is_survived() -> None:
    board = ApicBoard(XAPIC)
    for offset in range(0, 0x1000, 16):
        for value in (0, 0xFFFFFFFF, 0x5A5A5A5A):
            board.set(rdi=DEVICE + offset, rax=value)
            assert board.run("89078B07") in (Exit.EXIT_HLT, Exit.EXIT_EOI)
    assert board.read(VERSION) == 0x50014


# --- messages, priorities, the end of interrupts


def test_a_message_is_delivered_and_served(board: ApicBoard) -> None:
    board.message(0x41)
    assert board.taken() == 0x41
    assert board.holds(ISR, 0x41)
    assert not board.holds(IRR, 0x41)
    board.write(EOI, 0)
    assert not board.holds(ISR, 0x41)


def test_a_message_waits_for_if(board: ApicBoard) -> None:
    board.message(0x41)
    assert board.run("9090") == Exit.EXIT_HLT
    assert board.holds(IRR, 0x41)
    assert board.taken() == 0x41


def test_the_higher_vector_comes_first_and_its_class_holds_back_the_others(
    board: ApicBoard,
) -> None:
    for vector in (0x52, 0x61, 0x51):
        board.message(vector)
    assert board.taken() == 0x61
    assert board.taken() is None
    board.message(0x6F)
    assert board.taken() is None, "one class does not interrupt itself"
    board.message(0x70)
    assert board.taken() == 0x70
    order = []
    for _ in range(4):
        board.write(EOI, 0)
        order.append(board.taken())
    assert order == [None, 0x6F, 0x52, 0x51]


def test_mov_to_cr8_clears_the_low_half_of_the_task_priority(board: ApicBoard) -> None:
    board.write(TPR, 0x5F)
    board.set(rax=4)
    board.run("440F22C0")  # mov cr8, rax

    assert board.read(TPR) == 0x40


@pytest.mark.parametrize("by_cr8", [True, False])
def test_task_priority_holds_back_its_class_and_below(board: ApicBoard, by_cr8: bool) -> None:
    def set_priority(value: int) -> None:
        if by_cr8:
            board.set(rax=value)
            board.run("440F22C0")  # mov cr8, rax
        else:
            board.write(TPR, value << 4)

    set_priority(5)
    assert (board.read(TPR), board.read(PPR), board.get("cr8")) == (0x50, 0x50, 5)
    board.message(0x5F)
    assert board.taken() is None
    set_priority(4)
    assert board.taken() == 0x5F


def test_a_message_to_another_processor_is_not_ours(board: ApicBoard) -> None:
    board.message(0x41, destination=1)
    assert board.taken() is None
    board.message(0x42, destination=0xFF)
    assert board.taken() == 0x42


def test_vectors_below_16_are_errors(board: ApicBoard) -> None:
    board.write(LVT_ERROR, 0x30)
    board.write(ICR, 1 << 18 | 0x0F)
    assert board.taken() == 0x30
    board.write(ESR, 0)
    assert board.read(ESR) == 1 << 5


def test_a_level_triggered_interrupt_tells_of_its_end(board: ApicBoard) -> None:
    ended: list[int] = []
    board.p.attach_level(ended.append)
    board.message(0x41, level=True)
    board.message(0x52)
    assert board.taken() == 0x52
    assert board.holds(TMR, 0x41)
    board.write(EOI, 0)
    assert board.taken() == 0x41
    assert ended == []
    board.write(EOI, 0)
    assert ended == [0x41]


@pytest.mark.parametrize("last", [False, True])
def test_the_last_message_for_a_vector_says_its_mode(x2: ApicBoard, last: bool) -> None:
    """The result is as if they were accepted one by one (SDM 3A 10.8.4)."""
    x2.message(0x41, level=not last)
    x2.message(0x61, level=last)
    x2.message(0x41, level=last)

    assert x2.holds(IRR, 0x41)
    assert (x2.holds(TMR, 0x41), x2.holds(TMR, 0x61)) == (last, last)


def test_no_message_is_taken_without_its_mode(x2: ApicBoard) -> None:
    """The guest reads TMR while other threads send; both vectors share words of the APIC."""
    level, edge = 0x41, 0x42
    # 1: mov ecx, 822h; rdmsr; and eax, 6; cmp eax, 6; jne 1b: both are in IRR.
    # mov ecx, 81Ah; rdmsr; and eax, 6; cmp eax, 2; je 2f; inc rbx; 2: inc r12; jmp 1b
    looks = (
        "B922080000 0F32 83E006 83F806 75F1"
        "B91A080000 0F32 83E006 83F802 7403 48FFC3 49FFC4 EBDA"
    )  # fmt: skip
    over = threading.Event()

    def send(vector: int) -> None:
        while not over.is_set():
            for _ in range(50):
                x2.message(vector, level=vector == level)

    senders = [threading.Thread(target=send, args=(vector,)) for vector in (level, edge)]
    end = threading.Timer(2, x2.p.kick)
    x2.set(rbx=0, r12=0)
    for thread in (*senders, end):
        thread.start()
    kind = x2.run(looks)
    over.set()
    for thread in (*senders, end):
        thread.join()

    assert (kind, x2.get("rbx")) == (Exit.EXIT_INTERRUPTED, 0)
    assert x2.get("r12") > 1000


def test_an_nmi_to_itself_is_taken_behind_the_write(x2: ApicBoard) -> None:
    for _ in range(2):
        x2.enter(0)
        x2.set(rcx=0x800 + ICR, rax=1 << 18 | 4 << 8, rdx=0, nmi_blocked=0)
        x2.run("0F30 90909090")

    assert x2.raised() == 2
    assert x2.peek(x2.get("rsp")) == CODE + 2


def test_interprocessor_interrupt_to_itself(board: ApicBoard) -> None:
    board.write(ICR, 1 << 18 | 0x45)
    assert board.taken() == 0x45
    board.write(EOI, 0)
    board.write(ICR, 3 << 18 | 0x46)
    assert board.taken() is None, "all but itself"


def test_self_ipi_register(x2: ApicBoard) -> None:
    x2.write(SELF, 0x46)
    assert x2.taken() == 0x46


def test_nmi_comes_whatever_if_says(board: ApicBoard) -> None:
    board.write(ICR, 1 << 18 | 4 << 8)
    assert board.raised() == 2


def test_a_disabled_apic_passes_nothing(board: ApicBoard) -> None:
    board.write(SVR, 0xFF)
    board.message(0x41)
    assert board.taken() is None
    assert board.read(LINT0) & MASKED
    board.write(SVR, 0x1FF)
    assert board.taken() == 0x41


@pytest.mark.parametrize(("entry", "passes"), [(0x700, True), (0x10700, False), (0x40, False)])
def test_the_controllers_line_is_lint0(board: ApicBoard, entry: int, passes: bool) -> None:
    board.write(LINT0, entry)
    board.p.set_interrupt(True)
    board.set(rflags=2 | IF)
    assert board.run("9090") == (Exit.EXIT_WINDOW if passes else Exit.EXIT_HLT)


def test_a_message_stops_a_loop(board: ApicBoard) -> None:
    board.set(rflags=2 | IF)
    timer = threading.Timer(0.02, board.message, (0x41,))
    timer.start()
    assert board.run("EBFE") == Exit.EXIT_HLT
    assert board.get("rip") == HANDLERS + 16 * 0x41 + 1
    timer.join()


def test_halt_waits_for_a_message(board: ApicBoard) -> None:
    board.p.wait_in_halt()
    # The handler halts with interrupts off, which ends the run.
    board.set(rflags=2 | IF)
    timer = threading.Timer(0.02, board.message, (0x41,))
    timer.start()
    assert board.run("F4EBFD") == Exit.EXIT_HLT
    assert board.get("rip") == HANDLERS + 16 * 0x41 + 1
    timer.join()


def test_a_kick_wakes_from_halt(board: ApicBoard) -> None:
    board.p.wait_in_halt()
    board.set(rflags=2 | IF)
    timer = threading.Timer(0.02, board.p.kick)
    timer.start()
    assert board.run("F4EBFD") == Exit.EXIT_INTERRUPTED
    timer.join()
    timer = threading.Timer(0.02, board.message, (0x41,))
    timer.start()
    assert board.p.run() == Exit.EXIT_HLT, "it is still halted and continues to wait"
    timer.join()


# --- the timer


def test_one_shot(board: ApicBoard) -> None:
    board.write(DIVIDE, 0xB)
    board.write(LVT_TIMER, 0x50)
    board.set(rflags=2 | IF)
    started = time.monotonic()
    board.write(INITIAL, 20_000)  # us
    board.set(rflags=2 | IF)
    assert board.run("EBFE") == Exit.EXIT_HLT
    assert 0.02 <= time.monotonic() - started < SHORT
    assert board.get("rip") == HANDLERS + 16 * 0x50 + 1
    assert board.read(CURRENT) == 0
    board.write(EOI, 0)
    time.sleep(0.03)
    assert board.taken() is None


def test_the_count_goes_down_by_the_divided_clock(board: ApicBoard) -> None:
    board.write(DIVIDE, 0x3)  # 16
    board.write(LVT_TIMER, MASKED | 0x50)
    board.write(INITIAL, 1_000_000)
    first, began = board.read(CURRENT), time.monotonic()
    time.sleep(0.05)
    last, ended = board.read(CURRENT), time.monotonic()
    assert (first - last) * 16e-6 == pytest.approx(ended - began, abs=0.02)


def test_periodic(board: ApicBoard) -> None:
    board.write(DIVIDE, 0xB)
    board.write(LVT_TIMER, PERIODIC | 0x50)
    started = time.monotonic()
    board.write(INITIAL, 10_000)
    for _ in range(5):
        board.set(rflags=2 | IF)
        assert board.run("EBFE") == Exit.EXIT_HLT
        board.set(rflags=2)
        board.write(EOI, 0)
    assert 0.05 <= time.monotonic() - started < SHORT
    board.write(INITIAL, 0)
    time.sleep(0.02)
    assert board.taken() is None


def test_deadline(board: ApicBoard) -> None:
    board.write(LVT_TIMER, DEADLINE | 0x50)
    started = time.monotonic()
    due = board.rdmsr(0x10) + tsc_khz() * 20
    board.wrmsr(DEADLINE_MSR, due)
    assert board.rdmsr(DEADLINE_MSR) == due
    board.set(rflags=2 | IF)
    assert board.run("EBFE") == Exit.EXIT_HLT
    assert 0.019 <= time.monotonic() - started < SHORT
    assert board.rdmsr(DEADLINE_MSR) == 0


def test_a_deadline_gone_by_is_at_once(board: ApicBoard) -> None:
    board.write(LVT_TIMER, DEADLINE | 0x50)
    board.wrmsr(DEADLINE_MSR, 1)
    assert board.taken() == 0x50


def test_a_deadline_follows_the_guests_clock(board: ApicBoard) -> None:
    board.write(LVT_TIMER, DEADLINE | 0x50)
    board.wrmsr(DEADLINE_MSR, board.rdmsr(0x10) + tsc_khz() * 1_000_000)
    assert board.taken() is None
    board.wrmsr(0x10, board.rdmsr(0x10) + tsc_khz() * 2_000_000)
    assert board.taken() == 0x50


def test_deadline_needs_its_mode(board: ApicBoard) -> None:
    board.wrmsr(DEADLINE_MSR, 1)
    assert board.rdmsr(DEADLINE_MSR) == 0
    board.write(LVT_TIMER, DEADLINE | MASKED | 0x50)
    board.wrmsr(DEADLINE_MSR, board.rdmsr(0x10) + tsc_khz() * 1_000_000)
    board.write(LVT_TIMER, 0x50)
    assert board.rdmsr(DEADLINE_MSR) == 0


def test_halt_waits_for_the_timer(board: ApicBoard) -> None:
    board.p.wait_in_halt()
    board.write(DIVIDE, 0xB)
    board.write(LVT_TIMER, 0x50)
    board.write(INITIAL, 20_000)
    started = time.monotonic()
    board.set(rflags=2 | IF)
    assert board.run("F4EBFD") == Exit.EXIT_HLT
    assert time.monotonic() - started < SHORT
    assert board.get("rip") == HANDLERS + 16 * 0x50 + 1


@pytest.mark.parametrize("period", [1, 0xFFFFFFFF])
def test_a_timer_of_any_period_leaves_the_guest_time(board: ApicBoard, period: int) -> None:
    board.write(DIVIDE, 0xB)
    board.write(LVT_TIMER, PERIODIC | 0x50)
    board.write(INITIAL, period)
    board.set(rcx=1_000_000)
    assert board.run("FFC975FC") == Exit.EXIT_HLT  # 1: dec ecx; jnz 1b
    assert board.get("rcx") == 0


def test_an_interrupt_between_two_fragments_does_not_link_them_to_its_handler(
    x2: ApicBoard,
) -> None:
    """The handler returns; if a jump were linked to it, there would be no frame to pop."""
    handler, code, jumps = HANDLERS + 0x4000, 0x100000, 0x8000
    # incl [rsi]; wrmsr, which ends the interrupt; iretq
    x2.p.write_phys(handler, bytes.fromhex("FF06 0F30 48CF"))
    x2.poke(IDT + 16 * 0x50, handler & 0xFFFF | 8 << 16 | 0x8E << 40 | handler >> 16 << 48, 0)
    # jmp to the next instruction, many times, each a link not yet made; dec ebx; jnz back; hlt
    back = struct.pack("<i", -(2 * jumps + 8))
    x2.p.write_phys(code, b"\xeb\x00" * jumps + b"\xff\xcb\x0f\x85" + back + b"\xf4")
    x2.write(DIVIDE, 0xB)
    x2.write(LVT_TIMER, PERIODIC | 0x50)
    x2.write(INITIAL, 50)
    x2.set(rflags=2 | IF, rsi=DATA, rcx=0x800 + EOI, rax=0, rdx=0, rbx=3, rip=code)
    assert x2.p.run() == Exit.EXIT_HLT
    assert (x2.get("rbx"), x2.get("rsp")) == (0, STACK)
    assert x2.peek(DATA) & 0xFFFFFFFF > 20


@pytest.mark.parametrize("level", [False, True])
def test_end_of_interrupt_by_a_direct_access(level: bool) -> None:
    board = ApicBoard(XAPIC)
    ended: list[int] = []
    board.p.attach_level(ended.append)
    for vector in range(0x41, 0x46):
        board.message(vector, level=level)
        assert board.taken() == vector
        board.write(EOI, 0)
        assert board.read(ISR + vector // 32) == 0

    assert ended == (list(range(0x41, 0x46)) if level else [])
    assert board.p.counters()["device_ops"] >= 4


def test_message_to_itself_by_a_direct_access_is_taken_at_once() -> None:
    board = ApicBoard(XAPIC)
    for vector in range(0x41, 0x46):
        board.set(rdi=DEVICE + ICR * 16, rax=vector, rflags=2 | IF)
        board.run("89079090")  # mov [rdi], eax; nop; nop
        assert board.peek(board.get("rsp")) == CODE + 2
        board.set(rflags=2)
        board.write(EOI, 0)

    assert board.p.counters()["device_ops"] >= 3
