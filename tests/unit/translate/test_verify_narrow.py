"""The verifier of 16- and 32-bit code: translations that it accepts, and those it must refuse.

Most are host code written for the test, as the code of one guest instruction.
"""

from __future__ import annotations

import pytest
from iced_x86 import Decoder

from ringlet.core import state
from ringlet.translate.translator import (
    BLOCK,
    JUMP_TABLE,
    KEYS,
    SOURCE,
    Relocation,
    Stub,
    Translation,
)
from ringlet.translate.translator import Translator as _Translator
from ringlet.translate.verify import verify_narrow

FLAT = KEYS["mode32"]
SEGMENTED = FLAT | KEYS["segmented"]
BASED = FLAT | KEYS["cs64k"] | KEYS["cs_odd"]
FIELDS = state.offsets()
TRANSLATOR = _Translator()


def translate(
    code: str, key: int = FLAT, indirect: bool = False, checked: bool = False
) -> Translation:
    return TRANSLATOR.translate(
        bytes.fromhex(code) + b"\xf4", key=key, indirect=indirect, checked=checked
    )


def reasons(translation: Translation) -> list[str]:
    return [violation.reason for violation in verify_narrow(translation)]


def changed(translation: Translation, old: str, new: str) -> Translation:
    """Return `translation` with the only occurrence of `old` replaced by as many bytes."""
    assert translation.code.count(bytes.fromhex(old)) == 1
    assert len(bytes.fromhex(old)) == len(bytes.fromhex(new))
    code = translation.code.replace(bytes.fromhex(old), bytes.fromhex(new))
    return translation._replace(code=code)


def at(name: str, number: int = 0) -> str:
    """Return the address of a field of the state as bytes of code."""
    return (BLOCK + FIELDS[name] + 8 * number).to_bytes(4, "little").hex()


def host(
    code: str, key: int = FLAT, more: tuple[tuple[int, int, int], ...] = (), ends: bool = False
) -> Translation:
    """Return a translation whose body is `code` and, unless it `ends`, a link.

    Constant addresses have relocations; `more` are the others.
    """
    body = bytes.fromhex(code)
    links = () if ends else ((len(body) + 1, 0x100001),)
    whole = body if ends else body + bytes.fromhex("e900000000")
    relocations = list(more)
    decoder = Decoder(64, body)
    for i in decoder:
        where = decoder.get_constant_offsets(i)
        if where.displacement_size == 4 and not i.memory_base and not i.memory_index:
            offset = i.memory_displacement - BLOCK
            relocations.append((i.ip32 + where.displacement_offset, Relocation.STATE, offset))
    return translate("90", key)._replace(
        code=whole, map=((0, 0), (0, 0)), links=links, relocations=tuple(relocations),
        operations=((0, 1),), cold=len(whole), body=0, resumes=(), guest_bytes=1,
    )  # fmt: skip


LIMIT = "4c8b0425" + at("segment_write", 3)  # mov r8, [segment_write of DS]
READ_LIMIT = "4c8b0425" + at("segment_read", 3)
SUM = "4f8d440803"  # lea r8, [r8 + r9 + 3]
SHIFTS = "c442a3f7c0 c442a1f7c0"  # shrx r8, r8, r11; shlx r8, r8, r11
ADD = "4f8d0c01"  # lea r9, [r9 + r8]
BASE = "4c8b0425" + at("segment_at", 3)
OFFSET = "4189d9"  # mov r9d, ebx
CHECK = OFFSET + LIMIT + SUM + SHIFTS + ADD + BASE  # 4 bytes of DS at EBX, for writes
READ_CHECK = OFFSET + READ_LIMIT + SUM + SHIFTS + ADD + BASE
TO_RDI = "4989f9" + "4b8d3c08" + "4989f9"  # mov r9, rdi; (lea rdi, [r8 + r9]; mov r9, rdi)
NEGATIVE = "4d89d1 49f7d1 4d8d4901"  # r9 := -r10
SAVE_SI = "4c890c25" + at("scratch")
SAVE_DI = "4c890c25" + at("scratch", 1)
FLAT_DI = NEGATIVE + SAVE_DI + "4a8d3c17"  # lea rdi, [rdi + r10]
BACK_DI = "4c8b0c25" + at("scratch", 1) + "428d3c0f"  # lea edi, [rdi + r9]
# The host address of 4 bytes of DS at EDI in RDI, and what takes it back in `scratch`.
CHECKED_DI = (
    "4189f9" + LIMIT + SUM + SHIFTS + ADD + BASE + "4989fb 4b8d3c08 4989f9 49f7d1 4f8d4c1901"
    + SAVE_DI
)  # fmt: skip
RESTORE = "41bb3f000000"  # mov r11d, 63
OPERATION = "48c70425" + at("op_info") + "00000000"
JUMP = "450fb7c8 42ff24cd" + (BLOCK + JUMP_TABLE).to_bytes(4, "little").hex()
TABLE = Relocation.TABLE
STUB = Relocation.STUB


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
     "e304", "7510", "e810000000", "8d4c8302", "648b4304", "d7", "c9", "0fc703", "dd33", "0fb10b"],
)  # fmt: skip
def test_what_the_translator_makes_is_sound(
    code: str, key: int, stepping: int, checked: bool, indirect: bool
) -> None:
    assert reasons(translate(code, key | stepping, indirect, checked)) == []


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
        ("65418b041a", "segment override"),
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


def test_registers_bring_nothing_to_the_next_guest_instruction() -> None:
    code = host("4189d9 438b040a")  # mov r9d, ebx; mov eax, [r10 + r9]
    split = code._replace(map=((0, 0), (0, 0), (3, 1)))

    assert reasons(code) == []
    assert reasons(split) == ["its address is not in the window"]


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
        (CHECKED_DI + "f3ab" + BACK_DI + RESTORE, "repeated"),
        (CHECKED_DI.replace(LIMIT, READ_LIMIT) + "ab" + BACK_DI + RESTORE, "not checked"),
        (CHECKED_DI.replace(SUM, "4f8d440801") + "ab" + BACK_DI + RESTORE, "2 bytes were checked"),
        (FLAT_DI + "ab 428d3c17", "host address"),  # lea edi, [rdi + r10]
        (FLAT_DI + "ab 4c8b0c25" + at("scratch") + "428d3c0f", "host address"),
        (FLAT_DI + "4c89d6 f2ae" + BACK_DI, "32-bit value"),
    ],
)
def test_strings_that_are_not_prepared_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("50", "stack"),
        ("58", "stack"),
        ("9c", "stack"),
        ("c3", "stack"),
        ("c9", "stack"),
        ("c8000000", "stack"),
        ("e800000000", "stack"),
        ("cd80", "sensitive"),
        ("cc", "sensitive"),
        ("0f05", "sensitive"),
        ("f4", "sensitive"),
        ("0f31", "sensitive"),  # rdtsc
        ("0fa2", "sensitive"),
        ("f30faec0", "sensitive"),  # rdfsbase eax
        ("0f01f8", "sensitive"),  # swapgs
        ("8ed8", "sensitive"),  # mov ds, eax
        ("fa", "sensitive"),
        ("e460", "sensitive"),
        ("430fae0408", "sensitive"),  # fxsave
        ("420fae2408", "sensitive"),  # xsave
    ],
)
def test_sensitive_instructions_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))


def test_bytes_that_are_no_instruction_are_refused() -> None:
    assert reasons(host("06")) == ["it cannot be decoded"]  # push es in 32-bit code


@pytest.mark.parametrize(
    "code",
    [
        "4c8b0425" + at("op_info"),  # mov r8, [op_info]
        "4c8b0425" + at("tsc_offset"),
        "8b0425" + at("segment_at", 3),  # mov eax, [segment_at]
        "8b0425" + at("exit_arg"),
        "4c890425" + at("segment_at", 3),  # mov [segment_at], r8
        "48890425" + at("segment_write", 3),
        "48890425" + at("fs_base"),
        "890425" + at("fs_base"),
        "830425" + at("scratch") + "01",
        "c70425" + at("exit_arg") + "00000000",  # no relocation of the fragment
        "48c70425" + at("scratch") + "00000000",
        "48c70425" + at("op_info") + "00000000",  # no relocation of an operation
    ],
)
def test_other_accesses_to_the_state_are_refused(code: str) -> None:
    found = reasons(host(code))

    assert any(word in found[0] for word in ("field", "no relocation", "constant"))


def test_constant_address_needs_its_own_relocation() -> None:
    right = host("48890425" + at("string_old"))
    bare = right._replace(relocations=())
    other = right._replace(relocations=((4, Relocation.STATE, FIELDS["fs_base"]),))

    assert reasons(right) == []
    assert reasons(bare) == reasons(other) == ["its constant address has no relocation"]


@pytest.mark.parametrize(
    ("code", "relocations"),
    [
        ("418b041a", ((0, Relocation.FIELD, 0),)),  # LEA and immediates alone
        ("418b841a00010000", ((4, Relocation.FIELD, 0),)),
        ("448d0418 01d8", ((2, Relocation.FIELD, 0),)),
        ("01d8", ((0, Relocation.STATE, 0),)),
        ("01d8 01d8", ((0, Relocation.RIP32, 0),)),
        ("0580000000", ((1, Relocation.STATE, 0),)),
        ("0580000000", ((1, Relocation.FIELD, 0), (1, Relocation.FIELD, 1))),
        ("49b80000000000000000", ((2, Relocation.RIP64, 0),)),
        (OFFSET + LIMIT + "4f8d840803000000", ((15, Relocation.FIELD, 0),)),  # LEA of a check
    ],
)
def test_relocations_are_where_an_instruction_expects_them(
    code: str, relocations: tuple[tuple[int, int, int], ...]
) -> None:
    assert "relocation" in " ".join(reasons(host(code, more=relocations)))


@pytest.mark.parametrize(
    ("code", "key", "relocations", "why"),
    [
        ("4189c0" + JUMP, FLAT, ((11, TABLE, 0),), ""),
        ("4189c0" + JUMP, FLAT, (), "no table"),
        ("4189c0" + JUMP, FLAT | KEYS["step"], ((11, TABLE, 0),), "does not step"),
        (JUMP, FLAT, ((8, TABLE, 0),), "host address"),  # r8 from before
        ("4189c0 4589c1" + JUMP[9:], FLAT, ((10, TABLE, 0),), "low 16 bits"),  # r9d := r8d
        ("4189c0 440fb7c8" + JUMP[9:], FLAT, ((11, TABLE, 0),), "low 16 bits"),  # movzx r9d, ax
        ("4189c0 450fb7c8 4189d8" + JUMP[9:], FLAT, ((14, TABLE, 0),), "low 16 bits"),
        ("4189c0" + JUMP, BASED, ((11, TABLE, 0),), "low 16 bits"),  # no linear address
        ("41bb00000000 4189c0" + JUMP, FLAT, ((17, TABLE, 0),), "r11 is not 63"),
        ("ffe0", FLAT, (), "no table"),
        ("41ff221f", FLAT, (), "no table"),
        ("e900000000", FLAT, ((1, STUB, Stub.INDIRECT),), "not for it"),
        ("4189c0 e900000000", FLAT, ((4, STUB, Stub.INDIRECT),), ""),
        ("4189c0 e900000000", FLAT, ((4, STUB, Stub.LINK),), "not for it"),
        ("4189c0 e900000000", FLAT, ((4, STUB, Stub.LEAVE),), "not for it"),
        ("4189c0 e900000000", FLAT, ((4, STUB, Stub.STALE),), "not for it"),
        ("4189c0 e901000000 90", FLAT, ((4, STUB, Stub.INDIRECT),), "leads out"),
        ("e900000000", FLAT, ((1, STUB, Stub.OP),), "not for it"),
        (OPERATION + "e900000000", FLAT, ((8, Relocation.OP, 0), (13, STUB, Stub.OP)), ""),
        (OPERATION + "e900000000", FLAT, ((8, Relocation.OP, 1), (13, STUB, Stub.OP)), "for it"),
        ("e900000000", FLAT, (), "later instruction"),
        ("ebfe", FLAT, (), "later instruction"),
        ("01d8 ebfc", FLAT, (), "later instruction"),  # back
        ("7401 05 00000000 ebf7", FLAT, (), "later instruction"),
        ("66e900000000", FLAT, (), "prefix"),
        ("66eb00 90", FLAT, (), "prefix"),
        ("3e7400 90", FLAT, (), "prefix"),
        ("660f8400000000 90", FLAT, (), "prefix"),
        ("67e300 90", FLAT, (), "by itself"),
        ("01d8", FLAT, (), "runs on"),  # nothing leaves
        ("eb00", FLAT, (), "later instruction"),
    ],
)
def test_control_leaves_by_links_stubs_and_the_table(
    code: str, key: int, relocations: tuple[tuple[int, int, int], ...], why: str
) -> None:
    found = reasons(host(code, key, relocations, ends=True))

    assert bool(found) is bool(why)
    assert why in " ".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "7401 0500000000",  # je into ADD
        "e301 0500000000",
    ],
)
def test_branch_into_an_instruction_is_refused(code: str) -> None:
    assert "into an instruction" in reasons(host(code))[0]


def test_link_belongs_to_a_branch_and_leads_nowhere() -> None:
    right = host("0f8400000000")._replace(links=((2, 0x100010), (7, 0x100001)))
    other = right._replace(links=((0, 0x100010), (7, 0x100001)))
    led = changed(right, "0f8400000000", "0f8405000000")

    assert reasons(right) == []
    assert reasons(other) == ["a link belongs to no branch"]
    assert reasons(led) == ["a link or stub leads out of its translation"]


def test_operation_resumes_where_code_is() -> None:
    right = translate("0f01d0")  # xgetbv
    behind = right._replace(resumes=(*right.resumes, len(right.code)))
    inside = right._replace(resumes=(*right.resumes, right.resumes[0] + 1))

    assert right.resumes
    assert reasons(right) == []
    assert "runs on" in reasons(behind)[0]
    assert "runs on" in reasons(inside)[0]


@pytest.mark.parametrize("key", [FLAT, BASED])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("e3084c89c9", "e30b4c89c9"),  # past MOV RCX, R9
        ("e3084c89c9", "eb084c89c9"),  # whatever r8 is
        ("4989c9", "4989c1"),
    ],
)
def test_changed_entry_for_indirect_jumps_is_refused(key: int, old: str, new: str) -> None:
    right = translate("90", key, indirect=True)

    assert reasons(right) == []
    assert reasons(changed(right, old, new)) == ["the entry lets any indirect target in"]


def test_entry_for_another_address_is_refused() -> None:
    right = translate("90", indirect=True)
    other = right._replace(linear=right.linear + 16)

    assert reasons(other) == ["the entry lets any indirect target in"]


def test_checked_translation_reads_no_more_than_its_bytes() -> None:
    right = translate("01d8", checked=True)
    shorter = right._replace(guest_bytes=1)
    unchecked = right._replace(checked=False)
    relocation = next(r for r in right.relocations if r[1] == Relocation.SOURCE)
    moved = right._replace(
        relocations=tuple((a, k, 64 if (a, k) == relocation[:2] else v)
                          for a, k, v in right.relocations)
    )  # fmt: skip

    assert reasons(right) == []
    assert reasons(shorter) == reasons(unchecked) == ["it does not read the guest's bytes"]
    assert reasons(moved) == ["a constant has a relocation that is not for it"]


def test_relocation_of_r11s_constant_is_refused() -> None:
    right = host(RESTORE)
    other = host(RESTORE, more=((2, Relocation.FIELD, 0),))

    assert reasons(right) == []
    assert reasons(other) == ["r11 is not 63"]


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ("4d8b00", ""),  # mov r8, [r8]
        ("450fb600", ""),
        ("674d8b00", "64-bit access"),  # mov r8, [r8d]
        ("67450fb600", "32 bits"),
        ("4d8b4001", "bytes"),  # mov r8, [r8 + 1]
        ("418800", "bytes"),  # mov [r8], al
        ("410fa300", "bytes"),  # bt [r8], eax
        ("410f1000", "bytes"),  # movups xmm0, [r8]
        ("4d8d4001 450fb600", "not in the window"),  # lea r8, [r8 + 1]
        ("418b0418", "not in the window"),  # mov eax, [r8 + rbx]
        ("4489c0", "host address"),  # mov eax, r8d
    ],
)
def test_guest_bytes_are_only_compared(load: str, why: str) -> None:
    constant = "49b8" + SOURCE.to_bytes(8, "little").hex()
    translation = host(constant + load, more=((2, Relocation.SOURCE, 0),))
    found = reasons(translation._replace(checked=True, guest_bytes=8))

    assert bool(found) is bool(why)
    assert why in " ".join(found)


def test_stale_exit_names_its_fragment() -> None:
    right = translate("01d8", checked=True)
    named = next(r for r in right.relocations if r[1] == Relocation.FRAGMENT)
    rest = tuple(r for r in right.relocations if r != named)

    assert reasons(right._replace(relocations=rest)) == ["a fragment's number has no relocation"]
