"""The verifier of 16- and 32-bit code: what leaves it, the state block, relocations and entries."""

from __future__ import annotations

import pytest
from tests.unit.translate.narrow_code import (
    BASED,
    FIELDS,
    FLAT,
    JUMP,
    LIMIT,
    OFFSET,
    OPERATION,
    RESTORE,
    STUB,
    TABLE,
    at,
    changed,
    host,
    reasons,
    translate,
)

from ringlet.translate.translator import BLOCK, KEYS, SOURCE, Relocation, Stub


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


# mov qword [iflag], value
IFLAG = "48c70425" + at("iflag")


@pytest.mark.parametrize("code", ["0f31", IFLAG + "00000000", IFLAG + "00020000"])
def test_what_ring_0_may_do_in_place_is_refused_in_ring_3(code: str) -> None:
    assert reasons(host(code)) == []
    assert reasons(host(code, FLAT | 3))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (IFLAG + "00010000", "more than IF"),
        # movzx eax, word [selectors + 2]; mov eax, [selectors]
        ("0fb70425" + (BLOCK + FIELDS["selectors"] + 2).to_bytes(4, "little").hex(), "may not"),
        ("8b0425" + at("selectors"), "may not"),
        ("4d87d0", "exchanges"),  # xchg r8, r10
    ],
)
def test_fields_and_values_beside_those_of_operations_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code)))


def test_bytes_that_are_no_instruction_are_refused() -> None:
    assert reasons(host("06")) == ["it cannot be decoded"]  # push es in 32-bit code


@pytest.mark.parametrize(
    "code",
    [
        "4c8b0425" + at("op_info"),  # mov r8, [op_info]
        "4c8b0425" + at("kernel_gs_base"),
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
