"""The verifier accepts all translations of real text and of random code."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iced_x86 import Code, Decoder
from tests.unit.translate.install import fragments, libc

from ringlet.bench.kernel import elf_text, kernel_text
from ringlet.images.debian import CLOUD_KERNEL, kernels_of
from ringlet.images.store import Store, default_root
from ringlet.translate.translator import KEYS, Translator
from ringlet.translate.verify import Verifier

RING_0 = KEYS["mode64"]
RING_3 = KEYS["mode64"] | 3
# Translating and checking a page takes some 40 ms.
LIBC_EVERY = 16
KERNEL_EVERY = 256
LINEARS = (0x401000, 0xFFFFFFFF81000000, 0xFFFF888012345000, 0x7FFFF7DD1000, 0)

TRANSLATORS = {True: Translator(), False: Translator(speculate=False)}
VERIFIER = Verifier()


@pytest.mark.parametrize("key", [RING_0, RING_3])
def test_translations_of_libc_are_sound(key: int) -> None:
    text, linear = elf_text(libc().read_bytes())
    made = fragments(TRANSLATORS[True], text, linear, key, LIBC_EVERY)

    found = [(hex(t.linear), v) for t in made for v in VERIFIER.check(t)]

    assert found == []


@pytest.mark.skipif(
    Store(default_root()).find(kernels_of(), CLOUD_KERNEL) is None,
    reason="no kernel fetched: ringlet bench translate",
)
def test_translations_of_a_kernel_are_sound() -> None:
    text, linear = kernel_text()
    made = fragments(TRANSLATORS[True], text, linear, RING_0, KERNEL_EVERY)

    found = [(hex(t.linear), v) for t in made for v in VERIFIER.check(t)]

    assert found == []


_PREFIXES = st.lists(
    st.sampled_from([0x66, 0x67, 0x64, 0x65, 0x3E, 0xF0, 0xF2, 0xF3]), max_size=2
).map(bytes)
_REX = st.one_of(st.just(b""), st.integers(0x40, 0x4F).map(lambda b: bytes([b])))
_BYTE = st.integers(0, 255).map(lambda b: bytes([b]))
_USUAL = st.sampled_from(
    [bytes([b]) for b in (0x01, 0x29, 0x31, 0x50, 0x58, 0x63, 0x81, 0x83, 0x87, 0x89, 0x8B, 0x8D)]
)
_OPCODE = st.one_of(
    _BYTE,
    _USUAL,
    _BYTE.map(b"\x0f".__add__),
    st.tuples(st.sampled_from([b"\x0f\x38", b"\x0f\x3a"]), _BYTE).map(b"".join),
    st.tuples(
        st.just(b"\xc4"),
        st.tuples(st.integers(0, 7), st.integers(1, 3)).map(lambda p: bytes([p[0] << 5 | p[1]])),
        _BYTE,
        _BYTE,
    ).map(b"".join),
)
_FIELD = st.sampled_from(
    [b"\0\0\0\0", b"\x08\0\0\0", b"\xf8\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
)
# VPGATHER with a base register: VEX.66.0F38 90-93, ModRM.rm = 4, any SIB.
_GATHER = st.tuples(
    st.just(b"\xc4"),
    st.integers(0, 7).map(lambda rxb: bytes([rxb << 5 | 2])),
    st.integers(0, 63).map(lambda wvl: bytes([wvl << 2 | 1])),
    st.integers(0x90, 0x93).map(lambda opcode: bytes([opcode])),
    st.sampled_from([bytes([mod << 6 | reg << 3 | 4]) for mod in range(3) for reg in range(8)]),
    _BYTE,
    _FIELD,
)
_ANY = st.tuples(_PREFIXES, _REX, _OPCODE, _BYTE, _BYTE, _FIELD, _FIELD, _FIELD)
_INSTRUCTION = (
    st.one_of(_ANY, _ANY, _ANY, _GATHER)
    .map(lambda parts: b"".join(parts)[:15])
    .map(lambda code: (Decoder(64, code).decode(), code))
    .filter(lambda made: made[0].code != Code.INVALID)
    .map(lambda made: made[1][: made[0].len])
)


@settings(max_examples=400)
@given(
    instructions=st.lists(_INSTRUCTION, min_size=1, max_size=8),
    linear=st.sampled_from(LINEARS),
    key=st.sampled_from([RING_0, RING_3, RING_0 | KEYS["step"], RING_3 | KEYS["nm"]]),
    indirect=st.booleans(),
    speculate=st.booleans(),
    checked=st.booleans(),
    back=st.sampled_from([b"", b"", b"\xe9", b"\x0f\x85"]),
)
def test_translations_of_made_up_code_are_sound(
    instructions: list[bytes],
    linear: int,
    key: int,
    indirect: bool,
    speculate: bool,
    checked: bool,
    back: bytes,
) -> None:
    code = b"".join(instructions)
    # A jump back to the start may make a loop.
    distance = len(code) + len(back) + 4
    code += back and back + (-distance).to_bytes(4, "little", signed=True)

    made = TRANSLATORS[speculate].translate(code, linear, key, 0, indirect, checked)

    assert VERIFIER.check(made) == []


@settings(max_examples=100)
@given(
    code=st.binary(min_size=15, max_size=64),
    key=st.sampled_from([RING_0, RING_3]),
    checked=st.booleans(),
)
def test_translations_of_random_bytes_are_sound(code: bytes, key: int, checked: bool) -> None:
    made = TRANSLATORS[True].translate(code, key=key, checked=checked)

    assert VERIFIER.check(made) == []
