"""Pages that are written repeatedly while their code runs."""

import struct
import time

import pytest

from tests.unit.vcpu.board import CODE, HLT, Board

TIMES = 200
FAULTS = 8
"""More write faults than a page has before its fragments check their bytes."""
AC = 1 << 18
DATA = 0x800
"""Offset in the code's page of data that is written but not executed."""


def run(code: bytes, cpl: int) -> tuple[Board, int, int]:
    """Run `code` to its HLT; return the board, the write faults and the stale fragments."""
    board = Board(cpl)
    before = board.p.counters()
    board.run(code)
    after = board.p.counters()
    names = ("code_writes", "stale_fragments")
    faults, stale = (after[name] - before[name] for name in names)
    return board, faults, stale


def to(offset: int, after: int) -> bytes:
    """Return a RIP-relative displacement."""
    return struct.pack("<i", offset - after)


@pytest.mark.parametrize("cpl", [0, 3])
def test_each_new_immediate_is_seen_without_a_fault(cpl: int) -> None:
    # mov ecx, TIMES; xor edx, edx; 1: mov [2f + 1], ecx; 2: mov eax, 0; add edx, eax; dec ecx; jnz
    code = b"\xb9" + struct.pack("<I", TIMES) + b"\x31\xd2\x89\x0d" + to(14, 13)
    code += b"\xb8\0\0\0\0\x01\xc2\xff\xc9\x75\xef"

    board, faults, stale = run(code, cpl)

    assert board.get("rdx") == TIMES * (TIMES + 1) // 2
    assert faults <= FAULTS
    assert stale >= TIMES - FAULTS


@pytest.mark.parametrize("cpl", [0, 3])
def test_data_beside_code_makes_nothing_stale(cpl: int) -> None:
    # mov ecx, TIMES; 1: inc dword [DATA]; dec ecx; jnz 1b
    code = b"\xb9" + struct.pack("<I", TIMES) + b"\xff\x05" + to(DATA, 11) + b"\xff\xc9\x75\xf6"

    board, faults, stale = run(code, cpl)

    assert board.peek(CODE + DATA) & 0xFFFFFFFF == TIMES
    assert faults <= FAULTS
    assert stale == 0


def faults_of(times: int, pause: float) -> int:
    """Return how often a store beside its own code faults, if it is run so many times."""
    board = Board(0)
    board.run(b"\x89\x05" + to(DATA, 6))  # mov [DATA], eax
    before = board.p.counters()["code_writes"]
    for _ in range(times):
        time.sleep(pause)
        board.set(rip=CODE)
        board.p.run()
    return board.p.counters()["code_writes"] - before


def test_fragments_check_their_bytes_after_a_burst_of_writes() -> None:
    assert faults_of(TIMES, 0) <= FAULTS


def test_fragments_do_not_check_their_bytes_after_rare_writes() -> None:
    assert faults_of(12, 0.02) == 12


def test_checks_change_no_flag_and_no_register() -> None:
    # mov ecx, TIMES; xor edx, edx; 1: stc; mov [DATA], eax; adc edx, 0; dec ecx; jnz 1b
    code = b"\xb9" + struct.pack("<I", TIMES) + b"\x31\xd2\xf9\x89\x05" + to(DATA, 14)
    code += b"\x83\xd2\x00\xff\xc9\x75\xf2"

    board, faults, _ = run(code, 0)

    assert faults <= FAULTS
    assert board.get("rdx") == TIMES


@pytest.mark.parametrize("offset", range(8))
def test_alignment_checks_are_not_of_the_comparison(offset: int) -> None:
    # mov ecx, TIMES; 1: inc dword [DATA]; dec ecx; jnz 1b
    code = b"\x90" * offset + b"\xb9" + struct.pack("<I", TIMES)
    code += b"\xff\x05" + to(DATA, offset + 11) + b"\xff\xc9\x75\xf6"
    board = Board(3)
    board.set(rflags=AC | 2)

    board.run(code)

    assert board.peek(CODE + DATA) & 0xFFFFFFFF == TIMES


@pytest.mark.parametrize("length", range(1, 20))
def test_every_byte_of_a_fragment_is_compared(length: int) -> None:
    """Each NOP of a slide in turn is CMC for one call."""
    # mov ecx, length; lea rsi, [slide]
    # 1: mov byte [rsi + rcx - 1], CMC; xor edx, edx; call slide; setc dl; add edi, edx
    # mov byte [rsi + rcx - 1], NOP; dec ecx; jnz 1b
    target = 64
    code = b"\xb9" + struct.pack("<I", length) + b"\x48\x8d\x35" + to(target, 12)
    loop = b"\xc6\x44\x0e\xff\xf5\x31\xd2\xe8" + to(target, 24)
    code += loop + b"\x0f\x92\xc2\x01\xd7\xc6\x44\x0e\xff\x90\xff\xc9"
    code += b"\x75" + struct.pack("b", 12 - (len(code) + 2)) + HLT
    code = code.ljust(target, b"\xcc") + b"\x90" * length + b"\xc3"
    board = Board(0)
    for _ in range(4):
        board.set(rdi=0)

        board.run(code)

        assert board.get("rdi") == length
    assert board.p.counters()["stale_fragments"] >= length - 1


def test_flags_that_only_the_new_bytes_read_survive_the_check() -> None:
    """ADD, which needs no flag on entry, becomes SETC."""
    # mov ecx, TIMES; lea rsi, [slide]
    # 1: mov dword [rsi], (add edx, eax; nop; ret); call slide
    # mov dword [rsi], (setc dl; ret); xor edx, edx; stc; call slide; add edi, edx; dec ecx; jnz 1b
    slide = 64
    code = b"\xb9" + struct.pack("<I", TIMES) + b"\x48\x8d\x35" + to(slide, 12)
    code += b"\xc7\x06\x01\xc2\x90\xc3\xe8" + to(slide, 23)
    code += b"\xc7\x06\x0f\x92\xc2\xc3\x31\xd2\xf9\xe8" + to(slide, 37)
    code += b"\x01\xd7\xff\xc9\x75" + struct.pack("b", 12 - 43) + HLT
    board = Board(0)
    board.set(rdi=0)

    board.run(code.ljust(slide, b"\xcc") + b"\x90\x90\x90\xc3")

    assert board.get("rdi") == TIMES
    assert board.p.counters()["stale_fragments"] >= TIMES


def left_over(
    board: Board, prefix: bytes, start: int, count: int, store: bytes = b"\xf3\xaa"
) -> int:
    """Return RCX after REP STOSB of NOPs that begins `start` bytes after its own start."""
    at = CODE + 0x400
    board.p.write_phys(at - 0x400, b"\x90" * 0x800 + HLT)
    board.p.write_phys(at - len(prefix), prefix + store)
    board.set(rip=at - len(prefix), rax=0x90, rcx=count, rdi=at + start)
    board.p.run()
    return board.get("rcx")


@pytest.mark.parametrize("times", [1, 20])
@pytest.mark.parametrize("prefix", ["", "90", "FFC3 4831D2"])  # inc ebx; xor rdx, rdx
@pytest.mark.parametrize("start", [0, -1, -3, -8, -64])
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_repetition_over_itself_ends_the_instruction(
    cpl: int, start: int, prefix: str, times: int
) -> None:
    """A change of its first byte takes effect before the next repetition."""
    board = Board(cpl)
    counts = [left_over(board, bytes.fromhex(prefix), start, 256) for _ in range(times)]

    assert counts == [256 - (1 - start)] * times


def test_an_emulated_repetition_over_itself_ends_the_instruction() -> None:
    """With 67h the general emulator performs the instruction."""
    board = Board()

    assert left_over(board, b"", -8, 256, b"\xf3\x67\xaa") == 256 - 9


def test_a_repetition_beside_itself_is_not_ended() -> None:
    board = Board()
    counts = [left_over(board, b"", 2, 100) for _ in range(20)]

    assert counts == [0] * 20


def test_a_repetition_elsewhere_from_a_hot_page_leaves_no_more_often_than_from_another() -> None:
    board = Board()
    for _ in range(20):
        left_over(board, b"", 0, 256)
    before = board.p.counters()["exits"]

    assert left_over(board, b"", 0x1000, 0x1000) == 0
    assert board.p.counters()["exits"] - before < 100


PERIOD = 2_000_000_000
"""Ticks of the TSC after which a page has to become hot again."""


def test_a_page_that_is_no_longer_written_ceases_to_be_hot() -> None:
    # mov ecx, TIMES; 1: inc dword [DATA]; dec ecx; jnz 1b
    code = b"\xb9" + struct.pack("<I", TIMES) + b"\xff\x05" + to(DATA, 11) + b"\xff\xc9\x75\xf6"
    # rdtsc; shl rdx, 32; lea rbx, [rax + rdx]; mov esi, 1.1 periods; add rbx, rsi
    code += bytes.fromhex("0F31 48C1E220 488D1C10 BE") + struct.pack("<I", PERIOD // 10 * 11)
    # 1: mov rax, cr0; rdtsc; shl rdx, 32; add rax, rdx; cmp rax, rbx; jb 1b; hlt
    code += bytes.fromhex("4801F3 0F20C0 0F31 48C1E220 4801D0 4839D8 72EF F4")
    again = len(code)
    # mov ecx, 10000; 1: mov rax, cr0; dec ecx; jnz 1b
    code += bytes.fromhex("B910270000 0F20C0 FFC9 75F9")
    board = Board(0)
    board.run(code)
    before = board.p.counters()

    board.set(rip=CODE + again)
    board.p.run()

    after = board.p.counters()
    assert after["ops"] - before["ops"] > 10000
    assert after["lookups"] - before["lookups"] < 100
