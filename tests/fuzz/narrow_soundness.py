"""The verifier on random 16- and 32-bit code: `python -m tests.fuzz.narrow_soundness --count N`.

Fragments of random instructions are translated for every kind of key, with an entry for indirect
jumps or not, checked or not.  The verifier must accept each translation.  Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from dataclasses import dataclass, field

from iced_x86 import Decoder

from ringlet.core.ops import Op
from ringlet.translate.translator import KEYS, Translator
from ringlet.translate.verify import verify_narrow
from tests.fuzz.decoding import random_string

_MODES = (KEYS["mode16"], KEYS["mode32"])
_FLAGS = ("segmented", "stack16", "cs64k", "cs_odd", "nm", "nosse", "noavx", "step", "em")
_IN_64_KIB = KEYS["segmented"] | KEYS["stack16"] | KEYS["data64k"]
_LINEARS = (0, 0x1000, 0x100000, 0x7FFFFFF0, 0x80000000, 0xFFFFF000, 0xFFFFFFC0)
_STRINGS = bytes.fromhex("a4a5a6a7aaabacadaeaf")
_BRANCHES = bytes.fromhex("e0e1e2e3e8e9ebc3c2ff7075")
_PLAIN = bytes.fromhex("0001030a2b31398081838488898a8b8d868750585768c6c7d1d3f6f7fe8fd7c9a0a1a2a3")
_PREFIXES = (b"", b"", b"", b"\x66", b"\x67", b"\x66\x67", b"\x65", b"\x2e", b"\x36")
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """Code to translate, with the arguments of `Translator.translate`."""

    code: bytes
    linear: int
    key: int
    limit: int
    indirect: bool
    checked: bool

    def text(self) -> str:
        """Return the sample as an expression for a test."""
        code = f"bytes.fromhex({self.code.hex()!r})"
        rest = f"{self.linear:#x}, {self.key:#x}, {self.limit}, {self.indirect}, {self.checked}"
        return f"Sample({code}, {rest})"


@dataclass(slots=True)
class Findings:
    """How much code was translated, what it reached, and what the verifier refused."""

    fragments: int = 0
    instructions: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)


def random_instruction(rng: random.Random, bits: int) -> bytes:
    """Return an instruction, without the bytes behind it if it exists."""
    kind, prefixes = rng.random(), rng.choice(_PREFIXES)
    if kind < 0.1:
        code = prefixes + rng.choice((b"", b"\xf3", b"\xf2")) + bytes((rng.choice(_STRINGS),))
    elif kind < 0.15:
        code = prefixes + bytes((rng.choice(_BRANCHES),))
    elif kind < 0.6:
        code = prefixes + bytes((rng.choice(_PLAIN),))
    else:
        code = random_string(rng)
    code = (code + rng.randbytes(24))[:24]
    decoded = Decoder(bits, code).decode()
    return code[: rng.randrange(2, 9) if decoded.is_invalid else decoded.len]


def random_sample(rng: random.Random) -> Sample:
    """Return a few instructions, most of which exist, with any key of 16- or 32-bit code."""
    key = rng.choice(_MODES) | rng.choice((0, KEYS["cpl"]))
    for name in _FLAGS:
        if rng.random() < 0.3:
            key |= KEYS[name]
    if rng.random() < 0.3:
        key |= _IN_64_KIB | rng.choice((0, KEYS["paragraphs"]))
    bits = 32 if key & KEYS["mode32"] else 16
    pieces = [random_instruction(rng, bits) for _ in range(rng.randrange(1, 9))]
    return Sample(
        b"".join(pieces) + rng.randbytes(40),
        rng.choice(_LINEARS),
        key,
        rng.choice((0, 0, 0, 1, 2)),
        rng.random() < 0.3,
        rng.random() < 0.3,
    )


def run(count: int, seed: int) -> Findings:
    """Translate so many fragments, and verify each."""
    rng, translator, findings = random.Random(seed), Translator(), Findings()
    for _ in range(count):
        sample = random_sample(rng)
        translation = translator.translate(
            sample.code, sample.linear, sample.key, sample.limit, sample.indirect, sample.checked
        )
        emulated = sum(op == Op.OP_EMULATE for _, op in translation.operations)
        findings.fragments += 1
        findings.instructions += translation.guest_instructions
        findings.reached["emulated"] += emulated
        findings.reached["operations"] += len(translation.operations) - emulated
        findings.reached["links"] += len(translation.links)
        findings.reached["checked"] += translation.checked
        findings.reached["entries"] += bool(translation.body)
        for violation in verify_narrow(translation):
            findings.refused.append(f"{violation}: {sample.text()}")
    return findings


def main() -> int:
    """Run the campaign that the command line asks for, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.narrow_soundness")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    findings = run(options.count, options.seed)
    for line in findings.refused[:_SHOWN]:
        print(line)
    reached = ", ".join(f"{name} {n}" for name, n in sorted(findings.reached.items()))
    print(f"{findings.fragments} fragments, {findings.instructions} instructions: {reached}")
    print(f"{len(findings.refused)} refused")
    return 1 if findings.refused else 0


if __name__ == "__main__":
    sys.exit(main())
