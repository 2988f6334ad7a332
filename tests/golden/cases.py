"""The golden cases: reading, assembling, listing."""

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ringlet.explain import render
from ringlet.explain.listing import explain
from ringlet.explain.source import DEFAULT_LINEAR, Code
from ringlet.translate.translator import KEYS

CASES = Path(__file__).parent / "cases"
_MARK = "# case: "


@dataclass(frozen=True)
class Case:
    """A piece of guest code under a title."""

    title: str
    source: str
    cpl: int = 0
    at: int = DEFAULT_LINEAR
    thunk: bool = False
    speculate: bool = True
    flags: int = 0
    devices: bool = False
    bits: int = 64


@dataclass
class _Options:
    cpl: int = 0
    at: int = DEFAULT_LINEAR
    thunk: bool = False
    speculate: bool = True
    flags: int = field(default=0)
    devices: bool = False
    bits: int = 64

    def take(self, word: str) -> None:
        name, _, value = word.partition("=")
        match name:
            case "cpl" | "at" | "bits":
                setattr(self, name, int(value, 0))
            case "thunk":
                self.thunk = True
            case "no-speculate":
                self.speculate = False
            case "devices":
                self.devices = True
            case _:
                self.flags |= KEYS[name]


def topics() -> list[Path]:
    """The sources of the cases."""
    return sorted(CASES.glob("*.s"))


def golden_of(topic: Path) -> Path:
    """Where a topic's accepted listings are."""
    return topic.with_suffix(".golden")


def read(topic: Path) -> list[Case]:
    """The cases of a topic, in order."""
    cases = []
    for part in topic.read_text().split(_MARK)[1:]:
        heading, _, source = part.partition("\n")
        title, _, words = heading.partition("|")
        options = _Options()
        for word in words.split():
            options.take(word)
        cases.append(Case(title.strip(), source, **vars(options)))
    return cases


def assemble(source: str, bits: int = 64) -> bytes:
    """The bytes that GNU as makes of source in Intel's syntax, for `bits`-bit code."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "made"
        subprocess.run(
            ["as", f"--{max(bits, 32)}", "-o", f"{made}.o", "-"],
            input=f".code{bits}\n.intel_syntax noprefix\n{source}".encode(),
            check=True,
        )
        subprocess.run(
            ["objcopy", "-O", "binary", "-j", ".text", f"{made}.o", str(made)], check=True
        )
        return made.read_bytes()


def listing(case: Case) -> str:
    """The case's title and its translation, as text."""
    code = Code(case.title, case.at, assemble(case.source, case.bits))
    made = explain(
        code, case.cpl, case.speculate, case.thunk, case.flags, case.devices, case.bits
    )
    return render.as_text(made, reasons=False)


def listings(topic: Path) -> str:
    """The listings of a topic's cases."""
    return "\n\n".join(listing(case) for case in read(topic))
