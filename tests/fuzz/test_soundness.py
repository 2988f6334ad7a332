"""Operands whose base register does not bound them: none may reach host memory.

Each program is aimed: its addresses are computed from where the guest's page really stands in the
host, so that an unchecked access would hit a canary exactly.  After each one the canaries and the
other processor's memory are as they were, no canary was read into a register, and the exception
is what the host processor gives for the guest's address.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from tests.differential import xsave
from tests.differential.compare import compare, excluded
from tests.differential.departure import Departure
from tests.differential.layout import DATA, STACK
from tests.differential.native import NativeRunner
from tests.differential.program import REGISTERS, Item, Program, State
from tests.fuzz.canary import SIZE

pytest.importorskip("ringlet.vcpu.processor")

from tests.fuzz.victim import Victim

M64 = (1 << 64) - 1
BASE = DATA.linear + 0x800


def aimed(*code: str, ymm: dict[int, bytes] | None = None, fs_base: int = 0, gs_base: int = 0,
          **registers: int) -> Program:
    """A program of raw instructions; RBX is a good pointer, RSP a good stack."""
    values = {"rbx": BASE, "rsp": STACK.linear + 0x2000, **registers}
    vectors = [(ymm or {}).get(i, bytes(32)) for i in range(16)]
    state = State(tuple(values.get(n, 0) & M64 for n in REGISTERS), xsave=xsave.make(vectors),
                  fs_base=fs_base, gs_base=gs_base)
    return Program(tuple(Item(raw=bytes.fromhex(c)) for c in code), state=state)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    it = Victim(timeout=1.0)
    yield it
    it.close()


@pytest.fixture(scope="module")
def native() -> Iterator[NativeRunner]:
    with NativeRunner() as runner:
        yield runner


Maker = Callable[[int], Program]
TOUCH = "488b03"  # mov rax, [rbx]: binds the base to its host address

# What each kind does with `d`: the distance from the guest's page, as the host has it, to a canary.
KINDS: dict[str, Maker] = {
    "index_load": lambda d: aimed(TOUCH, "488b140b", rcx=d),
    "index_store": lambda d: aimed(TOUCH, "4889140b", rcx=d),
    "scaled_index_load": lambda d: aimed(TOUCH, "488b14cb", rcx=d >> 3),
    "scaled_index_store": lambda d: aimed(TOUCH, "488914cb", rcx=d >> 3),
    "index_without_base": lambda d: aimed(TOUCH, "488b14cd00000000", rcx=(BASE + d & M64) >> 3),
    "base_is_the_sum": lambda d: aimed(TOUCH, "488b1409", rcx=(BASE + d & M64) >> 1),
    "base_moved_by_add": lambda d: aimed(TOUCH, "4801cb", "488b13", rcx=d),
    "base_moved_by_lea": lambda d: aimed(TOUCH, "488d1c0b", "48c70300000000", rcx=d),
    "base_marched_by_constants": lambda d: aimed(TOUCH, "4881c300000040", "48ffc9", "75f4",
                                                 "488b13", rcx=min(max(d >> 30, 1), 1 << 17)),
    "bt_memory": lambda d: aimed(TOUCH, "480fa30b", rcx=d << 3),
    "bts_memory": lambda d: aimed(TOUCH, "480fab0b", rcx=d << 3),
    "lock_btr_memory": lambda d: aimed(TOUCH, "f0480fb30b", rcx=d << 3),
    "btc_dword": lambda d: aimed(TOUCH, "0fbb0b", rcx=d << 3 & 0xFFFFFFFF),
    "bt_word": lambda d: aimed(TOUCH, "660fab0b", rcx=d << 3 & 0xFFFF),
    "gather_qword_indices": lambda d: aimed(
        TOUCH, "c4e2e9910c03", ymm={0: struct.pack("<4Q", *[d & M64] * 4),
                                                            2: b"\xff" * 32}),
    "gather_dword_indices": lambda d: aimed(
        TOUCH, "c4e26d900cc3", ymm={0: struct.pack("<8I", *[d >> 3 & 0xFFFFFFFF] * 8),
                                    2: b"\xff" * 32}),
    "address_size_32": lambda d: aimed(TOUCH, "67488b140b", rcx=d),
    "address_size_32_high_base": lambda d: aimed("67488b1433", rbx=BASE | 0x7FFF << 32,
                                                 rsi=d & 0xFFFFFFFF),
    "far_displacement": lambda d: aimed(TOUCH, "488b93ffffff7f", "488b9300000080", rbx=BASE + d),
    "small_base_far_displacement": lambda d: aimed("488b81f0ffff7f", rcx=d & 0xFFF),
    "high_bits_of_the_base": lambda d: aimed(TOUCH, "488b13", rbx=BASE | 0xC000 << 48),
    "host_address_itself": lambda d: aimed(TOUCH, "488b13", "48891a", rbx=BASE + d),
    "fs_relative": lambda d: aimed(TOUCH, "64488b042500000000",
                                   fs_base=_canonical(BASE + d)),
    "fs_with_index": lambda d: aimed("64488b0419", fs_base=BASE, rcx=d, rbx=0),
    "gs_with_index": lambda d: aimed("6548890419", gs_base=BASE, rcx=d, rbx=0),
    "gs_address_size_32": lambda d: aimed("6567488b0419", gs_base=BASE, rcx=d, rbx=0),
    "rsp_march_then_store": lambda d: aimed(
        "50", "4881ec00000040", "48ffc9", "75f4", "50", rcx=min(max(-d >> 30, 1), 1 << 17)),
    "rsp_march_up_then_load": lambda d: aimed(
        "50", "4881c400000040", "48ffc9", "75f4", "58", rcx=min(max(d >> 30, 1), 1 << 17)),
    "rsp_moved_by_register": lambda d: aimed("50", "4801cc", "58", rcx=d),
    "rsp_with_index": lambda d: aimed("50", "488b040c", rcx=d),
    "rsp_lea": lambda d: aimed("50", "488d240c", "50", rcx=d),
    "leave_far": lambda d: aimed("50", "c9", rbp=STACK.linear + 0x2000 + d),
    "enter_far": lambda d: aimed("50", "c8ffff00", "c8ffff1f", rbp=STACK.linear + d),
    "push_memory_far": lambda d: aimed(TOUCH, "ff340b", rcx=d),
    "pop_memory_far": lambda d: aimed(TOUCH, "8f040b", rcx=d),
    "rep_stos_zero_count": lambda d: aimed(TOUCH, "f348ab", "48891f", rcx=0, rdi=BASE + d),
    "rep_movs_zero_count": lambda d: aimed("f348a5", "488b06", rcx=0, rsi=BASE + d, rdi=BASE),
    "rep_stos_far": lambda d: aimed(TOUCH, "f3aa", rcx=0x7FFFFFFF, rdi=BASE),
    "rep_stos_backward": lambda d: aimed(TOUCH, "fd", "f348ab", rcx=0x7FFFFFFF, rdi=BASE),
    "rep_movs_from_far": lambda d: aimed(TOUCH, "f3a4", rcx=64, rsi=BASE + d, rdi=BASE),
    "repe_cmps_far": lambda d: aimed("f3a6", rcx=1 << 40, rsi=BASE, rdi=BASE),
    "repne_scas_far": lambda d: aimed("f2ae", rcx=1 << 40, rax=0x5A, rdi=BASE + d),
    "movs_at_the_canary": lambda d: aimed("48a5", rsi=BASE + d, rdi=BASE),
    "stos_at_the_canary": lambda d: aimed(TOUCH, "48ab", rdi=BASE + d),
    "xlat": lambda d: aimed(TOUCH, "d7", rbx=BASE + d),
    "masked_store_no_lane": lambda d: aimed(
        TOUCH, "c4e2752e1c0b", "48890c0b", rcx=d),
    "masked_store_all_lanes": lambda d: aimed(TOUCH, "c4e2752e1c0b", rcx=d,
                                              ymm={1: b"\xff" * 32, 3: b"\x55" * 32}),
    "masked_load_all_lanes": lambda d: aimed(TOUCH, "c4e2752c1c0b", rcx=d,
                                             ymm={1: b"\xff" * 32}),
    "maskmovdqu_no_byte": lambda d: aimed("660ff7c1", "48890f", rdi=BASE + d),
    "maskmovdqu_all_bytes": lambda d: aimed("660ff7c1", rdi=BASE + d, ymm={1: b"\xff" * 32}),
    "prefetch_then_store": lambda d: aimed("0f180c0b", "0f0d0c0b", "4889140b", rcx=d),
    "nop_with_memory_then_load": lambda d: aimed("0f1f040b", "488b040b", rcx=d),
    "lea_then_load": lambda d: aimed(TOUCH, "488d140b", "488b02", rcx=d),
    "cmov_not_taken": lambda d: aimed(TOUCH, "4831c0", "480f45040b", rcx=d),
    "cmpxchg16b": lambda d: aimed(TOUCH, "480fc70c0b", rcx=d),
    "movnti": lambda d: aimed(TOUCH, "480fc30c0b", rcx=d),
    "absolute_64": lambda d: aimed("48a3" + struct.pack("<Q", BASE + d & M64).hex()),
    "jump_there": lambda d: aimed("ffe0", rax=BASE + d),
    "call_through_there": lambda d: aimed(TOUCH, "ff140b", rcx=d),
    "return_there": lambda d: aimed("50", "c3", rax=BASE + d),
    "xsave_there": lambda d: aimed(TOUCH, "0fae240b", rcx=d, rax=7),
    "fxrstor_there": lambda d: aimed(TOUCH, "0fae0c0b", rcx=d),
    "fnsave_there": lambda d: aimed(TOUCH, "dd340b", rcx=d),
}


def _canonical(value: int) -> int:
    value &= M64
    return value if value >> 47 in (0, 0x1FFFF) else value & 0x7FFF_FFFF_FFFF


def host_addresses(victim: Victim) -> list[int]:
    """Where the host has the guest's data page, once a program touched it."""
    victim.run_program(aimed(TOUCH))
    return victim.host_pages(DATA.offset)


def distances(victim: Victim) -> list[int]:
    """From each host address of the page to the middle of each canary, and past the guards."""
    offset = BASE - DATA.linear
    out = [canary + SIZE // 2 - (page + offset) for page in host_addresses(victim)
           for canary in victim.canaries.addresses]
    return [*out, 1 << 36, -1 << 36, 1 << 40, 39 << 30, 41 << 30, -41 << 30, 1 << 47, 1 << 63]


def test_the_guest_page_is_found_in_the_host(victim: Victim) -> None:
    assert host_addresses(victim)
    assert victim.canaries.addresses


@pytest.mark.parametrize("kind", KINDS)
def test_no_address_reaches_the_host(kind: str, victim: Victim) -> None:
    for distance in distances(victim):
        program = KINDS[kind](distance)
        found = victim.run_program(program)
        assert victim.canaries.changed() == [], program.listing()
        assert not victim.leaked(found), program.listing()
    assert victim.harm() == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_exception_is_the_processors(kind: str, victim: Victim, native: NativeRunner) -> None:
    programs = [KINDS[kind](distance) for distance in distances(victim)[::3]]
    for program, expected in zip(programs, native.run(programs), strict=True):
        reason = excluded(program, expected)
        found = [] if reason else compare(
            program, expected, victim.run_program(program), departs=Departure.AT_TARGET)
        assert found == [], program.listing()
