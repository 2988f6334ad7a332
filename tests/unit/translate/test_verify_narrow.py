"""The verifier of 16- and 32-bit code: what the translator makes passes, what is changed does not."""

from __future__ import annotations

import random

import pytest
from tests.fuzz.decoding import random_string

from ringlet.translate.translator import KEYS, Translation, Translator
from ringlet.translate.verify.narrow import verify_narrow

MODE = KEYS["mode32"]
SEGMENTED = MODE | KEYS["segmented"]


def translated(code: str, key: int = MODE) -> Translation:
    return Translator().translate(bytes.fromhex(code) + b"\xf4", key=key)


def random_code(rng: random.Random) -> bytes:
    """Return a few instructions, most of which exist."""
    pieces = [random_string(rng)[: rng.randrange(2, 9)] for _ in range(6)]
    return b"".join(pieces) + rng.randbytes(40)


def test_whatever_the_guest_executes_is_sound() -> None:
    rng, translator = random.Random(5), Translator()
    for _ in range(1500):
        key = rng.choice((KEYS["mode16"], KEYS["mode32"])) | rng.choice((0, 3))
        for name in ("segmented", "stack16", "cs64k", "cs_odd"):
            key |= KEYS[name] if rng.random() < 0.4 else 0
        linear = rng.choice((0x1000, 0x100000, 0xFFFFF000))
        translation = translator.translate(
            random_code(rng), linear, key, indirect=rng.random() < 0.3
        )

        assert verify_narrow(translation) == []


@pytest.mark.parametrize(
    ("code", "key", "old", "new", "why"),
    [
        ("8b03", MODE, "418b041a", "408b041a", "no window"),  # r10 becomes rdx
        ("8b03", MODE, "418b041a", "418b045a", "scaled"),
        ("8b03", MODE, "418b041a", "498b041a", "64-bit"),
        ("8b8300000001", MODE, "448d8b00000001", "448d8b00000041", ""),  # LEA may have any
        ("8b03", SEGMENTED, "c442a3f7c0", "0f1f440000", "no window"),  # SHRX
        ("8903", SEGMENTED, "4f8d440803", "4f8d440802", "3 bytes were checked, 4"),
        ("01d8", MODE, "01d8", "50d8", "stack"),
        ("01d8", MODE, "01d8", "cd80", "sensitive"),
        ("29d8", MODE, "29d8", "4829d8", "64-bit result"),
    ],
)
def test_changed_code_is_found(code: str, key: int, old: str, new: str, why: str) -> None:
    right = translated(code, key)
    at = right.code.find(bytes.fromhex(old))
    assert at >= 0, right.code.hex()
    changed = bytearray(right.code)
    patch = bytes.fromhex(new)
    changed[at : at + len(patch)] = patch
    reasons = [v.reason for v in verify_narrow(right._replace(code=bytes(changed)))]

    assert verify_narrow(right) == []
    assert any(why in reason for reason in reasons) if why else reasons == []


def test_write_after_a_check_for_reads_is_found() -> None:
    """The load's check, with the store of another translation."""
    right = translated("8b03", SEGMENTED)
    at = right.code.find(bytes.fromhex("438b0408"))
    assert at >= 0, right.code.hex()
    changed = right.code[: at + 1] + b"\x89" + right.code[at + 2 :]

    assert [v.reason for v in verify_narrow(right._replace(code=changed))] == [
        "a write that was not checked"
    ]
