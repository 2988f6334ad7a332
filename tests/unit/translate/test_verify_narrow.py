"""The verifier of 16- and 32-bit code: accesses, checks, registers and strings."""

from __future__ import annotations

import pytest
from tests.unit.translate.narrow_code import (
    ADD,
    BACK_DI,
    BASE,
    BASED,
    CHECK,
    CHECKED_DI,
    FIELDS,
    FLAT,
    FLAT_DI,
    LIMIT,
    NEGATIVE,
    OFFSET,
    READ_CHECK,
    READ_LIMIT,
    RESTORE,
    SAVE_SI,
    SEGMENTED,
    SHIFTS,
    SUM,
    at,
    host,
    reasons,
    translate,
)

from ringlet.translate.translator import BLOCK, KEYS

WIDE = KEYS["mode16"] | KEYS["segmented"] | KEYS["data64k"]
"""Segments of 64 KiB."""


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("stepping", [0, KEYS["step"]])
@pytest.mark.parametrize(
    "key",
    [FLAT, SEGMENTED, FLAT | KEYS["stack16"], BASED, FLAT | KEYS["cs64k"],
     KEYS["mode16"], KEYS["mode16"] | KEYS["segmented"] | KEYS["stack16"] | KEYS["cs64k"]],
)  # fmt: skip
@pytest.mark.parametrize(
    "code",
    ["8b03", "8903", "a5", "f3aa", "ff33", "8f03", "8a27", "8827", "ffe0", "ff10", "c3", "e2fe",
     "e304", "7510", "e810000000", "8d4c8302", "648b4304", "d7", "c9", "0fc703", "dd33", "0fb10b",
     "f3a5", "f2ae", "f3a6", "67f3a5", "67f2ae", "66f3ad", "0e", "6616", "0fa8", "8cd8", "668ce1",
     "fa90", "fb90", "0f31", "60", "6661", "61", "6660", "8ed8", "07", "8ee0", "66 0fa1", "0fa9",
     "0f20d0", "0f20d4"],
)  # fmt: skip
def test_what_the_translator_makes_is_sound(
    code: str, key: int, stepping: int, checked: bool, indirect: bool
) -> None:
    assert reasons(translate(code, key | stepping, indirect, checked)) == []


@pytest.mark.parametrize(
    ("code", "key", "leaves"),
    [
        ("1e", FLAT, False),  # push ds
        ("1e", SEGMENTED, False),
        ("8cd8", FLAT | 3, False),  # mov eax, ds
        ("8c18", FLAT, True),  # mov [eax], ds
        ("0f20d3", FLAT, False),  # mov ebx, cr2
        ("0f20db", FLAT, True),  # mov ebx, cr3
        ("0f20d3", FLAT | 3, True),
        ("fa", FLAT, False),
        ("fa", FLAT | 3, True),
        ("0f31", FLAT, False),
        ("0f31", FLAT | 3, True),
        ("f3a4", FLAT, False),
        ("f3a4", SEGMENTED, False),
        ("67f3a4", SEGMENTED, False),
        ("67f3a4", FLAT, True),
        ("60", FLAT, False),
        ("61", SEGMENTED, False),
    ],
)
def test_operations_that_need_not_leave(code: str, key: int, leaves: bool) -> None:
    # HLT behind the code leaves.
    assert len(translate(code, key).operations) == 1 + leaves


@pytest.mark.parametrize(
    "code",
    [
        "",
        "01d8",  # add eax, ebx
        "418b041a",  # mov eax, [r10 + rbx]
        "418b8200000070",  # mov eax, [r10 + 70000000h]
        "4189c1 438b040a",  # mov r9d, eax; mov eax, [r10 + r9]
        "440fb6c8 438b040a",  # movzx r9d, al
        "410fa3041a",  # bt [r10 + rbx], eax
        "65678b049d000000c1",  # mov eax, gs:[ebx*4 - 3f000000h]
        "656788442480",  # mov gs:[esp - 80h], al
        "65670fba24c303",  # bt dword gs:[ebx + eax*8], 3
        "65670f104483ff",  # movups xmm0, gs:[ebx + eax*4 - 1]
        "6567d7",  # xlatb
        CHECK + "43890408",  # mov [r8 + r9], eax
        CHECK + "43880408",  # a byte of the 4
        READ_CHECK + "438b0408",
        CHECK + "4f8d0c08 418901",  # lea r9, [r8 + r9]; mov [r9], eax
        FLAT_DI + "ab" + BACK_DI,  # stosd
        FLAT_DI + "f3ab" + BACK_DI,
        CHECKED_DI + "ab" + BACK_DI + RESTORE,
        "e302 01d8 01d8",  # jrcxz over an instruction
    ],
)
def test_sound_code_is_accepted(code: str) -> None:
    assert reasons(host(code)) == []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("8b041a", "not in the window"),  # mov eax, [rdx + rbx]
        ("8b03", "not in the window"),  # mov eax, [rbx]
        ("418b00", "not in the window"),  # r8 brings nothing from before
        ("438b0402", "not in the window"),  # [r10 + r8]
        ("438b0412", "not in the window"),  # [r10 + r10]
        ("418b045a", "scaled"),  # [r10 + rbx*2]
        ("418b841a00000010", "not in the window"),  # a displacement of 256 MiB
        ("418b841a00000080", "not in the window"),
        ("67418b041a", "32 bits"),  # [r10d + ebx]
        ("8b05 00000000", "RIP"),  # [rip]
        ("65418b041a", "uses GS with another address"),
        ("658b03", "uses GS with another address"),  # gs:[rbx]
        ("6567418b00", "uses GS with another address"),  # gs:[r8d]
        ("6567428b0483", "uses GS with another address"),  # gs:[ebx + r8d*4]
        ("6567488b0483", "segment override"),
        ("65670fa30483", "string of bits"),  # bt gs:[ebx + eax*4], eax
        ("6567a5", "segment override"),
        ("64678b03", "segment override"),
        ("3e418b041a", "segment override"),
        ("d7", "no 64-bit register"),  # xlatb
        ("0ff7c1", "not in the window"),  # maskmovq at rdi
        ("660ff7c1", "not in the window"),  # maskmovdqu
        ("c4c269908c1a00000000", "vector"),  # vpgatherdd, scale 1
        ("c4c24d90041a", "vector"),
        ("410fa3041b", "not in the window"),  # bt [r11 + rbx], eax
        ("490fa3041a", "64 bits"),  # bt [r10 + rbx], rax
        ("4d8d0c1a 458b4904", "not in the window"),  # lea r9, [r10 + rbx]; [r9 + 4]
        ("4d8d0c9a 458b09", "not in the window"),  # lea r9, [r10 + rbx*4]
        ("4d8d4c1a04 458b09", "not in the window"),  # lea r9, [r10 + rbx + 4]
        ("4c8d0c18 438b040a", "not in the window"),  # lea r9, [rax + rbx]: 33 bits
        ("4c8b0425" + at("segment_at", 3) + "418b00", "not in the window"),
    ],
)
def test_addresses_out_of_the_window_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (OFFSET + BASE + "438b0408", "not in the window"),  # no check
        (READ_CHECK + "43890408", "a write was not checked"),
        (READ_CHECK + "f043010408", "a write was not checked"),  # lock add
        (CHECK + "66430f6f0408", "16 are accessed"),  # movdqa
        (CHECK + "f3430f7f0408", "16 are accessed"),
        (CHECK + "430fc70c08", "8 are accessed"),  # cmpxchg8b
        (CHECK + "43db2c08", "10 are accessed"),  # fld m80
        (CHECK + "c4827d2e0408", "32 are accessed"),  # vmaskmovps of 8 lanes
        (CHECK + "430fa30408", "string of bits"),  # bt with a register
        (CHECK + "43890448", "scaled"),
        (CHECK + "4389440804", "not in the window"),  # a displacement after the check
        (CHECK + "4f8d4c0804 418901", "not in the window"),
        (CHECK + "4f8d0c08 41894104", "not in the window"),
        (CHECK + "4f8d0c08 66450f7f01", "16 are accessed"),
        (READ_CHECK + "4f8d0c08 418901", "a write was not checked"),
        (OFFSET + LIMIT + SUM + SHIFTS + "4189c9 4f8d0c01" + BASE + "438b0408", "not in the"),
        (OFFSET + LIMIT + SUM + SHIFTS + "4189c1" + ADD + BASE + "438b0408", "not in the window"),
        (OFFSET + LIMIT + SUM + "4189c1" + SHIFTS + ADD + BASE + "438b0408", "64-bit shift"),
        # lea r8, [r8 + rax + 3], but it is added to r9
        (OFFSET + LIMIT + "4d8d440003" + SHIFTS + ADD + BASE + "438b0408", "not in the window"),
        (OFFSET + LIMIT + "4f8d4408ff" + SHIFTS, "64-bit shift"),  # a displacement of -1
        (OFFSET + LIMIT + SUM + "41bb3e000000" + SHIFTS, "64-bit shift"),  # r11 is 62
        (OFFSET + LIMIT + SUM + "c442a3f7c0" + ADD + BASE + "438b0408", "not in the window"),
        (OFFSET + LIMIT + SUM + "c442a1f7c0", "64-bit shift"),  # SHLX alone
        (OFFSET + LIMIT + SUM + SHIFTS + ADD + "4c8b0425" + at("segment_at", 1) + "438b0408",
         "another segment"),
        (OFFSET + LIMIT + SUM + SHIFTS + ADD + "4d89d0" + "438b0408", "not in the window"),
        (OFFSET + LIMIT + SUM + SHIFTS + ADD + "4c8b0425" + at("segment_host", 3) + "438b0408",
         "not in the window"),
    ],
)  # fmt: skip
def test_accesses_that_a_check_does_not_cover_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))


@pytest.mark.parametrize(
    "branch",
    [
        "7405",  # je over SHRX
        "e305",  # jrcxz
    ],
)
def test_branch_over_a_part_of_a_check_is_refused(branch: str) -> None:
    code = OFFSET + LIMIT + SUM + branch + SHIFTS + ADD + BASE + "438b0408"

    assert reasons(host(code)) == ["a 64-bit shift is no part of a check"]


def test_branch_over_a_whole_check_is_refused() -> None:
    check = OFFSET + LIMIT + SUM + SHIFTS + ADD
    size = len(bytes.fromhex(check))
    code = f"74{size:02x}" + check + BASE + "438b0408"

    assert "not in the window" in reasons(host(code))[0]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("4829d8", "64 bits"),  # sub rax, rbx
        ("48ffc0", "64 bits"),  # inc rax
        ("4863c3", "64 bits"),  # movsxd rax, ebx
        ("480fbec3", "64 bits"),  # movsx rax, bl
        ("4898", "64 bits"),  # cdqe
        ("4899", "64 bits"),  # cqo
        ("480f44c3", "64 bits"),  # cmovz rax, rbx
        ("4893", "64 bits"),  # xchg rax, rbx
        ("480fc1d8", "64 bits"),  # xadd rax, rbx
        ("480fb1d8", "64 bits"),  # cmpxchg rax, rbx
        ("c4e2e3f6c1", "64 bits"),  # mulx rax, rbx, rcx
        ("c462e3f6c1", "64 bits"),  # mulx r8, rbx, rcx
        ("48f7241a", "64 bits"),  # mul qword [rdx + rbx]: RDX:RAX
        ("4049f7241a", "64 bits"),  # REX twice: the second counts
        ("49f7241a", "64 bits"),
        ("490fc70c1a", "64 bits"),  # cmpxchg16b
        ("66480f7ec0", "64 bits"),  # movq rax, xmm0
        ("c4e1f97ec0", "64 bits"),  # vmovq rax, xmm0
        ("c4e3f916c000", "64 bits"),  # vpextrq rax, xmm0, 0
        ("f3480fb8c3", "64 bits"),  # popcnt rax, rbx
        ("f2480f38f1c3", "64 bits"),  # crc32 rax, rbx
        ("480fc8", "64 bits"),  # bswap rax
        ("48c7c0ffffffff", "64-bit constant"),  # mov rax, -1
        ("48b80000000001000000", "32-bit value"),
        ("488d0418", "32-bit value"),  # lea rax, [rax + rbx]
        ("488d6424fc", "32-bit value"),  # lea rsp, [rsp - 4]
        ("4c89d0", "32-bit value"),  # mov rax, r10
        ("4c89d4", "32-bit value"),  # mov rsp, r10
        ("4c89c0", "32-bit value"),  # mov rax, r8, from before
        ("4a8d3417", "32-bit value"),  # lea rsi, [rdi + r10], left there
        ("e2fe", "by itself"),  # loop counts RCX with 64 bits
        ("4989c2", "r10"),  # mov r10, rax
        ("4189c2", "r10"),
        ("41ffc4", "computes"),  # inc r12d
        ("41bc00000000", "r10, or a register"),  # mov r12d, 0
        ("41bb3e000000", "r11 is not 63"),
        ("4189c3", "r11 is not 63"),
        ("66448b1c25" + at("scratch"), "field"),
    ],
)
def test_registers_that_are_not_as_between_instructions_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("4489d0", "host address"),  # mov eax, r10d
        ("4501d0", "host address"),  # add r8d, r10d
        ("4539d0", "host address"),  # cmp r8d, r10d
        ("664489d0", "host address"),  # mov ax, r10w
        ("66410f6ec2", "host address"),  # movd xmm0, r10d
        ("4489c0", "host address"),  # mov eax, r8d, from before
        ("6645890c1a", "host address"),  # mov [r10 + rbx], r9w
        ("410fca", "host address"),
        ("418d0412", "host address"),  # lea eax, [r10 + rdx]
        ("66418d0412", "host address"),
        ("49f7d2", "r10"),
        ("48f7d0", "inverts"),  # not rax
        ("c443fbf0ca20", "host address"),  # rorx r9, r10, 32
        ("6645 8b041a 4489c0", "host address"),  # mov r8w, [r10 + rbx]; mov eax, r8d
        ("4e8d0c11 4489c8", "host address"),  # lea r9, [rcx + r10]; mov eax, r9d
        (OFFSET + BASE + "4489c0", "host address"),
        ("4c891425" + at("ea"), "field"),  # mov [ea], r10
        ("4c891425" + at("string_old"), "field"),
    ],
)
def test_host_addresses_do_not_reach_the_guest(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))


@pytest.mark.parametrize(
    ("load", "store", "key", "sound"),
    [
        (0, 0, FLAT, True),
        (2, 2, FLAT, True),
        (0, 2, FLAT, False),  # the selector as a base
        (0, 3, FLAT, False),  # into GS
        (6, 0, FLAT, True),  # the second one of FS
        (12, 0, FLAT, False),  # one of GS
        (12, 3, FLAT, True),
        (0, 0, FLAT | 3, False),
        (0, 0, SEGMENTED, False),
        (0, 0, FLAT | KEYS["limited"], False),
    ],
)
def test_what_is_remembered_goes_to_its_own_place(
    load: int, store: int, key: int, sound: bool
) -> None:
    """Pieces of 8 bytes: a segment has three, and six with what describes it."""
    to = (BLOCK + FIELDS["selectors"] + 4 * 24 + 8 * store).to_bytes(4, "little").hex()
    code = "4c8b0425" + at("remembered", load) + "4c890425" + to

    assert (reasons(host(code, key)) == []) is sound


def test_r8_brings_nothing_to_the_next_guest_instruction() -> None:
    code = host("4189d8 438b0402")  # mov r8d, ebx; mov eax, [r10 + r8]
    split = code._replace(map=((0, 0), (0, 0), (3, 1)))

    assert reasons(code) == []
    assert reasons(split) == ["its address is not in the window"]


def test_r9_brings_a_value_to_the_next_guest_instruction_but_no_check() -> None:
    code = host("4189d9 438b040a")  # mov r9d, ebx; mov eax, [r10 + r9]
    load = "4c8b0425" + at("paragraph_at", 3)
    byte = host("440fb7cb" + load + "438a0408", WIDE)  # movzx r9d, bx; ...; mov al, [r8 + r9]
    address = host("4e8d0c13 418b01")  # lea r9, [rbx + r10]; mov eax, [r9]
    entered = code._replace(map=((0, 0), (0, 0), (3, 1)), resumes=(3,))

    assert reasons(code._replace(map=((0, 0), (0, 0), (3, 1)))) == []
    assert reasons(entered) == ["its address is not in the window"]
    assert reasons(byte) == []
    assert "64 KiB" in " ".join(reasons(byte._replace(map=((0, 0), (0, 0), (4, 1)))))
    assert reasons(address) == []
    assert reasons(address._replace(map=((0, 0), (0, 0), (4, 1)))) != []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("ab", "host addresses"),
        ("a5", "host addresses"),
        (FLAT_DI + "a5" + BACK_DI, "host addresses"),  # RSI is the guest's
        ("4a8d3c17 ab", "takes"),  # nothing in scratch
        (NEGATIVE + SAVE_SI + "4a8d3c17 ab", "takes"),  # the other's place
        (FLAT_DI + "67ab" + BACK_DI, "32 bits"),
        (FLAT_DI + "48ab" + BACK_DI, "64 bits"),
        (FLAT_DI + "ab", "32-bit value"),  # RDI is not taken back
        (FLAT_DI + "ab ab" + BACK_DI, "host addresses"),  # once more, unchecked
        (CHECKED_DI + "ab 418907" + BACK_DI + RESTORE, "32-bit value"),
        (FLAT_DI + "418b041a", "32-bit value"),  # an access that may fault
        (CHECKED_DI + "ab" + BACK_DI, "r11 is not 63"),
        (CHECKED_DI + "f3ab" + BACK_DI, "r11 is not 63"),
        (CHECKED_DI.replace(LIMIT, READ_LIMIT) + "ab" + BACK_DI + RESTORE, "not checked"),
        (CHECKED_DI.replace(SUM, "4f8d440801") + "ab" + BACK_DI + RESTORE, "2 bytes were checked"),
        (FLAT_DI + "ab 428d3c17", "host address"),  # lea edi, [rdi + r10]
        (FLAT_DI + "ab 4c8b0c25" + at("scratch") + "428d3c0f", "host address"),
        (FLAT_DI + "4c89d6 f2ae" + BACK_DI, "32-bit value"),
    ],
)
def test_strings_that_are_not_prepared_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))
