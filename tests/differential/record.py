"""The recorded outcomes of the corpus on each vendor's processors: `recorded/VENDOR.json`.

    python -m tests.differential.record                 from this host's own processor
    python -m tests.differential.record --derive amd    from Ringlet, told to be that vendor's

A record lets the expectations of one vendor be checked on a machine of the other.  It holds the
programs whose outcome the virtual processor decides (`decides`), because for other programs the
host decides it, whatever the record says.  A derived record is not a measurement: it holds
Ringlet's results at their last comparison with a processor of that vendor, and is marked so.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from iced_x86 import Decoder, Instruction

from ringlet.arch.vendors import Vendor
from ringlet.vcpu.model import host_vendor
from tests.differential import layout, xsave
from tests.differential.campaign import from_corpus
from tests.differential.compare import excluded
from tests.differential.engine_ringlet import RingletRunner
from tests.differential.native import NativeRunner
from tests.differential.program import REGISTERS, Outcome, Program, State, Status

CORPUS = Path(__file__).with_name("corpus")
FOLDER = Path(__file__).with_name("recorded")

HOSTS_OWN = frozenset({
    "gather-with-a-lane-done", "repne-scas-flags-at-a-fault", "ymm-vpgatherdd-b5010e",
})
"""Programs that are recorded though the host decides them, to show that vendors differ.  It carries
out gathers with 32-bit indices itself, and the repetitions before a fault."""

_SS, _GP = 12, 13  # raised by the handler of faults or an operation, not by the host
_PAGE = layout.PAGE


def programs() -> Iterator[tuple[str, Program]]:
    """Return the corpus programs that need no others before them, by name."""
    for path in sorted(CORPUS.glob("*.txt")):
        found = from_corpus(path.read_text())
        if len(found) == 1:
            yield path.stem, found[0]


def decides(program: Program, emulated: int, outcome: Outcome) -> bool:
    """Whether the virtual processor, and not the host, decided a program's outcome.

    `emulated` instructions were the emulator's.  A program with an instruction that leaves a flag
    undefined is the host's in any case, and so is a page fault of one that the host executed: it
    has chosen which byte it accessed first.
    """
    if any(ins.rflags_undefined for ins in _instructions(program)):
        return False
    return emulated > 0 or outcome.vector in {_SS, _GP}


def _instructions(program: Program) -> Iterator[Instruction]:
    yield from Decoder(64, program.code, ip=program.origin)


def to_json(program: Program, outcome: Outcome) -> dict[str, object]:
    """Return the changes from a program's start to its outcome: registers, and runs of memory."""
    state, start = outcome.state, program.state
    fields = xsave.fields(xsave.canonical(state.xsave))
    began = xsave.fields(xsave.canonical(start.xsave))
    row: dict[str, object] = {
        "status": outcome.status.name, "vector": outcome.vector, "error": outcome.error,
        "cr2": hex(outcome.cr2), "rip": hex(state.rip), "rflags": hex(state.rflags),
        "fs_base": hex(state.fs_base), "gs_base": hex(state.gs_base),
        "selectors": list(state.selectors),
        "gpr": {n: hex(v) for n, v, old in zip(REGISTERS, state.gpr, start.gpr, strict=True)
                if v != old},
        "vectors": {n: v for n, v in fields.items() if v != began[n]},
        "memory": {hex(at): data.hex() for at, data in _changes(program, outcome)},
    }
    if outcome.vector != 14:
        del row["cr2"]
    return row


def _changes(program: Program, outcome: Outcome) -> Iterator[tuple[int, bytes]]:
    """Return (offset in the image, bytes) of the memory that the program changed."""
    initial = program.initial_image()
    for number, data in sorted(outcome.pages.items()):
        start = number * _PAGE
        old = initial[start:start + _PAGE]
        at = 0
        while at < _PAGE:
            end = at
            while end < _PAGE and data[end] != old[end]:
                end += 1
            if end > at:
                yield start + at, data[at:end]
            at = end + 1


def from_json(program: Program, row: dict[str, object]) -> Outcome:
    """The inverse of `to_json`."""
    value = json.loads(json.dumps(row))
    start = program.state
    fields = xsave.fields(xsave.canonical(start.xsave)) | value["vectors"]
    gpr = tuple(int(value["gpr"].get(n, hex(old)), 0)
                for n, old in zip(REGISTERS, start.gpr, strict=True))
    state = State(gpr, int(value["rip"], 0), int(value["rflags"], 0), int(value["fs_base"], 0),
                  int(value["gs_base"], 0), xsave.from_fields(fields), tuple(value["selectors"]))
    image = bytearray(program.initial_image())
    for at, data in value["memory"].items():
        image[int(at, 0):int(at, 0) + len(data) // 2] = bytes.fromhex(data)
    return Outcome(Status[value["status"]], value["vector"], value["error"],
                   int(value.get("cr2", "0"), 0), state, layout.changed_pages(bytes(image)))


def load(vendor: Vendor) -> dict[str, dict[str, object]]:
    """Return a vendor's recorded outcomes, by the names of their corpus programs."""
    programs_of: dict[str, dict[str, object]] = json.loads(_path(vendor).read_text())["programs"]
    return programs_of


def _path(vendor: Vendor) -> Path:
    return FOLDER / f"{vendor.value}.json"


def record(derived: Vendor | None) -> dict[str, object]:
    """Return a new record of the host's processor, or of Ringlet as a processor of `derived`."""
    rows = {}
    with NativeRunner() as native, RingletRunner(vendor=derived) as engine:
        for name, program in programs():
            engine.reset()
            outcome = engine.run([program])[0]
            emulated = engine.processor.counters()["emulated"]
            if not decides(program, emulated, outcome) and name not in HOSTS_OWN:
                continue
            if derived is None:
                outcome = native.run([program])[0]
                if excluded(program, outcome) is not None:
                    continue
            rows[name] = to_json(program, replace(outcome, note=""))
    return {"source": _DERIVED if derived else _MEASURED.format(_model_name()), "programs": rows}


_DERIVED = ("derived from Ringlet's own outcomes, which equalled those of an AMD EPYC when the "
            "whole differential suite last ran on one; not measured anew")
_MEASURED = "measured on {}"


def _model_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines
                 if line.startswith("model name")), "an unnamed processor")


def main(arguments: list[str] | None = None) -> int:
    """Write a record, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential.record",
                                     description="Record what the corpus comes to.")
    parser.add_argument("--derive", choices=[v.value for v in Vendor],
                        help="from Ringlet with this vendor's conduct, not from the host")
    options = parser.parse_args(arguments)
    derived = Vendor(options.derive) if options.derive else None
    path = _path(derived or host_vendor())
    path.write_text(json.dumps(record(derived), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
