"""The general emulator on RAM: instructions, faults, and the state that faults preserve."""

import ctypes

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.board import (
    AF,
    CF,
    CODE,
    DATA,
    DB,
    DE,
    DF,
    GP,
    GS_BASE,
    HOLE,
    NAMES,
    OF,
    PAGE_FAULT,
    PF,
    READ_ONLY,
    RF,
    SF,
    STACK,
    STACK_FAULT,
    SUPERVISOR,
    TF,
    UD,
    XM,
    ZF,
    Board,
)

NON_CANONICAL = 0x8000_0000_0000
ARITHMETIC = CF | PF | AF | ZF | SF | OF


@pytest.fixture
def kernel() -> Board:
    return Board(0)


@pytest.fixture
def user() -> Board:
    return Board(3)


def test_a_load_takes_every_register_into_its_address(kernel: Board) -> None:
    kernel.poke(DATA + 0x18, 0x1122334455667788)
    kernel.set(r8=DATA, r9=2)
    kernel.emulate("4B8B44C808")  # mov rax, [r8 + r9 * 8 + 8]
    assert kernel.get("rax") == 0x1122334455667788
    assert kernel.get("rip") == CODE + 5


def test_a_32_bit_load_zeroes_the_upper_half(kernel: Board) -> None:
    kernel.poke(DATA, 0xFFFFFFFF_89ABCDEF)
    kernel.set(rbx=DATA, rax=-1)
    kernel.emulate("8B03")  # mov eax, [rbx]
    assert kernel.get("rax") == 0x89ABCDEF


def test_the_stack_pointer_is_an_operand_like_others(kernel: Board) -> None:
    kernel.poke(DATA, 0x1000)
    kernel.set(rbx=DATA, rsp=STACK)
    kernel.emulate("480323")  # add rsp, [rbx]
    assert kernel.get("rsp") == STACK + 0x1000


def test_a_rip_relative_operand_counts_from_the_next_instruction(kernel: Board) -> None:
    kernel.poke(CODE + 0x107, 0x77)
    kernel.emulate("488B0500010000")  # mov rax, [rip + 100h]
    assert kernel.get("rax") == 0x77


def test_segment_bases_count_for_fs_and_gs_only(kernel: Board) -> None:
    kernel.poke(GS_BASE + 0x10, 5)
    kernel.set(rbx=0x10)
    kernel.emulate("65488B03")  # mov rax, gs:[rbx]
    assert kernel.get("rax") == 5


def test_67h_truncates_the_address_before_the_base_is_added(kernel: Board) -> None:
    kernel.poke(GS_BASE + 0x10, 6)
    kernel.set(rbx=0xFFFFFFFF_00000010)
    kernel.emulate("6567488B03")  # mov rax, gs:[ebx]
    assert kernel.get("rax") == 6


def test_moffs(kernel: Board) -> None:
    kernel.poke(DATA, 0x42)
    kernel.emulate(b"\x48\xa1" + DATA.to_bytes(8, "little"))  # mov rax, [moffs64]
    assert kernel.get("rax") == 0x42


def test_flags_come_back_and_no_other_flag_changes(kernel: Board) -> None:
    kernel.poke(DATA, 1)
    kernel.set(rbx=DATA, rax=-1, rflags=DF | 0x3000 | 2)
    kernel.emulate("480103")  # add [rbx], rax
    assert kernel.get("rflags") == DF | 0x3000 | 2 | CF | PF | AF | ZF
    assert kernel.peek(DATA) == 0


def test_cmpxchg16b(kernel: Board) -> None:
    kernel.poke(DATA, 1, 2)
    kernel.set(rbx=3, rcx=4, rax=1, rdx=2, rsi=DATA)
    kernel.emulate("480FC70E")
    assert (kernel.peek(DATA), kernel.peek(DATA + 8)) == (3, 4)
    assert kernel.get("rflags") & ZF


def test_an_operand_may_cross_a_page(kernel: Board) -> None:
    kernel.map(DATA + 0x1000, DATA + 0x5000 | 7)
    kernel.p.write_phys(DATA + 0xFFE, b"\x11\x22")
    kernel.p.write_phys(DATA + 0x5000, b"\x33\x44")
    kernel.set(rbx=DATA + 0xFFE)
    kernel.emulate("F713")  # not dword [rbx]
    assert kernel.p.read_phys(DATA + 0xFFE, 2) == b"\xee\xdd"
    assert kernel.p.read_phys(DATA + 0x5000, 2) == b"\xcc\xbb"


def test_an_instruction_may_cross_a_page(kernel: Board) -> None:
    kernel.p.write_phys(CODE + 0xFFE, bytes.fromhex("48C7C044332211"))
    kernel.set(rip=CODE + 0xFFE)
    assert kernel.p.emulate() == Exit.EXIT_NONE
    assert kernel.get("rax") == 0x11223344
    assert kernel.get("rip") == CODE + 0x1005


def test_a_fetch_from_the_next_page_faults_there(kernel: Board) -> None:
    kernel.p.write_phys(HOLE - 2, b"\x48\xc7")
    kernel.set(rip=HOLE - 2)
    kernel.p.emulate()
    assert kernel.raised() == PAGE_FAULT
    assert kernel.get("cr2") == HOLE


def test_changed_code_is_noticed(kernel: Board) -> None:
    kernel.poke(DATA, 7)
    kernel.set(rbx=DATA)
    kernel.emulate("488B03")  # mov rax, [rbx]
    kernel.emulate("488B0B")  # mov rcx, [rbx]
    assert (kernel.get("rax"), kernel.get("rcx")) == (7, 7)


# --- faults


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("480303", "add rax, [rbx]"),
        ("480103", "add [rbx], rax"),
        ("F00FB10B", "lock cmpxchg [rbx], ecx"),
        ("870B", "xchg [rbx], ecx"),
        ("0FC10B", "xadd [rbx], ecx"),
        ("FF33", "push [rbx]"),
        ("8F03", "pop [rbx]"),
        ("FF13", "call [rbx]"),
        ("FF23", "jmp [rbx]"),
        ("D7", "xlat"),
        ("DD03", "fld qword [rbx]"),
        ("DD1B", "fstp qword [rbx]"),
        ("C5FC1003", "vmovups ymm0, [rbx]"),
        ("0FAB03", "bts [rbx], eax"),
    ],
)
def test_a_fault_leaves_everything_unchanged(kernel: Board, code: str, what: str) -> None:
    del what
    kernel.set(**{name: 0x1000 + i for i, name in enumerate(NAMES)})
    kernel.set(rbx=HOLE, rsp=STACK, rax=0, rflags=ARITHMETIC | 2)
    before = kernel.registers()
    vectors = kernel.p.get_xsave()
    kernel.emulate(code)
    assert kernel.raised() == PAGE_FAULT
    assert kernel.get("cr2") == HOLE
    frame = [kernel.peek(kernel.get("rsp") + 8 * i) for i in range(6)]
    assert (frame[1], frame[3], frame[4]) == (CODE, before["rflags"] | RF, STACK)
    after = kernel.registers()
    changed = {name for name in NAMES if after[name] != before[name]}
    assert changed == {"rsp"}
    assert kernel.p.get_xsave() == vectors


@pytest.mark.parametrize(
    ("where", "code", "error"),
    [
        (HOLE, "8B03", 4),
        (HOLE, "8903", 6),
        (HOLE, "0103", 6),
        (READ_ONLY, "8903", 7),
        (READ_ONLY, "0FB10B", 7),
        (SUPERVISOR, "8B03", 5),
        (SUPERVISOR, "8903", 7),
        (HOLE - 2, "8B03", 4),
        (HOLE - 2, "8903", 6),
    ],
)
def test_error_codes_of_page_faults(user: Board, where: int, code: str, error: int) -> None:
    user.set(rbx=where)
    user.emulate(code)
    assert user.raised() == PAGE_FAULT
    assert user.peek(user.get("rsp")) == error
    assert user.get("cr2") == max(where, HOLE)


def test_the_kernel_may_write_a_read_only_page_without_wp(kernel: Board) -> None:
    kernel.set(cr0=0x80040033, rbx=READ_ONLY, rax=9)
    kernel.emulate("488903")
    assert kernel.peek(READ_ONLY) == 9


def test_the_kernel_may_not_with_wp(kernel: Board) -> None:
    kernel.set(rbx=READ_ONLY)
    kernel.emulate("488903")
    assert kernel.raised() == PAGE_FAULT


def test_a_page_crossing_write_that_faults_writes_nothing(kernel: Board) -> None:
    kernel.poke(HOLE - 8, 0x5555)
    kernel.set(rbx=HOLE - 4, rax=-1)
    kernel.emulate("488903")
    assert kernel.raised() == PAGE_FAULT
    assert kernel.peek(HOLE - 8) == 0x5555


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        ("8B03", GP),  # mov eax, [rbx]
        ("8B4500", STACK_FAULT),  # mov eax, [rbp]
        ("8B0424", STACK_FAULT),  # mov eax, [rsp]
        ("3E8B4500", STACK_FAULT),  # DS does not count in 64-bit code
        ("648B4500", GP),  # FS does
        ("58", STACK_FAULT),
        ("50", STACK_FAULT),
        ("C9", STACK_FAULT),
        ("AA", GP),
    ],
)
def test_addresses_that_are_not_canonical(kernel: Board, code: str, vector: int) -> None:
    kernel.p.set_table("idtr", 0x6000, 0x1FF)
    for gate in (GP, STACK_FAULT):
        kernel.p.write_phys(0x6000 + 16 * gate + 4, b"\x01")
    kernel.p.write_phys(0x7000 + 36, (0x22000).to_bytes(8, "little"))
    kernel.set(rbx=NON_CANONICAL, rbp=NON_CANONICAL, rdi=NON_CANONICAL, rsp=NON_CANONICAL + 0x80)
    kernel.emulate(code)
    assert kernel.raised() == vector
    assert kernel.peek(kernel.get("rsp")) == 0


def test_an_operand_may_not_reach_into_the_hole_of_the_address_space(kernel: Board) -> None:
    kernel.set(rbx=NON_CANONICAL - 4)
    kernel.emulate("488B03")
    assert kernel.raised() == GP


@pytest.mark.parametrize(
    ("code", "offset", "vector"),
    [
        ("0F2803", 8, GP),  # movaps xmm0, [rbx]
        ("0F2803", 16, None),
        ("0F1003", 8, None),  # movups xmm0, [rbx]
        ("C5FC2803", 16, GP),  # vmovaps ymm0, [rbx]
        ("C5FC2803", 32, None),
        ("0F5803", 4, GP),  # addps xmm0, [rbx]
        ("C5F85803", 4, None),  # vaddps xmm0, xmm0, [rbx]
        ("480FC70B", 8, GP),  # cmpxchg16b [rbx]
    ],
)
def test_alignment(kernel: Board, code: str, offset: int, vector: int | None) -> None:
    kernel.set(rbx=DATA + offset)
    kernel.emulate(code)
    assert kernel.raised() == vector


def test_a_misaligned_operand_is_refused_before_it_is_looked_at(kernel: Board) -> None:
    kernel.set(rbx=HOLE + 8)
    kernel.emulate("0F2803")
    assert kernel.raised() == GP


def test_division_by_zero_in_memory(kernel: Board) -> None:
    kernel.poke(DATA, 0)
    kernel.set(rbx=DATA, rax=5, rdx=6)
    kernel.emulate("F733")  # div dword [rbx]
    assert kernel.raised() == DE
    assert (kernel.get("rax"), kernel.get("rdx")) == (5, 6)
    assert kernel.peek(kernel.get("rsp")) == CODE


@pytest.mark.parametrize(("cr4", "vector"), [(0x6A8, XM), (0x2A8, UD)])
def test_an_unmasked_simd_exception_sets_its_flag(kernel: Board, cr4: int, vector: int) -> None:
    kernel.set(cr4=cr4)
    image = bytearray(kernel.p.get_xsave())
    image[24:28] = (0x1F80 & ~0x200).to_bytes(4, "little")
    image[512] |= 2
    kernel.p.set_xsave(bytes(image))
    kernel.set_vectors(xmm0=bytes.fromhex("0000803f"))
    kernel.poke(DATA, 0)
    kernel.set(rbx=DATA)
    kernel.emulate("F30F5E03")  # divss xmm0, [rbx]
    assert kernel.raised() == vector
    assert kernel.p.get_xsave()[24] & 4


def test_an_instruction_that_does_not_exist(kernel: Board) -> None:
    kernel.emulate("0FFF")
    assert kernel.raised() == UD


@pytest.mark.parametrize("code", ["0F05", "0F01D0", "0FA2", "0F30", "CD80", "0F0103"])
def test_sensitive_instructions_never_reach_the_host(kernel: Board, code: str) -> None:
    kernel.set(rbx=DATA, rax=0x1234, rcx=0, rdx=0)
    before = kernel.registers()
    kernel.emulate(code)
    assert kernel.registers() == before


# --- traps and the x87 pointers


def test_the_single_step_trap_follows_the_instruction(kernel: Board) -> None:
    kernel.poke(DATA, 3)
    kernel.set(rbx=DATA, rflags=TF | 2)
    kernel.emulate("488B03")
    assert kernel.raised() == DB
    assert kernel.peek(kernel.get("rsp")) == CODE + 3
    assert kernel.get("rax") == 3
    assert kernel.get("dr6") & 0x4000


def test_a_fault_is_no_step(kernel: Board) -> None:
    kernel.set(rbx=HOLE, rflags=TF | 2)
    kernel.emulate("488B03")
    assert kernel.raised() == PAGE_FAULT


def test_the_resume_flag_goes_with_the_instruction(kernel: Board) -> None:
    kernel.set(rbx=DATA, rflags=RF | 2)
    kernel.emulate("488B03")
    assert kernel.get("rflags") == 2


def test_the_last_x87_instruction_is_the_guests(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    kernel.emulate("D903")  # fld dword [rbx]
    image = kernel.p.get_xsave()
    assert int.from_bytes(image[8:16], "little") in {CODE, 0}
    assert int.from_bytes(image[16:24], "little") in {DATA, 0}


class SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def test_a_stack_pointer_into_the_hosts_signal_stack_does_no_harm(user: Board) -> None:
    user.poke(DATA, 0)
    user.set(rbx=DATA)
    user.emulate("8B03")
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    user.set(rsp=stack.sp + 0x100)
    user.emulate("F733")  # div dword [rbx]
    assert user.raised() == DE
    assert user.peek(user.get("rsp") + 24) == stack.sp + 0x100


def test_many_different_instructions(kernel: Board) -> None:
    kernel.set(rbx=DATA, rax=0)
    for i in range(5000):
        kernel.emulate(b"\x48\x05" + i.to_bytes(4, "little"))  # add rax, imm32
    assert kernel.get("rax") == sum(range(5000))


def test_two_processors_do_not_share_anything() -> None:
    boards = [Board(), Board()]
    for number, board in enumerate(boards):
        board.poke(DATA, 100 + number)
        board.set(rbx=DATA)
    for board in boards:
        board.emulate("488B03")
    assert [board.get("rax") for board in boards] == [100, 101]


def test_a_processor_can_go_while_an_instruction_waits() -> None:
    processor: Processor = Board().p
    processor.emulate()
    del processor


@pytest.mark.parametrize(
    ("control", "stored"),
    [(0x37E, 0x1122334455667788), (0x37F, 0x1122334480000000)],
    ids=["invalid unmasked", "invalid masked"],
)
def test_an_x87_store_that_raises_an_unmasked_exception_stores_nothing(
    kernel: Board, control: int, stored: int
) -> None:
    kernel.poke(DATA, control)
    kernel.poke(DATA + 8, 0x1122334455667788)
    kernel.set(rbx=DATA)

    kernel.emulate("D92B")  # fldcw [rbx]
    kernel.emulate("DB5308")  # fist dword [rbx + 8]: the stack is empty

    assert kernel.peek(DATA + 8) == stored
