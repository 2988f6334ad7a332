"""Every bare guest program on every engine: all its checks hold."""

from collections.abc import Callable
from functools import partial

import pytest

from tests.conformance.engines import (
    Outcome,
    run_by_pvh,
    run_disturbed,
    run_on_pc,
    run_qemu,
    run_ringlet,
)
from tests.conformance.qemu_faults import known_fault
from tests.conformance.speculation import SPECULATION, given_up
from tests.guests.build_guest import Guest, program_names

pytestmark = pytest.mark.timeout(120)  # a build and a run, each with a limit of its own

SHUTDOWNS = {"triple_fault"}  # programs that end by a triple fault
PC = {"mmio"}  # programs that need the devices of a PC
CHECKED = [name for name in program_names() if name not in SHUTDOWNS | PC]

GuestFor = Callable[[str], Guest]


def no_known_fault(check: str) -> None:
    """Of an engine that must pass every check."""


def assert_all_checks_hold(outcome: Outcome, known: Callable[[str], str | None]) -> None:
    wrong = [line for name, line in outcome.failed.items() if not known(name)]
    assert not wrong, "\n" + "\n".join(wrong)
    assert outcome.done, "no closing line:\n" + outcome.tail()
    assert outcome.status == (3 if outcome.failed else 1), outcome.tail()


def assert_shut_down(outcome: Outcome, status: int) -> None:
    assert outcome.lines[-1:] == ["about to triple fault"], outcome.tail()
    assert outcome.status == status, outcome.tail()


@pytest.mark.parametrize("name", CHECKED)
def test_program_on_ringlet(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_ringlet(guest_for(name)), partial(given_up, name))


@pytest.mark.parametrize("name", sorted(PC))
def test_program_on_the_pc(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_on_pc(guest_for(name)), no_known_fault)


@pytest.mark.parametrize("name", ["exceptions", "hello", "mmio"])
def test_program_that_begins_in_32_bit_code(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_by_pvh(guest_for(name)), partial(given_up, name))


@pytest.mark.parametrize("name", sorted(SPECULATION))
def test_program_on_exact_ringlet(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_ringlet(guest_for(name), "--exact"), no_known_fault)


STEPPED = (
    "addressing", "devices", "exceptions", "fpu", "memory", "paging_crossing", "selfmod", "strings",
)  # fmt: skip
KICKED = ("debug", "devices", "interrupts", "paging_crossing", "strings")


@pytest.mark.parametrize("name", STEPPED)
def test_program_an_instruction_at_a_time(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_disturbed(guest_for(name), "step"), no_known_fault)


DEBUGGED = (
    ("debug", "debug"), ("debug", "devices"), ("debug", "exceptions"), ("debug", "selfmod"),
    ("debug", "strings"), ("debug", "syscalls"), ("watch", "debug"), ("watch", "devices"),
    ("watch", "interrupts"), ("break", "debug"), ("break", "interrupts"), ("break", "selfmod"),
    ("break", "syscalls"),
)  # fmt: skip


@pytest.mark.parametrize(("mode", "name"), DEBUGGED)
def test_program_that_is_debugged(mode: str, name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_disturbed(guest_for(name), mode), no_known_fault)


@pytest.mark.parametrize("name", KICKED)
def test_program_that_is_often_stopped(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_disturbed(guest_for(name), "kick"), no_known_fault)


def test_marches_on_exact_ringlet(guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_ringlet(guest_for("marches"), "--exact"), no_known_fault)


WIDE = ("addressing", "isolation", "marches", "memory", "paging_rights", "strings")


@pytest.mark.parametrize("name", WIDE)
def test_program_on_a_host_with_57_bit_addresses(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_disturbed(guest_for(name), "wide"), no_known_fault)


@pytest.mark.parametrize("name", sorted(SHUTDOWNS))
def test_triple_fault_shuts_ringlet_down(name: str, guest_for: GuestFor) -> None:
    outcome = run_ringlet(guest_for(name))
    assert_shut_down(outcome, status=3)
    assert "triple fault" in outcome.errors


@pytest.mark.reference
@pytest.mark.parametrize("name", [*CHECKED, *sorted(PC)])
def test_program_on_qemu(name: str, guest_for: GuestFor) -> None:
    assert_all_checks_hold(run_qemu(guest_for(name)), known_fault)


@pytest.mark.reference
@pytest.mark.parametrize("name", sorted(SHUTDOWNS))
def test_triple_fault_shuts_qemu_down(name: str, guest_for: GuestFor) -> None:
    assert_shut_down(run_qemu(guest_for(name)), status=0)  # -no-reboot: a plain exit
