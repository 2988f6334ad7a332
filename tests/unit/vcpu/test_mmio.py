"""Device memory as the operand of sensitive instructions and in the delivery of events."""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import (
    CODE,
    DB,
    DEVICE,
    GDT,
    GP,
    HANDLERS,
    HOLE,
    IDT,
    MIXED,
    PAGE_FAULT,
    STACK,
    TF,
    ZF,
    Board,
)

SELECTOR = b"\x10\x00"
PORT = 0x3FF


@pytest.fixture
def kernel() -> Board:
    board = Board(0)
    board.device.set(0, SELECTOR)
    board.set(rbx=DEVICE, rcx=1, rdx=PORT, rsi=DEVICE, rdi=DEVICE)
    return board


@pytest.mark.parametrize(
    ("code", "flags"),
    [("0F0203", ZF), ("0F0303", ZF), ("0F0023", ZF), ("0F002B", ZF)],
    ids=["lar", "lsl", "verr", "verw"],
)
def test_selector_is_read_from_a_device(kernel: Board, code: str, flags: int) -> None:
    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.reads == [(0, 2)]
    assert kernel.get("rflags") & ZF == flags


@pytest.mark.parametrize("code", ["8E23", "8E1B", "8E2B"])
def test_segment_register_is_loaded_from_a_device(kernel: Board, code: str) -> None:
    kernel.p.set_segment(4, 0, 0, 0, 1 << 16)
    kernel.p.set_segment(3, 0, 0, 0, 1 << 16)
    kernel.p.set_segment(5, 0, 0, 0, 1 << 16)

    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.reads == [(0, 2)]
    assert 0x10 in {kernel.p.get_segment(i)[0] for i in (3, 4, 5)}


def test_load_of_ss_from_a_device_holds_off_the_step_trap(kernel: Board) -> None:
    kernel.set(rflags=TF | 2)

    assert kernel.run("8E1390") == Exit.EXIT_HLT  # mov ss, [rbx]; nop
    assert kernel.raised() == DB
    assert kernel.peek(kernel.get("rsp")) == CODE + 3


@pytest.mark.parametrize(
    ("code", "writes"),
    [
        ("8C13", [(0, 2, 0x10)]),
        ("0F0123", [(0, 2, 0x33)]),
        ("0F000B", [(0, 2, 0x28)]),
        ("0F0003", [(0, 2, 0)]),
        ("0F0103", [(0, 2, 0x27), (2, 2, GDT), (4, 4, 0), (8, 2, 0)]),
        ("0F010B", [(0, 2, 0x1FF), (2, 2, IDT), (4, 4, 0), (8, 2, 0)]),
    ],
    ids=["mov_from_seg", "smsw", "str", "sldt", "sgdt", "sidt"],
)
def test_system_register_is_stored_to_a_device(
    kernel: Board, code: str, writes: list[tuple[int, int, int]]
) -> None:
    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.writes == writes
    assert kernel.device.reads == []


def test_tables_register_is_loaded_from_a_device(kernel: Board) -> None:
    kernel.device.set(0, struct.pack("<HQ", 0x123, IDT))

    assert kernel.run("0F011B") == Exit.EXIT_HLT  # lidt [rbx]
    assert kernel.p.get_table("idtr") == (IDT, 0x123)
    assert kernel.device.reads == [(0, 2), (2, 2), (4, 4), (8, 2)]


def test_lmsw_reads_a_device(kernel: Board) -> None:
    kernel.device.set(0, b"\x3b\x00")

    assert kernel.run("0F0133") == Exit.EXIT_HLT
    assert kernel.get("cr0") & 0xF == 0xB


@pytest.mark.parametrize(("code", "value"), [("0FA0", 0x10), ("9C", 2), ("0FA8", 0x10)])
def test_push_to_a_device(kernel: Board, code: str, value: int) -> None:
    kernel.set(rsp=DEVICE + 16)

    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.writes == [(8, 8, value)]
    assert kernel.get("rsp") == DEVICE + 8


@pytest.mark.parametrize("code", ["0FA1", "9D"])
def test_pop_from_a_device(kernel: Board, code: str) -> None:
    kernel.device.set(8, struct.pack("<Q", 0x10))
    kernel.set(rsp=DEVICE + 8)

    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.reads == [(8, 8)]
    assert kernel.get("rsp") == DEVICE + 16


@pytest.mark.parametrize(("code", "size"), [("6E", 1), ("666F", 2), ("6F", 4)])
def test_outs_reads_a_device(kernel: Board, code: str, size: int) -> None:
    sent: list[tuple[int, int, int]] = []
    kernel.device.set(0, b"\x41\x42\x43\x44")
    kernel.p.attach_ports(
        lambda _port, _size: 0, lambda port, size, value: sent.append((port, size, value))
    )

    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.reads == [(0, size)]
    assert sent == [(PORT, size, int.from_bytes(b"ABCD"[:size], "little"))]
    assert kernel.get("rsi") == DEVICE + size


@pytest.mark.parametrize("attached", [False, True])
def test_rep_ins_writes_a_device(kernel: Board, attached: bool) -> None:
    values = iter([0x51, 0x52, 0x53])
    kernel.set(rcx=3)
    kernel.p.attach_ports(lambda _port, _size: next(values), lambda _port, _size, _value: None)
    if attached:
        kernel.p.attach_memory(kernel.device.read, kernel.device.write)

    assert kernel.run("F36C") == Exit.EXIT_HLT
    assert kernel.device.writes == [(0, 1, 0x51), (1, 1, 0x52), (2, 1, 0x53)]
    assert (kernel.get("rdi"), kernel.get("rcx")) == (DEVICE + 3, 0)


def test_far_pointer_in_a_device(kernel: Board) -> None:
    kernel.device.set(0, struct.pack("<IH", CODE + 3, 8) + bytes(2))

    assert kernel.run("FF2BF4F4") == Exit.EXIT_HLT  # jmp far [rbx]; hlt; hlt
    assert kernel.get("rip") == CODE + 4
    assert kernel.device.reads == [(0, 4), (4, 2)]


def test_far_return_from_a_device(kernel: Board) -> None:
    kernel.device.set(0, struct.pack("<QQ", CODE + 3, 8))
    kernel.set(rsp=DEVICE)

    assert kernel.run("48CBF4F4") == Exit.EXIT_HLT  # retfq; hlt; hlt
    assert (kernel.get("rip"), kernel.get("rsp")) == (CODE + 4, DEVICE + 16)


def test_interrupt_return_from_a_device(kernel: Board) -> None:
    kernel.device.set(0, struct.pack("<QQQQQ", CODE + 3, 8, 2 | ZF, STACK, 0x10))
    kernel.set(rsp=DEVICE)

    assert kernel.run("48CFF4F4") == Exit.EXIT_HLT  # iretq; hlt; hlt
    assert (kernel.get("rip"), kernel.get("rsp")) == (CODE + 4, STACK)
    assert kernel.get("rflags") == 2 | ZF


def test_enter_with_a_display_in_a_device(kernel: Board) -> None:
    kernel.device.set(0x100, struct.pack("<QQ", 0x1111, 0x2222))
    kernel.set(rsp=DEVICE + 0x80, rbp=DEVICE + 0x110)

    assert kernel.run("C8000003") == Exit.EXIT_HLT  # enter 0, 3
    assert kernel.device.reads == [(0x108, 8), (0x100, 8)]
    assert kernel.device.writes == [
        (0x78, 8, DEVICE + 0x110), (0x70, 8, 0x2222), (0x68, 8, 0x1111), (0x60, 8, DEVICE + 0x78),
    ]  # fmt: skip
    assert (kernel.get("rsp"), kernel.get("rbp")) == (DEVICE + 0x60, DEVICE + 0x78)


def test_descriptor_in_a_device(kernel: Board) -> None:
    kernel.device.set(0x10, struct.pack("<Q", 0x00CF92000000FFFF))
    kernel.p.set_table("gdtr", DEVICE, 0x27)

    assert kernel.run("B8100000008ED8") == Exit.EXIT_HLT  # mov eax, 10h; mov ds, eax
    assert kernel.device.reads == [(0x10, 8)]
    assert kernel.device.writes == [(0x15, 1, 0x93)]
    assert kernel.raised() is None


@pytest.mark.parametrize("save", ["0FAE03", "480FAE03", "0FAE23", "0FC723"])
def test_vector_state_passes_through_a_device(kernel: Board, save: str) -> None:
    restore = {"0FAE03": "0FAE0B", "480FAE03": "480FAE0B"}.get(save, "0FAE2B")
    kernel.set_vectors(xmm1=bytes(range(16)), xmm15=bytes(range(100, 116)))
    kernel.set(rax=3, rdx=0)
    assert kernel.run(save) == Exit.EXIT_HLT
    saved = len(kernel.device.writes)
    kernel.set_vectors(xmm1=bytes(16), xmm15=bytes(16))
    assert kernel.run(restore) == Exit.EXIT_HLT

    assert kernel.raised() is None
    assert (kernel.vector(1)[:16], kernel.vector(15)[:16]) == (
        bytes(range(16)),
        bytes(range(100, 116)),
    )
    assert len(kernel.device.writes) == saved >= 20


def test_fnsave_to_a_device_stores_what_it_resets(kernel: Board) -> None:
    assert kernel.run("DBE3D9E8DD33") == Exit.EXIT_HLT  # fninit; fld1; fnsave [rbx]
    status, tag = struct.unpack("<H2xH", kernel.device.get(4, 6))
    assert (status >> 11, tag) == (7, 0x3FFF)
    assert kernel.device.get(28, 10) == bytes.fromhex("0000000000000080FF3F")
    assert struct.unpack_from("<HH", bytes(kernel.p.get_xsave())) == (0x37F, 0)


def test_fault_of_a_second_page_comes_before_the_device_is_asked(kernel: Board) -> None:
    kernel.poke(0x9000 + 8, 0)  # the device's second page
    kernel.set(rbx=DEVICE + 0xFFF)

    assert kernel.run("0F0203") == Exit.EXIT_HLT  # lar eax, [rbx]
    assert (kernel.raised(), kernel.device.reads) == (PAGE_FAULT, [])


def test_operand_in_ram_and_in_a_device(kernel: Board) -> None:
    kernel.set(rbx=MIXED + 0xFFF)

    assert kernel.run("8C13") == Exit.EXIT_HLT  # mov [rbx], ss
    assert kernel.p.read_phys(MIXED + 0xFFF, 1) == b"\x10"
    assert kernel.device.writes == [(0, 1, 0)]


def test_fault_after_an_answer(kernel: Board) -> None:
    kernel.device.set(0, b"\xf8\xff")

    assert kernel.run("8E1B") == Exit.EXIT_HLT  # mov ds, [rbx]
    assert kernel.raised() == GP
    assert kernel.peek(kernel.get("rsp")) == 0xFFF8
    assert kernel.run("8C13") == Exit.EXIT_HLT
    assert kernel.device.writes == [(0, 2, 0x10)]


# --- events


def test_frame_in_a_device(kernel: Board) -> None:
    kernel.set(rsp=DEVICE + 0x40)

    assert kernel.run("0F0B") == Exit.EXIT_HLT  # ud2
    assert kernel.raised() == 6
    assert kernel.get("rsp") == DEVICE + 0x18
    assert [write[0] for write in kernel.device.writes] == [*range(0x38, 0x10, -8)]
    assert {write[1] for write in kernel.device.writes} == {8}
    assert kernel.device.get(0x18, 16) == struct.pack("<QQ", CODE, 8)


def test_frame_of_a_software_interrupt_in_a_device(kernel: Board) -> None:
    kernel.set(rsp=DEVICE + 0x40)

    assert kernel.run("CD05") == Exit.EXIT_HLT
    assert kernel.raised() == 5
    assert kernel.device.get(0x18, 16) == struct.pack("<QQ", CODE + 2, 8)
    assert len(kernel.device.writes) == 5


def test_gate_in_a_device(kernel: Board) -> None:
    handler = HANDLERS + 16 * 6
    kernel.device.set(6 * 16, struct.pack("<Q", handler & 0xFFFF | 8 << 16 | 0x8E << 40 | 1 << 48))
    kernel.p.set_table("idtr", DEVICE, 0x1FF)

    assert kernel.run("0F0B") == Exit.EXIT_HLT
    assert kernel.raised() == 6
    assert kernel.device.reads == [(0x60, 8), (0x68, 8)]


def test_interrupt_whose_frame_is_in_a_device(kernel: Board) -> None:
    kernel.set(rsp=DEVICE + 0x40)
    kernel.place("90")
    kernel.p.inject(9)

    assert kernel.run(kernel.p.read_phys(CODE, 1)) == Exit.EXIT_HLT
    assert kernel.raised() == 9
    assert len(kernel.device.writes) == 5


def test_gate_that_a_device_does_not_have_is_a_double_fault(kernel: Board) -> None:
    kernel.p.set_table("idtr", DEVICE, 0x1FF)
    double = HANDLERS + 16 * 8
    kernel.device.set(8 * 16, struct.pack("<Q", double & 0xFFFF | 8 << 16 | 0x8E << 40 | 1 << 48))
    kernel.set(rbx=HOLE)

    assert kernel.run("8B03") == Exit.EXIT_HLT  # #PF, whose gate is zero: #GP, then #DF
    assert kernel.raised() == 8
    assert kernel.device.reads == [
        (0xE0, 8), (0xE8, 8), (0x80, 8), (0x88, 8),
    ]  # fmt: skip


def test_no_answer_is_kept_for_what_comes_after(kernel: Board) -> None:
    kernel.device.set(0, b"\x11\0")
    kernel.device.set(8, b"\x10\0")
    kernel.set(rcx=DEVICE + 8)

    assert kernel.run("0F02030F0201") == Exit.EXIT_HLT  # lar eax, [rbx]; lar eax, [rcx]
    assert kernel.device.reads == [(0, 2), (8, 2)]
