"""The general emulator in real-address and virtual-8086 mode, which have no LDT to try on the host.

Expected values are the SDM's (vol. 2, "Real-Address Mode Exceptions"; vol. 3B chapter 21).
"""

import pytest

from tests.unit.vcpu.board import CF, DF, GP, STACK_FAULT, TF, UD, ZF
from tests.unit.vcpu.narrow_board import CS, DS, ES, SS, VM, RealBoard

BOUND_RANGE = 5
FS = 4
STATUS = 0xCD5


@pytest.fixture
def real() -> RealBoard:
    return RealBoard()


@pytest.fixture
def v86() -> RealBoard:
    return RealBoard(v86=True)


@pytest.fixture(params=["real", "v86"])
def either(request: pytest.FixtureRequest) -> RealBoard:
    return RealBoard(v86=request.param == "v86")


# --- addresses


def test_offsets_wrap_at_64_kib(either: RealBoard) -> None:
    either.put(1, 0x1234)
    either.set(rbx=0xABCDFFFF, rsi=2, rax=-1)

    assert either.attempt("8B00") is None  # mov ax, [bx + si]
    assert either.get("rax") == 0xFFFFFFFF_FFFF1234
    assert either.get("rip") == 0x102


@pytest.mark.parametrize(
    ("code", "exception"),
    [
        ("8B07", (GP, 0)),  # mov ax, [bx]
        ("8A07", None),  # mov al, [bx]
        ("8907", (GP, 0)),
        ("8B4600", (STACK_FAULT, 0)),  # mov ax, [bp + 0]
        ("3E8B4600", (GP, 0)),  # mov ax, ds:[bp + 0]
        ("368B07", (STACK_FAULT, 0)),  # mov ax, ss:[bx]
        ("66678B03", (GP, 0)),  # mov eax, [ebx]
        ("678A03", None),  # mov al, [ebx]
        ("678A4301", (GP, 0)),  # mov al, [ebx + 1]
        ("678B0424", None),  # mov ax, [esp]
        ("678B442401", None),  # mov ax, [esp + 1]
        ("678B8424F8F70000", None),  # mov ax, [esp + F7F8h]
        ("678B8424FFF70000", (STACK_FAULT, 0)),
    ],
)
def test_an_operand_beyond_the_limit(
    either: RealBoard, code: str, exception: tuple[int, int] | None
) -> None:
    either.set(rbx=0xFFFF, rbp=0xFFFF)

    assert either.attempt(code) == exception
    assert (either.get("rip") == 0x100) == (exception is not None)


def test_a_limit_of_protected_mode_stays(real: RealBoard) -> None:
    real.p.set_segment(DS, 0, 0, 0xFFFFFFFF, 0x8093)
    real.p.write_phys(0x123456, b"\x77\x88")
    real.set(rbx=0x123456)

    assert real.attempt("678B03") is None  # mov ax, [ebx]
    assert real.get("rax") == 0x8877


def test_code_can_be_written_by_an_override(either: RealBoard) -> None:
    either.set(rbx=0x200, rax=0x55)

    assert either.attempt("2E8807") is None  # mov cs:[bx], al
    assert either.p.read_phys(0x30200, 1) == b"\x55"


def test_bases_of_all_segments_count(either: RealBoard) -> None:
    either.segment(FS, 0x4321)
    either.p.write_phys(0x43210 + 8, b"\x11\x22")
    either.set(rbx=8)

    assert either.attempt("648B07") is None
    assert either.get("rax") & 0xFFFF == 0x2211


def test_linear_addresses_are_not_truncated_at_1_mib(real: RealBoard) -> None:
    real.segment(DS, 0xFFFF)
    real.p.write_phys(0xFFFF0 + 0x20, b"\x42")
    real.set(rbx=0x20)

    assert real.attempt("8A07") is None
    assert real.get("rax") & 0xFF == 0x42


# --- instructions


@pytest.mark.parametrize(
    "code",
    [
        "C5F877",  # vzeroupper
        "C5F1FEC2",  # vpaddd xmm0, xmm1, xmm2
        "C4E2F0F2C2",  # andn eax, ecx, edx
        "63C8",  # arpl ax, cx
        "630F",  # arpl [bx], cx
    ],
)
def test_undefined_in_these_modes(either: RealBoard, code: str) -> None:
    assert either.attempt(code) == (UD, None)


def test_sse_is_defined_in_these_modes(either: RealBoard) -> None:
    assert either.attempt("660FEFC0") is None  # pxor xmm0, xmm0


def test_a_word_is_pushed_on_a_stack_of_64_kib(either: RealBoard) -> None:
    either.set(rsp=0xABCD0000, rax=0x1234)

    assert either.attempt("50") is None
    assert either.get("rsp") == 0xABCDFFFE
    assert either.words(0xFFFE, 1) == [0x1234]


@pytest.mark.parametrize(("code", "pointer"), [("50", 1), ("6650", 3), ("58", 0xFFFF)])
def test_a_stack_access_beyond_the_limit(either: RealBoard, code: str, pointer: int) -> None:
    either.set(rsp=pointer)

    assert either.attempt(code) == (STACK_FAULT, 0)
    assert either.get("rsp") == pointer


def test_pusha_and_popa(either: RealBoard) -> None:
    values = {"rax": 1, "rcx": 2, "rdx": 3, "rbx": 4, "rbp": 5, "rsi": 6, "rdi": 7}
    either.set(**values)

    assert either.attempt("60") is None
    assert either.get("rsp") == 0x7F0
    assert either.words(0x7F0, 8) == [7, 6, 5, 0x800, 4, 3, 2, 1]

    either.put(0x7F0, *range(0x11, 0x19))
    assert either.attempt("61") is None
    assert either.get("rsp") == 0x800
    popped = [either.get(name) for name in ("rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax")]
    assert popped == [0x11, 0x12, 0x13, 0x15, 0x16, 0x17, 0x18]


@pytest.mark.parametrize("pointer", [7, 9, 11, 13, 15])
def test_pusha_without_room(either: RealBoard, pointer: int) -> None:
    before = either.words(0, 16)
    either.set(rsp=pointer, rax=0xFFFF)

    assert either.attempt("60") == (GP, 0)
    assert either.get("rsp") == pointer
    assert either.words(0, 16) == before


@pytest.mark.parametrize("pointer", [1, 3, 5, 17])
def test_pusha_writes_nothing_if_one_register_finds_no_room(
    either: RealBoard, pointer: int
) -> None:
    either.put(0, *range(16))
    either.segment(SS, 0x4000)
    either.p.set_segment(SS, 0x4000, 0x40000, 0xFFFF if pointer < 7 else 0xE, 0x93)
    either.p.set("cpl", 3 if either.get("rflags") & VM else 0)
    either.set(rsp=pointer, rax=0xFFFF)

    assert either.attempt("60") == (STACK_FAULT, 0)
    assert either.words(0, 16) == list(range(16))


def test_pushf_in_virtual_8086_mode_needs_iopl_3(v86: RealBoard) -> None:
    assert v86.attempt("9C") == (GP, 0)

    v86.set(rflags=VM | 0x3000 | CF | 2)
    assert v86.attempt("9C") is None
    assert v86.words(0x7FE, 1) == [0x3003]


def test_pushfd_shows_neither_vm_nor_rf(v86: RealBoard) -> None:
    v86.set(rflags=VM | 1 << 16 | 0x3000 | 2)

    assert v86.attempt("669C") is None
    assert v86.words(0x7FC, 2) == [0x3002, 0]


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("EBFE", 0xFFF0),
        ("EB20", 0x12),  # 16 bits: wraps
        ("E91000", 0x03),
        ("E8F0FF", 0xFFE3),
        ("7420", 0x12),
        ("0F841000", 0x04),
        ("FFE0", 0x1234),  # jmp ax
        ("FFD0", 0x1234),
        ("FF27", 0x4444),  # jmp [bx]
        ("C3", 0x5555),
        ("C20600", 0x5555),
        ("66FF27", None),  # jmp dword [bx]: 4444'4444h
        ("6666E900000100", None),
        ("66EB20", None),  # EIP becomes 1'0013h
    ],
)
def test_near_transfers(either: RealBoard, code: str, target: int | None) -> None:
    either.put(0x300, 0x4444, 0x4444)
    either.put(0x800, 0x5555)
    either.set(rip=0xFFF0, rax=0xFFFF1234, rbx=0x300, rflags=either.get("rflags") | ZF)

    raised = either.attempt(code)

    assert raised == ((GP, 0) if target is None else None)
    assert either.get("rip") == (0xFFF0 if target is None else target)


def test_call_pushes_ip_and_ret_releases(either: RealBoard) -> None:
    assert either.attempt("E80010") is None  # call +1000h
    assert (either.get("rip"), either.get("rsp")) == (0x1103, 0x7FE)
    assert either.words(0x7FE, 1) == [0x103]

    assert either.attempt("C20400") is None
    assert (either.get("rip"), either.get("rsp")) == (0x103, 0x804)


def test_leave_keeps_the_upper_half_of_esp(either: RealBoard) -> None:
    either.put(0x400, 0x1111, 0x2222)
    either.set(rsp=0xAAAA0100, rbp=0xBBBB0400)

    assert either.attempt("C9") is None
    assert (either.get("rsp"), either.get("rbp")) == (0xAAAA0402, 0xBBBB1111)

    either.set(rsp=0xAAAA0100, rbp=0xBBBB0400)
    assert either.attempt("66C9") is None
    assert (either.get("rsp"), either.get("rbp")) == (0xAAAA0404, 0x22221111)


@pytest.mark.parametrize(
    ("code", "before", "after", "taken"),
    [
        ("E210", 0x10000, 0x1FFFF, True),  # loop: CX
        ("E210", 0x10001, 0x10000, False),
        ("67E210", 0x10001, 0x10000, True),  # loop: ECX
        ("E310", 0x10000, 0x10000, True),  # jcxz
        ("67E310", 0x10000, 0x10000, False),  # jecxz
        ("66E210", 5, 4, True),
    ],
)
def test_counters_have_the_size_of_addresses(
    either: RealBoard, code: str, before: int, after: int, taken: bool
) -> None:
    either.set(rcx=before)

    assert either.attempt(code) is None
    assert either.get("rcx") == after
    assert either.get("rip") == 0x100 + len(bytes.fromhex(code)) + 0x10 * taken


def test_a_loop_out_of_the_segment_keeps_its_counter(either: RealBoard) -> None:
    either.set(rcx=5, rip=0xFFF0)

    assert either.attempt("66E270") == (GP, 0)
    assert (either.get("rcx"), either.get("rip")) == (5, 0xFFF0)


def test_a_string_wraps_at_64_kib(either: RealBoard) -> None:
    either.put(0xFFFE, 0x2211)
    either.put(0, 0x4433)
    either.set(rsi=0x9999FFFE, rdi=0x88880400, rcx=0x77770004)

    for _ in range(4):
        either.set(rip=0x100)
        assert either.attempt("F3A4") is None  # a store ends a call of the emulator

    assert either.words(0x400, 2) == [0x2211, 0x4433]
    assert either.get("rsi") == 0x99990002
    assert either.get("rdi") == 0x88880404
    assert either.get("rcx") == 0x77770000


def test_a_string_of_words_faults_at_the_end_of_its_segment(either: RealBoard) -> None:
    either.segment(ES, 0x5000)
    either.set(rsi=0xFFFF, rdi=0x400, rcx=3)

    assert either.attempt("F3A5") == (GP, 0)
    assert (either.get("rsi"), either.get("rdi"), either.get("rcx")) == (0xFFFF, 0x400, 3)


def test_a_string_goes_down_below_0(either: RealBoard) -> None:
    either.put(0, 0x77)
    either.set(rsi=0, rflags=either.get("rflags") | DF)

    assert either.attempt("AC") is None  # lodsb
    assert (either.get("rax") & 0xFF, either.get("rsi")) == (0x77, 0xFFFF)


def test_xlat_adds_al_modulo_64_kib(either: RealBoard) -> None:
    either.put(0xF, 0x5A)
    either.set(rbx=0xFFF0, rax=0x121F)

    assert either.attempt("D7") is None
    assert either.get("rax") == 0x125A


def test_a_bit_string_selects_words_on_both_sides(either: RealBoard) -> None:
    either.put(0x7FE, 0, 0, 0x8000)
    either.set(rbx=0x800, rax=0xFFFF)  # -1: the last bit of the word below

    assert either.attempt("0FAB07") is None  # bts [bx], ax
    assert either.words(0x7FE, 1) == [0x8000]

    either.set(rax=0x2F)
    assert either.attempt("0FA307") is None  # bt [bx], ax
    assert not either.get("rflags") & CF


@pytest.mark.parametrize(
    ("index", "raised"),
    [(-5, False), (-4, False), (10, False), (-6, True), (11, True), (0x8000, True)],
)
def test_bound_compares_signed_words(either: RealBoard, index: int, raised: bool) -> None:
    either.put(0x300, -5 & 0xFFFF, 10)
    either.set(rbx=0x300, rax=0x10000 | index & 0xFFFF)

    assert either.attempt("6207") == ((BOUND_RANGE, None) if raised else None)


def test_aam_by_0_divides_by_0(either: RealBoard) -> None:
    either.set(rax=0x1234)

    assert either.attempt("D400") == (0, None)
    assert either.get("rax") == 0x1234


@pytest.mark.parametrize(
    ("code", "ax", "flags", "after", "status"),
    [
        ("37", 0x000A, 0, 0x0100, 0x11),  # aaa
        ("37", 0xFFFA, 0, 0x0100, 0x11),
        ("37", 0x0205, 0, 0x0205, 0x00),
        ("3F", 0x0205, 0x10, 0x000F, 0x11),  # aas
        ("3F", 0x0003, 0x10, 0xFE0D, 0x11),
        ("27", 0x1279, 0x10, 0x127F, 0x10),  # daa
        ("27", 0x129A, 0, 0x1200, 0x55),
        ("27", 0x12AE, 0, 0x1214, 0x15),
        ("2F", 0x1235, 0x11, 0x12CF, 0x95),  # das
        ("2F", 0x1203, 0x10, 0x12FD, 0x91),
        ("D40A", 0x1263, 0, 0x0909, 0x04),  # aam
        ("D410", 0xFF00, 0, 0x0000, 0x44),
        ("D50A", 0x0909, 0, 0x0063, 0x04),  # aad
        ("D50A", 0x2005, 0, 0x0045, 0x00),
        ("D6", 0x1234, 0x01, 0x12FF, 0x01),  # salc
        ("D6", 0x1234, 0x44, 0x1200, 0x44),
    ],
)
def test_decimal_adjustments(
    either: RealBoard, code: str, ax: int, flags: int, after: int, status: int
) -> None:
    either.set(rax=0xABCD0000 | ax, rflags=either.get("rflags") | flags)

    assert either.attempt(code) is None
    assert either.get("rax") == 0xABCD0000 | after
    defined = {"37": 0x11, "3F": 0x11, "27": 0xD5, "2F": 0xD5, "D6": STATUS}.get(code, 0xC4)
    assert either.get("rflags") & defined == status


def test_inc_and_dec_of_one_byte_keep_carry(either: RealBoard) -> None:
    either.set(rax=0x1FFFF, rcx=0x10000, rflags=either.get("rflags") | CF)

    assert either.attempt("40") is None  # inc ax
    assert either.get("rax") == 0x10000
    assert either.get("rflags") & (ZF | CF) == ZF | CF

    assert either.attempt("6649") is None  # dec ecx
    assert either.get("rcx") == 0xFFFF


def test_eip_may_pass_the_end_of_the_segment(either: RealBoard) -> None:
    either.set(rip=0xFFFF)

    assert either.attempt("40") is None
    assert either.get("rip") == 0x10000


def test_the_single_step_trap_comes_after_the_instruction(either: RealBoard) -> None:
    either.set(rflags=either.get("rflags") | TF)

    assert either.attempt("40") == (1, None)
    assert either.get("rip") == 0x101


def test_a_far_segment_of_code_is_fetched(real: RealBoard) -> None:
    real.segment(CS, 0x2345)

    assert real.attempt("B83412") is None  # mov ax, 1234h
    assert real.get("rax") == 0x1234
