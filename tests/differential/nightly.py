"""The long differential run: `python -m tests.differential.nightly --programs 200000`.

Prints counts and every divergence, minimised, with disassembly and both values; `--save` writes
them to the corpus, which the short tests replay.  Exit status 1 if there is one.
"""
from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tests.differential.campaign import (
    Report,
    form_programs,
    random_programs,
    run_campaign,
)
from tests.differential.engine import ENGINES, make_engine
from tests.differential.generate import Generator
from tests.differential.isolate import Death, Progress, isolated
from tests.differential.narrow.generate import Generator16, NarrowGenerator, SegmentedGenerator
from tests.differential.narrow.ring0 import Ring0Generator
from tests.differential.native import NativeRunner
from tests.differential.opcodes import opcode_programs
from tests.differential.program import Program, to_text

CORPUS = Path(__file__).with_name("corpus")
_CHUNK = 5000
CODE: dict[str, type[Generator]] = {
    "64": Generator, "32": NarrowGenerator, "32s": SegmentedGenerator,
    "32-ring0": Ring0Generator, "16": Generator16}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Programs that one process runs: random ones, or those of a sweep.

    `sweep` is "forms" (`count` of each), "opcodes" (from number `seed` on), or nothing.
    """

    engine: str
    seed: int
    count: int
    sweep: str = ""
    code: str = "64"

    def programs(self) -> Iterator[Program]:
        """The same ones each time."""
        if self.sweep == "forms":
            return form_programs(self.seed, self.count, CODE[self.code])
        if self.sweep == "opcodes":
            programs = opcode_programs(CODE[self.code].bits)
            return itertools.islice(programs, self.seed, self.seed + self.count)
        return random_programs(self.seed, self.count, kind=CODE[self.code])


def _run_chunk(chunk: Chunk, progress: Progress) -> Report:
    engine = make_engine(chunk.engine)
    try:
        with NativeRunner() as native:
            return run_campaign(native, engine, chunk.programs(), progress=progress)
    finally:
        engine.close()


def run_chunk(chunk: Chunk) -> Report:
    """Run a chunk in a process of its own: an engine that dies is a finding, not the end."""
    result = isolated(_run_chunk, chunk)
    if isinstance(result, Death):
        program = next(itertools.islice(chunk.programs(), result.index, None))
        report = Report(programs=result.index + 1, different=1)
        report.crashes.append(to_text(replace(
            program, comment=f"the process died with exit code {result.exit_code}")))
        return report
    assert isinstance(result, Report)
    return result


def _chunks(options: argparse.Namespace) -> Iterator[Chunk]:
    if options.opcodes:
        count = sum(1 for _ in opcode_programs(CODE[options.code].bits))
        for i in range(0, count, _CHUNK):
            yield Chunk(options.engine, i, _CHUNK, "opcodes", options.code)
        return
    yield Chunk(options.engine, options.seed, 4, "forms", options.code)
    for i in range(-(-options.programs // _CHUNK)):
        yield Chunk(options.engine, options.seed + 1 + i,
                    min(_CHUNK, options.programs - i * _CHUNK), code=options.code)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential.nightly",
                                     description="Compare an engine with the host processor.")
    parser.add_argument("--programs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--engine", default="ringlet", choices=ENGINES)
    parser.add_argument("--code", default="64", choices=CODE,
                        help="what the programs consist of: 32 is in flat segments, 32s in others")
    parser.add_argument("--opcodes", action="store_true",
                        help="run every opcode of 16- or 32-bit code instead, defined or not")
    parser.add_argument("--save", action="store_true", help="write divergences to the corpus")
    options = parser.parse_args(arguments)
    work = list(_chunks(options))
    total = Report()
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        for report in pool.map(run_chunk, work):
            total.merge(report)
            print(f"\r{total.programs} programs, {total.different} differ", end="",
                  file=sys.stderr, flush=True)
    seconds = time.monotonic() - start
    print(file=sys.stderr)
    print(f"seed {options.seed}: {total.programs} programs of {total.instructions} instructions "
          f"in {seconds:.0f} s ({total.programs / seconds:.0f} a second)")
    print("ended by vector: " + ", ".join(f"{v}: {n}" for v, n in sorted(total.vectors.items())))
    for reason, count in total.excluded.items():
        print(f"not compared: {count} ({reason})")
    print(f"differ: {total.different}, {len(total.divergences)} kinds")
    for kind, count in total.kinds.most_common():
        print(f"    {count} {kind}")
    for signature, divergence in total.divergences.items():
        text = divergence.text()
        print(f"\n--- {signature}\n{text}", end="")
        if options.save:
            slug = re.sub(r"[^a-z0-9]+", "-", signature.lower()).strip("-")[:40]
            digest = hashlib.sha256(text.encode()).hexdigest()[:6]
            (CORPUS / f"{slug}-{digest}.txt").write_text(text)
    for crash in total.crashes:
        print(f"\n--- killed the process\n{crash}", end="")
    return 1 if total.different else 0


if __name__ == "__main__":
    sys.exit(main())
