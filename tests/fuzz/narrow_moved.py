"""Kept translations of random 32-bit code elsewhere: `python -m tests.fuzz.narrow_moved --count N`.

Random instructions are translated in one page and looked up in another one, whose address differs,
and in some samples also a few bytes or fields.  Wherever a kept translation is found, it must be
what a translator makes there anew, and the verifier must accept that.  Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from dataclasses import dataclass, field

from iced_x86 import Decoder

from ringlet.config import PAGE_SIZE
from ringlet.translate.translator import KEYS, InPage, Translation, Translator
from ringlet.translate.verify import verify_narrow
from tests.fuzz.narrow_soundness import random_instruction

_FLAGS = ("nm", "nosse", "noavx", "em")
_PAGES = (0, 0x1000, 0x8048000, 0x7FFFF000, 0x80000000, 0xC1000000, 0xFFFFE000, 0xFFFFF000)
_LIMIT = 1 << 12
"""Translators are renewed after so many samples, before there is no more room to keep any."""
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The code that is kept, and the code that is looked up, at the same place of two pages."""

    code: bytes
    other: bytes
    at: int
    made: int
    linear: int
    key: int
    indirect: bool

    def page(self, code: bytes) -> bytes:
        """Return a page with the code."""
        return (bytes(self.at) + code).ljust(PAGE_SIZE, b"\x90")[:PAGE_SIZE]

    def text(self) -> str:
        """Return the sample as an expression for a test."""
        codes = f"bytes.fromhex({self.code.hex()!r}), bytes.fromhex({self.other.hex()!r})"
        rest = f"{self.at:#x}, {self.made:#x}, {self.linear:#x}, {self.key:#x}, {self.indirect}"
        return f"Sample({codes}, {rest})"


@dataclass(slots=True)
class Findings:
    """How many samples there were, what they came to, and what was wrong."""

    reached: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def _far(rng: random.Random) -> bytes:
    return rng.randrange(1 << 31, 0xF0000000).to_bytes(4, "little")


def _fields(code: bytes) -> list[int]:
    """Return the offsets of the 32-bit fields of the instructions."""
    found, decoder = [], Decoder(32, code)
    for i in decoder:
        where = decoder.get_constant_offsets(i)
        for offset, size in (
            (where.displacement_offset, where.displacement_size),
            (where.immediate_offset, where.immediate_size),
        ):
            if size == 4:
                found.append(i.ip32 + offset)
    return found


def _with_fields(rng: random.Random, code: bytes, share: float) -> bytes:
    """Return the code with far values in a share of its 32-bit fields."""
    out = bytearray(code)
    for at in _fields(code):
        if rng.random() < share:
            out[at : at + 4] = _far(rng)
    return bytes(out)


def random_sample(rng: random.Random) -> Sample:
    """Return a few instructions, most of which exist, and what becomes of them."""
    key = KEYS["mode32"] | rng.choice((0, KEYS["cpl"]))
    for name in _FLAGS:
        if rng.random() < 0.1:
            key |= KEYS[name]
    pieces = [random_instruction(rng, 32) for _ in range(rng.randrange(1, 9))]
    code = _with_fields(rng, b"".join(pieces), 0.5)
    other = _with_fields(rng, code, 0.5) if rng.random() < 0.6 else code
    if rng.random() < 0.2:
        changed = bytearray(other)
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        other = bytes(changed)
    at = rng.choice((0, 0x10, 0x100, PAGE_SIZE - len(code) - 1, PAGE_SIZE - len(code)))
    made, linear = rng.choice(_PAGES), rng.choice(_PAGES)
    return Sample(code, other, at, made, linear, key, rng.random() < 0.5)


def _made_anew(translator: Translator, sample: Sample, indirect: bool) -> Translation:
    rest = sample.page(sample.other)[sample.at :]
    return translator.translate(rest, sample.linear + sample.at, sample.key, indirect=indirect)


def _same(found: InPage, made: Translation) -> bool:
    operations = tuple(operation[:2] for operation in found.operations)
    return (found.code, found.map, found.links, operations) == (
        made.code, made.map, made.links, made.operations,
    )  # fmt: skip


def look(keeper: Translator, fresh: Translator, sample: Sample, findings: Findings) -> None:
    """Translate the sample's code, and look up the other."""
    places = ((sample.code, sample.made), (sample.other, sample.linear))
    try:
        before = 0
        for code, linear in places:
            before = keeper.kept.found
            found = keeper.translate_in(
                sample.page(code), sample.at, linear, sample.key, sample.indirect
            )
    except ValueError:  # the first instruction continues in the next page
        findings.reached["crossing"] += 1
        return
    made = _made_anew(fresh, sample, sample.indirect)
    if not _same(found, made):
        # A kept translation with an entry for indirect jumps serves where none is needed.
        made = _made_anew(fresh, sample, True)
    was_kept = keeper.kept.found != before
    changed = "changed" if sample.code != sample.other else "same"
    findings.reached[f"{changed}, found" if was_kept else f"{changed}, made"] += 1
    if not _same(found, made):
        findings.wrong.append(f"not what is made there: {sample.text()}")
    for violation in verify_narrow(made):
        findings.wrong.append(f"{violation}: {sample.text()}")


def run(count: int, seed: int) -> Findings:
    """Try so many samples."""
    rng, findings = random.Random(seed), Findings()
    keeper, fresh = Translator(), Translator()
    for number in range(count):
        if number % _LIMIT == _LIMIT - 1:
            keeper = Translator()
        look(keeper, fresh, random_sample(rng), findings)
    return findings


def main() -> int:
    """Run the campaign that the command line asks for, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.narrow_moved")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    findings = run(options.count, options.seed)
    for line in findings.wrong[:_SHOWN]:
        print(line)
    print(", ".join(f"{name} {n}" for name, n in sorted(findings.reached.items())))
    print(f"{len(findings.wrong)} wrong")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
