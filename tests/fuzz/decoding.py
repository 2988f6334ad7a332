"""The compiled decoder beside Python's and iced-x86's: `python -m tests.fuzz.decoding --count N`.

Byte strings, most of them put together from prefixes, maps, opcodes and ModRM bytes, are decoded
by all three, whole and cut off.  They must agree on lengths, on what is refused and why, on the
key and on the shape.  Exit status 1 if they do not.
"""
from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator

from iced_x86 import Code, Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction

from ringlet.translate.key import parse
from ringlet.translate.learn import learn_key
from ringlet.translate.learn_table import Decoded, DecodeStatus, LearnTable

LONGEST = 15
_PREFIXES = bytes((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65))
_MAPS = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\x0f\x0f")
_VECTOR = bytes((0xC4, 0xC5, 0x62, 0x8F))
_MODRM = tuple(mod << 6 | reg << 3 | rm for mod in range(4) for reg in range(8) for rm in (0, 4, 5))
_SHOWN = 20


def _prefixes(rng: random.Random) -> bytes:
    count = rng.choice((0, 0, 0, 1, 1, 2, 3, rng.randrange(16)))
    given = bytes(rng.choice(_PREFIXES) for _ in range(count))
    if rng.random() < 0.4:
        given += bytes((0x40 | rng.randrange(16),))
    if rng.random() < 0.05:
        given += bytes((rng.choice(_PREFIXES),))
    return given


def random_string(rng: random.Random) -> bytes:
    """Return 24 bytes that begin as an instruction may."""
    if rng.random() < 0.2:
        return rng.randbytes(24)
    code = _prefixes(rng)
    if rng.random() < 0.3:
        code += bytes((rng.choice(_VECTOR),))
        if rng.random() < 0.7:
            code += bytes((rng.choice((0xE0, 0x60, 0xC0)) | rng.randrange(5),))
        code += rng.randbytes(1)
    else:
        code += rng.choice(_MAPS)
    code += rng.randbytes(1) + bytes((rng.choice(_MODRM),))
    return (code + rng.randbytes(24))[:24]


def systematic_strings() -> Iterator[bytes]:
    """Yield every opcode of every map after some prefixes, with each kind of ModRM byte."""
    heads = [b"", *(bytes((p,)) for p in (0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x64, 0x40, 0x41, 0x48))]
    heads += [b"\x66\x48", b"\xf2\x48", b"\xf3\x48", b"\x66\xf2", b"\x48\x66"]
    maps = [*_MAPS[:4], b"\xc5\xf8", b"\xc5\xfd", b"\xc4\xe1\x78", b"\xc4\xe2\x79", b"\xc4\xe2\xfd",
            b"\xc4\xe3\x79", b"\xc4\xe3\xfd", b"\xc4\xe0\x78", b"\xc4\xe4\x78", b"\xc4\xff\x78"]
    for head in heads:
        for opcode_map in maps:
            for opcode in range(256):
                for modrm in (0x00, 0x05, 0x44, 0x84, 0xC0, 0xC8, 0xD0, 0xD8, 0xF8):
                    yield (head + opcode_map + bytes((opcode, modrm, 0x25)) + b"\x03" * 24)[:24]


class Comparer:
    """The decoders, with what they have disagreed on."""

    def __init__(self, mode: int = 64) -> None:
        self._mode = mode
        self._table = LearnTable(mode=mode)
        self.count = 0
        self.kinds: Counter[str] = Counter()
        self.differences: list[str] = []

    def compare(self, code: bytes, avail: int = 24) -> None:
        """Decode `code`, of which `avail` bytes are there."""
        self.count += 1
        given = code[:avail]
        ours = self._table.decode(given)
        self.kinds[ours.status.name if not ours.refused else "REFUSED"] += 1
        for what in (*self._with_iced(given, ours), *self._with_python(given, ours)):
            self.differences.append(f"{given.hex()}: {what}")

    def _with_iced(self, code: bytes, ours: Decoded) -> Iterator[str]:
        decoder = Decoder(self._mode, code)
        theirs = decoder.decode()
        error = decoder.last_error
        if ours.status == DecodeStatus.MORE:
            # Where it refuses before it has seen ModRM, ours must once it has.
            if error != DecoderError.NO_MORE_BYTES and not self._refused(code.ljust(24, b"\0")):
                yield f"more bytes wanted, iced-x86 says {theirs}"
        elif ours.status == DecodeStatus.LONG:
            if theirs.code != Code.INVALID:
                yield f"too long, iced-x86 says {theirs} of {theirs.len} bytes"
            elif (length := self._length_without_repeats(code)) <= LONGEST:
                yield f"too long, iced-x86 without repeated prefixes comes to {length} bytes"
        elif not ours.refused:
            loose = self._loosely(code)
            if theirs.code == Code.INVALID and loose.code == Code.INVALID:
                yield f"accepted with {ours.length} bytes, iced-x86 refuses"
            elif loose.len != ours.length:
                yield f"{ours.length} bytes, iced-x86 {loose.len}"
        elif theirs.code != Code.INVALID and self._exists(theirs, ours):
            yield f"refused, iced-x86 says {theirs}"

    def _refused(self, code: bytes) -> bool:
        decoded = self._table.decode(code)
        return decoded.refused or decoded.status == DecodeStatus.LONG

    def _with_python(self, code: bytes, ours: Decoded) -> Iterator[str]:
        if ours.status != DecodeStatus.OK:
            return
        parsed = parse(code.ljust(24, b"\0"), self._mode)
        if parsed is None or parsed.bad_prefix:
            if not ours.refused:
                yield "Python's decoder refuses it"
        elif parsed.key.pack() != ours.key:
            yield f"key {ours.key:#x}, Python's {parsed.key.pack():#x}"
        elif learn_key(parsed.key).pack() != ours.shape:
            yield "another shape"

    def _length_without_repeats(self, code: bytes) -> int:
        """Return how long iced-x86 says that it is, or 16 where it does not.

        iced-x86 does not look beyond 15 bytes.  Prefixes that come again later are left out for it.
        """
        ahead = len(code) - len(code.lstrip(_PREFIXES))
        for start in range(1, ahead):
            if code[start - 1] not in code[start:ahead]:
                break
            decoded = Decoder(self._mode, code[start:]).decode()
            if decoded.code != Code.INVALID:
                return start + decoded.len
        return LONGEST + 1

    def _loosely(self, code: bytes) -> Instruction:
        """Return what iced-x86 says without looking at operands that no instruction may have."""
        return Decoder(self._mode, code, DecoderOptions.NO_INVALID_CHECK).decode()

    def _exists(self, theirs: Instruction, ours: Decoded) -> bool:
        """Whether the instruction is more than one that the virtual processor does not offer."""
        from ringlet.translate.classify import Refused, classify
        from ringlet.translate.features import OFFERED

        if theirs.encoding in (EncodingKind.EVEX, EncodingKind.XOP, EncodingKind.MVEX):
            return False
        return not isinstance(classify(theirs.code, self._mode, OFFERED), Refused) and not (
            ours.shape[1] and _is_undefined(theirs)
        )



def _is_undefined(theirs: Instruction) -> bool:
    return theirs.code in (Code.UD2, Code.UD0_R16_RM16, Code.UD0_R32_RM32, Code.UD0_R64_RM64,
                           Code.UD1_R16_RM16, Code.UD1_R32_RM32, Code.UD1_R64_RM64)


def run(count: int, seed: int, mode: int = 64) -> Comparer:
    """Compare so many random strings, every eighth of them cut off at each length."""
    rng = random.Random(seed)
    comparer = Comparer(mode)
    for i in range(count):
        code = random_string(rng)
        comparer.compare(code)
        if i % 8 == 0:
            comparer.compare(code, rng.randrange(1, LONGEST + 1))
    return comparer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", type=int, choices=(16, 32, 64), default=64)
    parser.add_argument("--systematic", action="store_true")
    options = parser.parse_args()
    comparer = run(options.count, options.seed, options.mode)
    if options.systematic:
        for code in systematic_strings():
            comparer.compare(code)
    for line in comparer.differences[:_SHOWN]:
        print(line)
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(comparer.kinds.items()))
    print(f"{comparer.count} strings, {len(comparer.differences)} differences; {kinds}")
    return 1 if comparer.differences else 0


if __name__ == "__main__":
    sys.exit(main())
