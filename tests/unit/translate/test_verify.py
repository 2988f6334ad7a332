"""The verifier: translations that it accepts, that it must refuse, and that it once refused."""

import pytest

from ringlet.translate.translator import (
    BLOCK,
    JUMP_TABLE,
    KEYS,
    SLOTS,
    SOURCE,
    Relocation,
    Stub,
    Translation,
    Translator,
)
from ringlet.translate.verify import Verifier, verify

RING_0 = KEYS["mode64"]
RING_3 = KEYS["mode64"] | 3
TRANSLATOR = Translator()
PROBE = "3e440fb60424"  # movzx r8d, byte ptr ds:[rsp]


def translate(
    code: str, key: int = RING_0, indirect: bool = False, checked: bool = False
) -> Translation:
    return TRANSLATOR.translate(
        bytes.fromhex(code), linear=0x401000, key=key, indirect=indirect, checked=checked
    )


def changed(translation: Translation, old: str, new: str) -> Translation:
    """Return `translation` with the only occurrence of `old` replaced by as many bytes."""
    assert translation.code.count(bytes.fromhex(old)) == 1
    assert len(old) == len(new)
    code = translation.code.replace(bytes.fromhex(old), bytes.fromhex(new))
    return translation._replace(code=code)


def reasons(translation: Translation) -> list[str]:
    return [violation.reason for violation in verify(translation)]


@pytest.mark.parametrize("key", [RING_0, RING_3, RING_0 | KEYS["step"]])
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(
    "code",
    [
        "8b07 8907 c3",  # mov eax, [rdi]; mov [rdi], eax
        "488b07 458b4c8f08 4889442410 c3",  # mov rax, [rdi]; mov r9d, [r15 + rcx*4 + 8]; a stack
        "4883ec40 8b27 488b20 488b442408 c3",  # sub rsp, 64; mov esp, [rdi]; mov rsp, [rax]; ...
        "654c8b1425f8ffffff 6764890433 c3",  # mov r10, gs:[-8]; mov fs:[ebx + esi], eax
        "a00011223344556677 64a30011223344556677 c3",  # mov al, [m]; mov fs:[m], eax
        "c6400f12 48c705000100007f0000c0 0fb620 c3",  # stores of immediates; movzx esp, [rax]
        "480fbf2411 48631c8a 8a27 8827 c3",  # movsx rsp, word [rcx + rdx]; movsxd; AH
        "488b3f 4885ff 75f8 31c0 c3",  # a chain of pointers
    ],
)
def test_accesses_to_devices_are_sound(code: str, key: int, checked: bool) -> None:
    translation = TRANSLATOR.translate(
        bytes.fromhex(code), linear=0x401000, key=key, checked=checked, devices=True
    )

    assert reasons(translation) == []
    assert bool(translation.operations) is not bool(key & KEYS["step"])


@pytest.mark.parametrize("key", [RING_0, RING_3])
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(
    "code",
    [
        "0fb1d1 488b04cb c3",  # cmpxchg ecx, edx; mov rax, [rbx + rcx*8]: RCX may keep its top
        "0fbcc8 488b04cb c3",  # bsf ecx, eax; the same
        "0fbdc8 488b04cb c3",  # bsr ecx, eax
        "0f22d8",  # mov cr3, rax: nothing followed that could be resumed
        "0f01e8",  # serialize
        "488b07 4589c9 c3",  # mov r9d, r9d: the scratch register held an addend
        "488b07 4d89db c3",  # mov r11, r11
        "0fb6e4 c3",  # movzx esp, ah: beside REX, AH is SPL
        "488944cf08 31c0 c3",  # mov [rdi + rcx*8 + 8], rax: RORX of r9
        "8827 31c0 c3",  # mov [rdi], ah
        "022f 8a6f01 31c0 c3",  # add ch, [rdi]
        "88 20 8a20 31c0",  # mov [rax], ah; mov ah, [rax]
        "c4e219901cf4 c3",  # vpgatherdd xmm3, [rsp + xmm6*8], xmm12
        # 1: mov rax, [rbx + rcx*8]; add ecx, 20000h; sub rbx, 100000h; vpgatherdd xmm3,
        # [rbx + xmm6*8], xmm12; dec edx; jne 1b: RBX may be 34 GiB away from its slot
        "488b04cb 81c100000200 4881eb00001000 c4e219901cf3 ffca 75e5 c3",
        # A loop at whose head guest r8 and r10 are equal, and r10 has a copy.
        (
            "4d8bf6410f95422549bb76cce40c00000000410f9ac34d8b4a084d8b024d8b1249f7db458bf74183e605"
            "458bf64d8d42014981e80100000048ffc80f85bfffffff"
        ),
    ],
)
def test_translation_is_sound(code: str, key: int, indirect: bool, checked: bool) -> None:
    assert reasons(translate(code, key, indirect, checked)) == []


def test_mov_of_a_spilled_register_to_itself_loads_it() -> None:
    translation = translate("4589c9")  # mov r9d, r9d

    assert translation.code.startswith(b"\x4c\x8b\x04\x25")  # mov r8, [state.r9]
    assert translation.relocations[0] == (4, Relocation.STATE, 9 * 8)


def test_hidden_hint_has_no_code() -> None:
    translation = translate("f3480f1ec8 c3")  # rdsspq rax; ret

    assert translation.operations == ()
    assert translation.map[1:3] == ((0, 0), (0, 5))


# mov rax, [rdi]: rorx r10, rdi, 36; movzx r10d, r10w; mov r10, [r10*8 + slots];
# mov rax, [rdi + r10]
LOOKUP = translate("488b07 11c0")
# The same for RSI in r11; then mov rcx, [rdi + 8]; mov rdx, [rsi + 8]
WINDOWS = translate("488b07 488b1e 488b4f08 488b5608")
# 1: mov rdi, [rdi]; test rdi, rdi; jne 1b: the load is movzx r10d, word [predicted];
# rorx r8, rdi, 36; cmp r8w, r10w; jne miss; mov r10, [r10*8 + slots]; mov rdi, [rdi + r10]
# miss: movzx r10d, r8w, counting; mov [predicted], r8w; jmp back
PREDICTED = translate("488b3f 4885ff 75f8 31c0 c3")
# 1: mov rax, [r8]; add r8, 8; dec ecx; jne 1b: r10 has a copy of guest r8, r11 the addend; the
# later passes are mov rax, [r10 + r11]; add r10, 8; mov [state.r8], r10; dec ecx; jne to the first
HELD = translate("498b00 4983c008 ffc9 75f5 c3")
RSP_BOUND = translate("4889c4")  # mov rsp, rax
STRING = translate("a4")
RETURN = translate("c3")
# mov r8, [state.kernel_gs_base]; mov r9, [state.gs_base]; both stored; rorx r9, r8, 36;
# movzx r9d, r9w; mov r9, [r9*8 + slots]; lea r8, [r8 + r9]; mov [state.gs_host], r8
SWAPGS = translate("0f01f8")


@pytest.mark.parametrize(
    ("translation", "old", "new", "reason"),
    [
        (LOOKUP, "4a8b0417", "488b0790", "not a value and one addend"),
        (LOOKUP, "4a8b0417", "4a8b0416", "another address's"),  # [rsi + r10]
        (LOOKUP, "4a8b0417", "4a8b041f", "another address's"),  # [rdi + r11]
        (LOOKUP, "4a8b0417", "4a8b0457", "not a value and one addend"),  # [rdi + r10*2]
        (LOOKUP, "4a8b0417", "664a8b07", "not a value and one addend"),
        (LOOKUP, "c463fbf0d724", "c463fbf0d723", "bits 51..36"),
        (LOOKUP, "c463fbf0d724", "c463fbf0d624", "another address's"),  # rorx r10, rsi
        (LOOKUP, "450fb7d2", "4589d290", "bits 51..36"),  # no MOVZX
        (LOOKUP, "4e8b14d5", "4e8b1cd5", "not a value and one addend"),  # r11 loaded
        (WINDOWS, "4a8b4c1708", "4a8b4c1f08", "another address's"),  # [rdi + r11 + 8]
        (WINDOWS, "4e8b1cdd", "4e8b14dd", "not a value and one addend"),  # r10 loaded
        (HELD, "4c89142540000040 ffc90f85e8", "4c891c2540000040 ffc90f85e8", "host address"),
        (HELD, "4c89142540000040 ffc90f85e8", "0f1f840000000000 ffc90f85e8", "not a value and one"),
        (PREDICTED, "664539d0", "664539d2", "bits 51..36"),  # cmp r10w, r10w
        (PREDICTED, "664539d0", "904539d0", "bits 51..36"),  # 32 bits
        (PREDICTED, "664539d0 0f85", "664539d0 0f84", "bits 51..36"),  # je
        (PREDICTED, "c463fbf0c724", "c463fbf0c624", "another address's"),  # rorx r8, rsi
        (PREDICTED, "450fb7d0", "450fb7d2", "bits 51..36"),  # the missed slot is used
        (PREDICTED, "66448904", "6644891c", "host address"),  # mov [predicted], r11w
        (PREDICTED, "66448904", "904c8904", "a field of the state"),  # 64 bits
        (RSP_BOUND, "4a8d2404", "4a8d2444", "its addend"),
        (STRING, "a4", "6c", "sensitive"),  # insb
        (STRING, "a4", "f4", "sensitive"),  # hlt
        (RETURN, "450fb7c8", "440fb7c8", "another index"),  # movzx r9d, ax
        (RETURN, "4158", "415a", "host address"),  # pop r10: r8 is of another instruction
        (RETURN, "4158", "5890", "host address"),  # pop rax
        (SWAPGS, "c443fbf0c824", "c463fbf0c824", "not GS's base"),  # rorx r9, rax
        (SWAPGS, "4f8d0408", "4d89c890", "not GS's base"),  # mov r8, r9
        (SWAPGS, "4c890425d0030040", "0f1f840000000000", "no host address of it, at an exit"),
    ],
)
def test_verifier_refuses_changed_code(
    translation: Translation, old: str, new: str, reason: str
) -> None:
    (found,) = reasons(changed(translation, old, new))

    assert reason in found


def test_verifier_refuses_the_other_privileges_table() -> None:
    user = SLOTS[1] + BLOCK
    kernel = SLOTS[0] + BLOCK
    code = LOOKUP.code.replace(kernel.to_bytes(4, "little"), user.to_bytes(4, "little"))
    relocations = tuple(
        (at, kind, SLOTS[1] if value == SLOTS[0] else value)
        for at, kind, value in LOOKUP.relocations
    )

    assert reasons(LOOKUP._replace(code=code, relocations=relocations)) == [
        "it reads a field of the state that it may not"
    ]


def test_verifier_refuses_a_constant_address_without_relocation() -> None:
    assert reasons(LOOKUP._replace(relocations=LOOKUP.relocations[1:])) == [
        "its constant address has no relocation"
    ]


def test_verifier_refuses_a_prediction_at_another_place() -> None:
    at = next(at for at, kind, _ in PREDICTED.relocations if kind == Relocation.PREDICTED)
    place = int.from_bytes(PREDICTED.code[at : at + 4], "little")
    code = PREDICTED.code[:at] + (place + 4).to_bytes(4, "little") + PREDICTED.code[at + 4 :]

    assert reasons(PREDICTED) == []
    assert reasons(PREDICTED._replace(code=code)) == ["its constant address has no relocation"]


def test_verifier_refuses_an_unbounded_index() -> None:
    # mov ecx, ecx; mov rax, [rdi + rcx]
    bounded = translate("89c9 488b040f 11c0")

    assert reasons(bounded) == []
    assert reasons(changed(bounded, "89c9", "6690")) == [
        "its addend is another address's, or an index is not bounded"
    ]


@pytest.mark.parametrize(
    ("code", "extend", "other"),
    [
        ("4863c9 488b04cf", "4863c9", "4889c9"),  # movsxd rcx, ecx; mov rax, [rdi + rcx*8]
        ("480fbec9 488b04cf", "480fbec9", "480fafc9"),  # movsx rcx, cl; imul rcx, rcx
        ("480fbfc9 488b04cf", "480fbfc9", "480fafc9"),  # movsx rcx, cx
        ("4898 8904c7", "4898", "6690"),  # cdqe; mov [rdi + rax*8], eax
        ("4863c9 488b04cd00000010", "4863c9", "4889c9"),  # [rcx*8 + 0x10000000]
        ("486349 08 488b04cf", "4a634c1108", "4a8b4c1108"),  # movsxd rcx, [rcx + 8]
    ],
)
def test_verifier_takes_a_sign_extended_index_for_bounded(
    code: str, extend: str, other: str
) -> None:
    bounded = translate(code)

    assert reasons(bounded) == []
    assert reasons(changed(bounded, extend, other)) == [
        "its addend is another address's, or an index is not bounded"
    ]


def test_verifier_refuses_an_entry_that_lets_any_target_in() -> None:
    near = translate("31c0", indirect=True)  # lea rcx, [r8 - 0x401000]
    far = TRANSLATOR.translate(  # mov rcx, -0x555555401000; lea rcx, [rcx + r8]
        bytes.fromhex("31c0"), linear=0x555555401000, key=RING_0, indirect=True
    )
    message = ["the entry lets any indirect target in"]

    assert reasons(near) == []
    assert reasons(changed(near, "498d8800f0bfff", "498d8801f0bfff")) == message
    assert reasons(far) == []
    assert reasons(changed(far, "48b900f0bfaaaaaaffff", "48b901f0bfaaaaaaffff")) == message


def test_verifier_wants_the_table_left_aside_where_code_steps() -> None:
    free, stepping = translate("c3"), translate("c3", RING_0 | KEYS["step"])

    assert reasons(stepping) == []
    assert reasons(free._replace(key=free.key | KEYS["step"])) == [
        "the table may lead to code that does not step"
    ]
    assert reasons(stepping._replace(key=RING_0)) == ["it leaves through a stub that is not for it"]


def test_verifier_refuses_rsp_far_from_every_access() -> None:
    far = translate("4881ec00001000 488b0424 c3")  # sub rsp, 1 MiB; mov rax, [rsp]

    assert reasons(far) == []
    assert reasons(changed(far, "488b0424", "90909090")) == []  # the return is an access
    assert reasons(
        changed(translate("4883ec08 eb00"), PROBE, "660f1f440000")  # no probe
    ) == ["RSP has moved away from every access at an exit"]


@pytest.mark.parametrize(
    "access",
    [
        "db1424",  # fist dword [rsp]: an unmasked exception stores nothing
        "dd1c24",  # fstp qword [rsp]
        "db3c24",  # fstp tbyte [rsp]
        "c4e2718e0424",  # vpmaskmovd [rsp], xmm1, xmm0
        "0f180424",  # prefetchnta [rsp]
    ],
)
def test_verifier_takes_no_access_that_may_be_missing_for_a_bound(access: str) -> None:
    walk = translate(f"4881ec00001000 {access} eb00")  # sub rsp, 1 MiB; access; jmp

    assert reasons(walk) == []
    assert reasons(changed(walk, PROBE, "660f1f440000")) == [
        "RSP has moved away from every access at an exit"
    ]


def test_verifier_knows_nothing_of_what_a_probe_loads() -> None:
    jump = translate("4883ec08 ffe0")  # sub rsp, 8; jmp rax: mov r8, rax behind the probe

    assert reasons(jump) == []
    assert reasons(changed(jump, "4989c0", "0f1f00")) == [
        "it computes with, or gives away, a host address"
    ]


def test_verifier_wants_the_addend_of_rsp_known_at_a_probe() -> None:
    # mov rsp, rax; sub rsp, 8; jmp: mov [rsp_naddend], r8
    bound = translate("4889c4 4883ec08 eb00")
    at = bound.code.index(bytes.fromhex("4c890425"))
    code = bound.code[:at] + bytes.fromhex("0f1f840000000000") + bound.code[at + 8 :]
    relocations = tuple(r for r in bound.relocations if r[0] != at + 4)

    assert reasons(bound._replace(code=code, relocations=relocations)) == [
        "RSP is not a value and the addend that the probe's fault asks for"
    ]


def test_verifier_refuses_a_string_address_that_keeps_its_addend() -> None:
    # lea rdi, [rdi + r8] after the string instruction
    last = STRING.code.rindex(b"\x4a\x8d\x3c\x07")
    code = STRING.code[:last] + b"\x0f\x1f\x40\x00" + STRING.code[last + 4 :]

    assert reasons(STRING._replace(code=code)) == ["register 7 holds a host address at an exit"]


def test_violation_names_the_guests_instruction() -> None:
    translation = changed(translate("90 90 488b07 11c0"), "4a8b0417", "488b0790")

    violation = verify(translation)[0]

    assert (violation.guest, violation.text) == (2, "mov rax,[rdi]")


def test_a_verifier_serves_many_translations() -> None:
    verifier = Verifier()

    found = [verifier.check(t) for t in (LOOKUP, WINDOWS, changed(LOOKUP, "4a8b0417", "4a8b0416"))]

    assert [len(violations) for violations in found] == [0, 0, 1]


LOOP = "488b07 4883c708 ffc9 75f5 c3"  # 1: mov rax, [rdi]; add rdi, 8; dec ecx; jne 1b; ret


@pytest.mark.parametrize(
    "code",
    [
        LOOP,
        "488b04cf 48ffc1 4839d1 75f4 c3",  # mov rax, [rdi + rcx*8]; inc rcx; cmp rcx, rdx; jne
        "8a0417 880416 48ffc2 4839d1 75f2 c3",
        "498b01 4983e904 49ffca 75f4 c3",  # spilled registers
        "488b07 4883c708 4839f9 77f4 6690 c3",  # a NOP, which has no code, behind the branch back
        "488b07 4883c708 50 4839f9 77f3 c3",  # RSP moves in each pass
        "488b07 0fbccf 4839f9 77f5 488b040f c3",  # bsf ecx, edi
        "c4e27d8c07 4883c720 4839f9 77f2 c3",  # a masked load may be no access
        "488b07 89c9 8b0c8f 4839f9 77f3 c3",  # a bounded index
    ],
)
def test_loop_is_sound(code: str) -> None:
    assert reasons(translate(code)) == []


def loop_changed(old: str, new: str) -> list[str]:
    """Return why the loop is refused with other code in its later passes."""
    translation = translate(LOOP)
    head = translation.code.rindex(bytes.fromhex("4a8b0417"))  # mov rax, [rdi + r10]
    code = translation.code[:head] + translation.code[head:].replace(
        bytes.fromhex(old), bytes.fromhex(new)
    )
    assert code != translation.code
    return reasons(translation._replace(code=code))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4883c708", "480fafff"),  # imul rdi, rdi
        ("4a8b0417", "4a8b0416"),  # by RSI, which was never looked up
        ("4a8b0417", "4a8b041f"),  # by r11, which was never loaded
    ],
)
def test_verifier_refuses_a_loop_that_may_leave_its_window(old: str, new: str) -> None:
    assert loop_changed(old, new) != []


CHECKED = translate("488b07 4883c708 90", checked=True)
# 11 bytes: the pieces compared are 8 bytes at 0 and at 3.
TWO_CHECKS = translate("488b07 4883c708 ffc9 75f5", checked=True)


@pytest.mark.parametrize("length", range(1, 24))
def test_checked_translation_reads_all_its_bytes_first(length: int) -> None:
    translation = translate("90" * (length - 1) + "f8", checked=True)  # nop; clc
    at = [value for _, kind, value in translation.relocations if kind == Relocation.SOURCE]

    assert translation.guest_bytes == length
    assert at[0] == 0
    assert at[-1] < length
    assert reasons(translation) == []
    assert reasons(translation._replace(checked=False)) != []


def source_moved(by: int) -> Translation:
    """Return `TWO_CHECKS` with its first read of guest bytes moved, including the relocation."""
    old, new = ((SOURCE + n).to_bytes(8, "little") for n in (0, by))
    code = TWO_CHECKS.code.replace(old, new)
    first = next(r for r in TWO_CHECKS.relocations if r[1] == Relocation.SOURCE)
    moved = tuple((*r[:2], by) if r == first else r for r in TWO_CHECKS.relocations)
    return TWO_CHECKS._replace(code=code, relocations=moved)


@pytest.mark.parametrize("by", [-1, 4, 0x1000])
def test_verifier_refuses_a_check_of_other_bytes(by: int) -> None:
    assert reasons(TWO_CHECKS) == []
    assert reasons(source_moved(by)) == ["it does not only read the bytes that it is made of"]
    assert reasons(source_moved(3)) == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("4d8b00 48b9", "498908 48b9", "does not only read"),  # mov [r8], rcx
        ("4d8b00 48b9", "4d8b03 48b9", "another address's"),  # mov r8, [r11]
        ("4d8b00 48b9", "4c89c0 48b9", "register 0 holds a host address"),  # mov rax, r8
        ("4c89c9 c70425", "4c89d9 c70425", "register 1 holds a host address"),  # mov rcx, r11
    ],
)
def test_verifier_refuses_a_changed_check(old: str, new: str, reason: str) -> None:
    found = reasons(changed(CHECKED, old, new))

    assert reason in found[0]


def relocated(translation: Translation, old: tuple[int, int], new: tuple[int, int]) -> Translation:
    """Return `translation` with other kinds and values of relocations."""
    return translation._replace(
        relocations=tuple(
            (at, *(new if (kind, value) == old else (kind, value)))
            for at, kind, value in translation.relocations
        )
    )


STALE = (Relocation.STUB, Stub.STALE)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (STALE, (Relocation.STUB, Stub.OP), "does not leave"),
        (STALE, (Relocation.STUB, Stub.INDIRECT), "does not leave"),
        ((Relocation.FRAGMENT, 0), (Relocation.OP, 0), "number has no relocation"),
        ((Relocation.SOURCE, 0), (Relocation.RIP64, 0), "not a value and one addend"),
    ],
)
def test_verifier_refuses_a_stale_exit_of_another_kind(
    old: tuple[int, int], new: tuple[int, int], reason: str
) -> None:
    (found,) = reasons(relocated(CHECKED, old, new))

    assert reason in found


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ((Relocation.STATE, JUMP_TABLE), "jumps through no table of targets"),
        ((Relocation.TABLE, 8), "constant address has no relocation"),
    ],
)
def test_verifier_refuses_a_jump_through_a_table_that_is_not_the_keys(
    new: tuple[int, int], reason: str
) -> None:
    (found,) = reasons(relocated(translate("c3"), (Relocation.TABLE, 0), new))

    assert reason in found


def test_checked_translation_ends_at_its_first_store() -> None:
    code = "ffc0 8907 ffc0 c3"  # inc eax; mov [rdi], eax; inc eax; ret

    assert translate(code).guest_instructions == 4
    assert translate(code, checked=True).guest_instructions == 2
