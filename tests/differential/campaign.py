"""Runs many programs on the host and on an engine, and collects the differences."""
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
from tests.differential.program import Program, from_text, to_text
from tests.differential.shrink import shrink

_BATCH = 128
_HISTORY = 6  # programs before one that differs which may be the cause


@dataclass(slots=True)
class Divergence:
    """A program whose outcomes differ, already shrunk, after those that must run `before` it."""

    program: Program
    differences: list[str]
    before: tuple[Program, ...] = ()

    def text(self) -> str:
        """The corpus form, the differences as its comment."""
        last = replace(self.program, comment="\n".join(self.differences))
        return THEN.join(to_text(p) for p in (*self.before, last))

    @property
    def signature(self) -> str:
        """Equal for divergences that are probably one fault: what differs, and the mnemonics."""
        formatter = Formatter(FormatterSyntax.NASM)
        names = [formatter.format_mnemonic(i)
                 for i in Decoder(self.program.bits, self.program.code,
                                  ip=self.program.origin - self.program.base)]
        what = self.differences[0].split(":")[0].split()[0].rstrip("0123456789")
        earlier = f"after {len(self.before)}: " if self.before else ""
        return f"{what} {earlier}{' '.join(names[:-1])}"


THEN = "then\n"  # between programs of one corpus file


def from_corpus(text: str) -> list[Program]:
    """The programs of a corpus file: the last one is compared."""
    return [from_text(part) for part in text.split("\n" + THEN)]


@dataclass(slots=True)
class Report:
    """Counts of a campaign: programs by how the host ended them, exclusions with reasons."""

    programs: int = 0
    instructions: int = 0
    vectors: Counter[int] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    different: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # of what differs, before shrinking
    divergences: dict[str, Divergence] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)  # the programs that killed the process

    def merge(self, other: Report) -> None:
        """Add another job's counts."""
        self.programs += other.programs
        self.instructions += other.instructions
        self.vectors += other.vectors
        self.excluded += other.excluded
        self.different += other.different
        self.kinds += other.kinds
        self.crashes += other.crashes
        for signature, divergence in other.divergences.items():
            self.divergences.setdefault(signature, divergence)


def random_programs(seed: int, count: int, style: Style | None = None,
                    kind: type[Generator] = Generator) -> Iterator[Program]:
    """`count` programs of 64-bit code, or of another `kind`, from one seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield random_program(rng, style, kind)


def form_programs(seed: int, each: int = 1,
                  kind: type[Generator] = Generator) -> Iterator[Program]:
    """For every form `each` programs with registers only and with memory, where it has both."""
    rng = random.Random(seed)
    for form in kind.forms():
        either = any("OR_MEM" in name for name in forms.kind_names(form))
        for mem in ((True, False) if either else (None,)):
            for _ in range(each):
                yield program_of(form, rng, mem, kind)


def run_campaign(native: Engine, engine: Engine, programs: Iterable[Program], *, keep: int = 12,
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


def differences(native: Engine, engine: Engine, programs: Sequence[Program]) -> list[str]:
    """Return how a new engine differs from the host on the last of these programs, run in sequence.

    The result is empty if the outcome is not comparable.
    """
    ours = native.run(programs[-1:])[0]
    if excluded(programs[-1], ours) or engine.lacks(ours):
        return []
    engine.reset()
    return compare(programs[-1], ours, engine.run(programs)[-1], departs=engine.departs)


def _compare_batch(native: Engine, engine: Engine, batch: Sequence[Program], report: Report,
                   keep: int, progress: Callable[[int], None]) -> None:
    ours = native.run(batch)
    for i, (program, outcome) in enumerate(zip(batch, ours, strict=True)):
        progress(report.programs)
        report.programs += 1
        report.instructions += len(program.items)
        reason = excluded(program, outcome) or engine.lacks(outcome)
        if reason is not None:
            report.excluded[reason] += 1
            continue
        report.vectors[outcome.vector] += 1
        found = compare(program, outcome, engine.run([program])[0], departs=engine.departs)
        if not found:
            continue
        report.different += 1
        kind = _kind(program, outcome.state.rip, found)
        report.kinds[kind] += 1
        if report.kinds[kind] == 1 and len(report.divergences) < keep:
            divergence = _explain(native, engine, batch[max(0, i - _HISTORY):i + 1], found)
            report.divergences.setdefault(divergence.signature, divergence)
        engine.reset()


def _kind(program: Program, rip: int, found: list[str]) -> str:
    """Return a first guess at the defect, from the whole program: what differs and where."""
    where = "end"
    formatter = Formatter(FormatterSyntax.NASM)
    for ins in Decoder(program.bits, program.code[:-1], ip=program.origin - program.base):
        if ins.ip == rip:
            where = formatter.format_mnemonic(ins)
    what = found[0].split(":")[0].split()[0].rstrip("0123456789")
    return f"{what} at {where}"


def _explain(native: Engine, engine: Engine, history: Sequence[Program],
             found: list[str]) -> Divergence:
    """The last program of `history`, shrunk, with as few of the others as it needs."""
    def differs(programs: Sequence[Program]) -> bool:
        return bool(differences(native, engine, programs))

    before = list(history[:-1])
    last = history[-1]
    if differs([last]):
        before = []
    elif not differs([*before, last]):
        return Divergence(last, ["(only after more programs than these)", *found], tuple(before))
    for i in reversed(range(len(before))):
        if differs([*before[:i], *before[i + 1:], last]):
            del before[i]
    last = shrink(last, lambda p: differs([*before, p]))
    for i in range(len(before)):
        before[i] = shrink(before[i], lambda p, i=i: differs(  # type: ignore[misc]  # bound now
            [*before[:i], p, *before[i + 1:], last]))
    again = differences(native, engine, [*before, last])
    return Divergence(last, again or ["(not each time)", *found], tuple(before))


def forms_used(seed: int, count: int) -> Counter[str]:
    """How often `count` random programs have each form drawn."""
    rng = random.Random(seed)
    used: Counter[str] = Counter()
    for _ in range(count):
        generator = Generator(rng)
        generator.program()
        used.update(form.name for form in generator.used)
    return used
