"""The verifier of 16- and 32-bit code: segments of 64 KiB, and the loads of real mode."""

from __future__ import annotations

import pytest
from tests.unit.translate.narrow_code import FIELDS, at, host, reasons, translate

from ringlet.translate.translator import BLOCK, KEYS

DATA64K = KEYS["mode16"] | KEYS["segmented"] | KEYS["stack16"] | KEYS["data64k"]
PARAGRAPHS = DATA64K | KEYS["paragraphs"]
ES, CS, SS, DS = range(4)
SHORT = "440fb7cb"  # movzx r9d, bx
SPAN = "458d4903"  # lea r9d, [r9 + 3]
PLACE = "c462b3f50c25" + at("deposit")  # pdep r9, r9, [deposit]
SEGMENT = "4c8b0425" + at("paragraph_at", DS)  # mov r8, [paragraph_at]
CHECK = SHORT + SPAN + PLACE + SEGMENT
LAST = "448d4b01"  # lea r9d, [rbx + 1]: the offset of a word's last byte
CUT = "450fb7c9"  # movzx r9d, r9w
FIRST = "458d49ff"  # lea r9d, [r9 - 1]
SUM = LAST + CUT + FIRST + SEGMENT
WINDOW = "4d8d0402"  # lea r8, [r10 + rax]


def field(name: str, segment: int) -> str:
    """Return the address of a field of a segment register as bytes of code."""
    size = FIELDS["gs_base"] - FIELDS["fs_base"]
    first = FIELDS["selectors"] if name == "selector" else FIELDS["fs_base"] - 4 * size
    return (BLOCK + first + segment * size).to_bytes(4, "little").hex()


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("key", [DATA64K, PARAGRAPHS, PARAGRAPHS | 3, PARAGRAPHS | KEYS["step"]])
@pytest.mark.parametrize(
    "code",
    ["8b07", "8907", "8807", "668b4601", "2e8b07", "2e8907", "678b03", "a11234", "67a112345678",
     "50", "6658", "c9", "c3", "e81000", "ff17", "ffd0", "2eff27", "a5", "f3a4", "f266af", "67a4",
     "d7", "60", "61", "6660", "6661", "8ed8", "8ed0", "8e07", "1f", "17", "0fa1", "c407",
     "66c407", "0fb207", "0fb507", "8cd8",
     "0f100f", "8a27", "8f07", "ff37"],
)  # fmt: skip
def test_what_the_translator_makes_is_sound(code: str, key: int, indirect: bool) -> None:
    assert reasons(translate(code, key, indirect)) == []


@pytest.mark.parametrize(
    "code",
    [
        CHECK + "43894408fd",  # mov [r8 + r9 - 3], eax
        CHECK + "43884408fd",  # a byte of the 4
        SHORT + SEGMENT + "43880408",  # mov [r8 + r9], al
        CHECK + "4f8d4c08fd 458b01",  # lea r9, [r8 + r9 - 3]; mov r8d, [r9]
        CHECK + "4f8d4c08fd 450fb74102",  # movzx r8d, word [r9 + 2]
        CHECK + "66438b4408ff",  # mov ax, [r8 + r9 - 1]: its last two bytes
        SUM + "66438b0408",  # mov ax, [r8 + r9]
        SUM + "4f8d0c08 66418b01",  # lea r9, [r8 + r9]; mov ax, [r9]
        LAST + CUT + "458d49fd" + SEGMENT + "470fb75c0802 41bb3f000000",  # word [r8 + r9 + 2] of 4
        SEGMENT + "66418b80feff0000",  # mov ax, [r8 + FFFEh]
        SEGMENT + "4d8d88feff0000 66418b01",  # lea r9, [r8 + FFFEh]; mov ax, [r9]
        "66890425" + field("selector", DS),  # mov [selector], ax
        "48890425" + field("base", DS),  # mov [base], rax
        WINDOW + "4c890425" + at("paragraph_at", DS),
    ],
)
def test_sound_code_is_accepted(code: str) -> None:
    assert reasons(host(code, PARAGRAPHS)) == []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (SHORT + SEGMENT + "43890408", "4 are accessed"),
        (SHORT + SPAN + SEGMENT + "43894408fd", "no checked one"),  # without PDEP
        (CHECK + "43894408fc", "no checked one"),
        (CHECK + "43894408fe", "3 bytes were checked"),  # from its second byte on
        (CHECK + "43890408", "1 bytes were checked"),
        (CHECK + "43894448fd", "scaled"),
        (SUM + "438b0408", "2 bytes were checked"),
        (SUM + "66438b440801", "1 bytes were checked"),
        (SUM + "66438b440802", "no checked one"),
        (LAST + FIRST + SEGMENT + "66438b0408", "no checked one"),
        (LAST + CUT + "458d4cc9ff" + SEGMENT + "66438b0408", "no checked one"),  # r9 + 8 * rcx - 1
        (LAST + CUT + "458d49bf" + SEGMENT + "66438b0408", "no checked one"),  # of 66 bytes
        (SEGMENT + "66418b80ffff0000", "1 bytes were checked"),
        (SEGMENT + "66418b80ffffffff", "no checked one"),
        (SEGMENT + "4d8d88ffff0000 66418b01", "1 bytes were checked"),
        (SEGMENT + "418b0400", "no checked one"),  # [r8 + rax]
        (CHECK + "43 0fc74c08fd", "8 are accessed"),
        (CHECK + "430fa34408fd", "string of bits"),
        ("4189d9" + SPAN + PLACE + SEGMENT + "43894408fd", "PDEP"),  # mov r9d, ebx: 32 bits
        (SHORT + "458d4943" + PLACE, "PDEP"),  # more than any operand has
        (SHORT + "458d49fd" + PLACE, "PDEP"),
        (CHECK + "4f8d4c08fd 450fb74103", "not in the window"),  # [r9 + 3], of 2 bytes
        (SHORT + "4c8b0425" + at("paragraph_at", CS) + "43880408", "a write was not checked"),
        ("48890425" + field("base", SS), "may not"),
        ("66890425" + field("selector", SS), "may not"),
        ("4c891425" + at("paragraph_at", DS), "may not"),  # r10 itself
        (WINDOW + "4c890425" + at("paragraph_at", SS), "may not"),
        (WINDOW + "4c890425" + field("base", DS), "may not"),
        ("48890425" + at("paragraph_at", DS), "may not"),
    ],
)
def test_other_accesses_and_loads_are_refused(code: str, why: str) -> None:
    assert why in " ".join(reasons(host(code, PARAGRAPHS)))


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (SHORT + SEGMENT + "43880408", DATA64K & ~KEYS["data64k"]),
        ("48890425" + field("base", DS), DATA64K),
        ("66890425" + field("selector", DS), DATA64K),
        (WINDOW + "4c890425" + at("paragraph_at", DS), DATA64K),
    ],
)
def test_another_key_allows_none_of_it(code: str, key: int) -> None:
    assert "may not" in " ".join(reasons(host(code, key)))


@pytest.mark.parametrize(
    ("code", "leaves"),
    [("8ed8", 0), ("8ec1", 0), ("8ed0", 1), ("1f", 0), ("17", 1), ("c407", 0), ("66c407", 1),
     ("0fb207", 1), ("8e1f", 1), ("ff17", 0), ("a4", 0), ("67a4", 1), ("2e8a07", 0), ("2e8807", 1)],
)  # fmt: skip
def test_loads_of_real_mode_need_not_leave(code: str, leaves: int) -> None:
    ends = code == "ff17"

    assert len(translate(code, PARAGRAPHS).operations) == leaves + (not ends)
