"""Each vendor's recorded outcomes, on any host, of what the virtual processor decides."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringlet.arch import vendors
from ringlet.arch.vendors import CONDUCT, Conduct, Vendor
from ringlet.vcpu.model import host_vendor
from ringlet.vcpu.processor import Processor
from tests.differential.compare import compare
from tests.differential.engine_ringlet import RingletRunner
from tests.differential.native import NativeRunner
from tests.differential.program import Program
from tests.differential.record import HOSTS_OWN, from_json, load, programs, to_json

PROGRAMS = dict(programs())
RECORDED = [
    (vendor, name)
    for vendor in Vendor
    for name in load(vendor)
    if name not in HOSTS_OWN or vendor is host_vendor()
]


@pytest.fixture(scope="module")
def engine_of() -> Iterator[Callable[[Vendor], RingletRunner]]:
    """Gives an engine that behaves as a vendor's processors, made at its first use."""
    made: dict[Vendor, RingletRunner] = {}

    def get(vendor: Vendor) -> RingletRunner:
        if vendor not in made:
            made[vendor] = RingletRunner(vendor=vendor)
        return made[vendor]

    yield get
    for engine in made.values():
        engine.close()


@pytest.mark.parametrize(("vendor", "name"), RECORDED, ids=lambda v: getattr(v, "value", v))
def test_ringlet_does_as_the_vendor(vendor: Vendor, name: str,
                                    engine_of: Callable[[Vendor], RingletRunner]) -> None:
    program, engine = PROGRAMS[name], engine_of(vendor)
    expected = from_json(program, load(vendor)[name])
    engine.reset()
    assert compare(program, expected, engine.run([program])[0], departs=engine.departs) == []


TRIED = {
    "a32-repe-cmpsb-both-fault": Conduct.REPE_CMPSB_TARGET_FIRST,
    "loopne-with-rep": Conduct.LOOP_TAKES_REPETITION,
}
"""What is tried out when a processor is made, because those of one vendor may differ."""


def who_does_as_the_host(name: str) -> Vendor:
    """Return the vendor's processor that does as the host's in a program."""
    if name not in TRIED:
        return host_vendor()
    its = Processor(1 << 22).conduct & TRIED[name]
    return next(v for v in Vendor if CONDUCT[v] & TRIED[name] == its)


@pytest.mark.parametrize("name", load(host_vendor()))
def test_the_host_does_as_its_vendor(name: str, native: NativeRunner) -> None:
    program = PROGRAMS[name]
    expected = from_json(program, load(who_does_as_the_host(name))[name])
    assert compare(program, expected, native.run([program])[0]) == []


@pytest.mark.parametrize("name", load(Vendor.INTEL))
def test_a_record_comes_back_as_it_was(name: str) -> None:
    row = load(Vendor.INTEL)[name]
    assert to_json(PROGRAMS[name], from_json(PROGRAMS[name], row)) == row


def _differs(program: Program, name: str) -> bool:
    """Whether the records differ; LOOPNE has been measured on processors of AMD alone."""
    recorded = [from_json(program, load(v)[name]) for v in Vendor if name in load(v)]
    if len(recorded) == 1 and name == "loopne-with-rep":
        return True
    intel, amd = recorded
    return compare(program, intel, amd) != []


def test_each_conduct_is_measured_by_a_program_in_which_the_vendors_differ() -> None:
    stepped = {"repne-cmps-flags-at-a-step"}  # its repetitions are the host's: in no record
    named = {conduct: _measured(conduct) - stepped for conduct in Conduct}
    assert {c for c, names in named.items() if not names} == set()
    both = [n for names in named.values() for n in names]
    assert [n for n in both if not _differs(PROGRAMS[n], n)] == []


def _measured(conduct: Conduct) -> set[str]:
    """The corpus programs that a member's docstring names."""
    text = Path(inspect.getsourcefile(vendors) or "").read_text()
    described = text.split(f"    {conduct.name} = ")[1].split('"""')[1]
    return {name.strip(" .\n") for name in described.split("Measured:")[1].split(",")}


def test_vendors_differ_in_all_that_the_table_has() -> None:
    assert CONDUCT[Vendor.INTEL] ^ CONDUCT[Vendor.AMD] == Conduct(sum(Conduct))
