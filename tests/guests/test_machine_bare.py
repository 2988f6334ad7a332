"""`ringlet.Machine` with a program for the bare machine."""

from pathlib import Path

import pytest

import ringlet
from ringlet import FlatPlace, Machine, MachineSpec
from ringlet.errors import ConfigError
from ringlet.machine.outcome import EndKind
from tests.guests.assembled import flat, linked, needs_assembler

pytestmark = [needs_assembler, pytest.mark.timeout(60)]

SILENT = """
    .code16
    mov $3, %cx
1:  inc %ax
    loop 1b
    mov $0x15, %al
    out %al, $0xf4
"""
"""Prints nothing; the instruction at 7C03h runs three times."""
ECHO = """
    mov $'>', %al
    mov $0x3f8, %edx
    out %al, %dx
1:  mov $0x3fd, %edx
    in %dx, %al
    test $1, %al
    jz 1b
    mov $0x3f8, %edx
    in %dx, %al
    out %al, %dx
    cmp $'q', %al
    jne 1b
    cli
    hlt
"""


@pytest.fixture
def sector(tmp_path: Path) -> Path:
    return flat(SILENT, tmp_path, start=0x7C00)


def test_addresses_are_held_from_the_first_instruction_on(sector: Path) -> None:
    hits: list[int] = []
    with ringlet.Machine(program=sector, flat="16@0x7c00") as machine:
        for place in ("0x7c00", "0x7c03", "0x07C03"):
            machine.on(f"break:{place}", lambda: hits.append(machine.cpu["rip"]))
        machine.start()
        end = machine.wait(timeout=30)

    assert hits == [0x7C00, *[0x7C03] * 6]
    assert (end.kind, end.status) == (EndKind.DEBUG_EXIT, 2 * 0x15 + 1)


def test_a_spec_describes_a_bare_machine(sector: Path) -> None:
    spec = MachineSpec(program=sector, flat=FlatPlace(16, 0, 0x7C00), memory=2 << 20)
    with Machine.of(spec) as machine:
        machine.start()

        assert machine.wait(timeout=30).status == 2 * 0x15 + 1


def test_its_console_sends_and_receives(tmp_path: Path) -> None:
    program = linked(".code32\n" + ECHO, tmp_path)
    with ringlet.Machine(program=program, memory="16M") as machine:
        machine.start()
        machine.console.expect(">")
        machine.console.send("abq")
        said = machine.console.expect("q")
        end = machine.wait(timeout=30)

    assert said == "abq"
    assert end.kind is EndKind.HALTED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "bzImage"}, "kernel has no effect with a bare program; leave it out"),
        ({"guest": "busybox"}, "a bare program needs no guest; leave out one of the two"),
        ({"net": "user"}, "net has no effect with a bare program"),
        ({"memory": "1G", "flat": "16@x"}, "flat '16@x': not an address"),
    ],
)
def test_what_a_bare_program_has_no_use_for(
    sector: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ringlet.Machine(program=sector, **{"flat": "16@0x7c00", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("break:main", "only Linux kernels have symbols; give break:0xADDRESS"),
        ("break:0x", "give a symbol or a number such as 0xff"),
        ("break:0x1" + 16 * "0", "does not fit in 64 bits"),
    ],
)
def test_places_that_can_be_none(sector: Path, event: str, message: str) -> None:
    machine = ringlet.Machine(program=sector, flat="16@0x7c00")

    with pytest.raises(ConfigError, match=message):
        machine.on(event, print)
