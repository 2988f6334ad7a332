"""Runs many programs on the host and on an engine, and collects what differs."""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from iced_x86 import Decoder, Formatter, FormatterSyntax

from tests.differential import forms
from tests.differential.compare import compare, excluded
from tests.differential.engine import Engine
from tests.differential.generate import Generator, Style, program_of, random_program
from tests.differential.program import Program, to_text
from tests.differential.shrink import shrink

_BATCH = 128


@dataclass(slots=True)
class Divergence:
    """A program whose outcomes differ, already shrunk."""

    program: Program
    differences: list[str]

    def text(self) -> str:
        """The corpus form, the differences as its comment."""
        return to_text(replace(self.program, comment="\n".join(self.differences)))

    @property
    def signature(self) -> str:
        """Equal for divergences that are probably one fault: what differs, and the mnemonics."""
        formatter = Formatter(FormatterSyntax.NASM)
        names = [formatter.format_mnemonic(i)
                 for i in Decoder(64, self.program.code, ip=self.program.origin)]
        what = self.differences[0].split(":")[0].split()[0].rstrip("0123456789")
        return f"{what} {' '.join(names[:-1])}"


@dataclass(slots=True)
class Report:
    """Counts of a campaign: programs by how the host ended them, exclusions with reasons."""

    programs: int = 0
    instructions: int = 0
    vectors: Counter[int] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    different: int = 0
    divergences: dict[str, Divergence] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)  # the programs that killed the process

    def merge(self, other: Report) -> None:
        """Add another job's counts."""
        self.programs += other.programs
        self.instructions += other.instructions
        self.vectors += other.vectors
        self.excluded += other.excluded
        self.different += other.different
        self.crashes += other.crashes
        for signature, divergence in other.divergences.items():
            self.divergences.setdefault(signature, divergence)


def random_programs(seed: int, count: int, style: Style | None = None) -> Iterator[Program]:
    """`count` programs from one seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield random_program(rng, style)


def form_programs(seed: int, each: int = 1) -> Iterator[Program]:
    """For every form `each` programs with registers only and with memory, where it has both."""
    rng = random.Random(seed)
    for form in forms.table():
        either = any("OR_MEM" in name for name in forms.kind_names(form))
        for mem in ((True, False) if either else (None,)):
            for _ in range(each):
                yield program_of(form, rng, mem)


def run_campaign(native: Engine, engine: Engine, programs: Iterable[Program], *, keep: int = 20,
                 progress: Callable[[int], None] = lambda index: None) -> Report:
    """Compare `engine` with the host on `programs`; at most `keep` differences are shrunk.

    `progress` is told the number of each program before the engine runs it.
    """
    report = Report()
    batch: list[Program] = []
    for program in programs:
        batch.append(program)
        if len(batch) == _BATCH:
            _compare_batch(native, engine, batch, report, keep, progress)
            batch = []
    _compare_batch(native, engine, batch, report, keep, progress)
    return report


def differences(native: Engine, engine: Engine, program: Program) -> list[str]:
    """In what the engine differs from the host on one program; nothing if it is not comparable."""
    ours = native.run([program])[0]
    if excluded(program, ours) is not None:
        return []
    return compare(program, ours, engine.run([program])[0])


def _compare_batch(native: Engine, engine: Engine, batch: Sequence[Program], report: Report,
                   keep: int, progress: Callable[[int], None]) -> None:
    ours = native.run(batch)
    for program, outcome in zip(batch, ours, strict=True):
        progress(report.programs)
        report.programs += 1
        report.instructions += len(program.items)
        reason = excluded(program, outcome)
        if reason is not None:
            report.excluded[reason] += 1
            continue
        report.vectors[outcome.vector] += 1
        found = compare(program, outcome, engine.run([program])[0])
        if not found:
            continue
        report.different += 1
        if len(report.divergences) < keep:
            small = shrink(program, lambda p: bool(differences(native, engine, p)))
            # A difference that needs what ran before does not show again: keep it whole.
            again = differences(native, engine, small)
            divergence = Divergence(small, again or ["(not reproduced alone)", *found])
            report.divergences.setdefault(divergence.signature, divergence)


def forms_used(seed: int, count: int) -> Counter[str]:
    """How often `count` random programs have each form drawn."""
    rng = random.Random(seed)
    used: Counter[str] = Counter()
    for _ in range(count):
        generator = Generator(rng)
        generator.program()
        used.update(form.name for form in generator.used)
    return used
