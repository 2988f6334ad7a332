"""Small operating systems of 16- and 32-bit code on each engine: they print what the SDM says."""

from pathlib import Path

import pytest

from tests.guests.assembled import needs_assembler
from tests.guests.small_systems import (
    expected,
    image_of,
    names,
    on_disturbed_ringlet,
    on_qemu,
    on_ringlet,
)

pytestmark = [needs_assembler, pytest.mark.timeout(120)]

PASSED = 1  # the status of a run that wrote 0 to the debug exit port

# Lines that QEMU 7.2's TCG is known to print otherwise, by their beginnings.
_LIMITS = (
    "checks no segment limits and no segment types",
    ("read a byte beyond", "read a word half", "write beyond", "push below", "read the stack below",
     "write code", "write it", "read through null", "jump beyond"),
)  # fmt: skip
_VME = ("has no CR4.VME", ("VME",))
QEMU_DIFFERS = {"ldt16": _LIMITS, "monitor86": _VME}
QEMU_ENDS = {"real16": "goes on beyond FFFFh"}


def without(lines: list[str], beginnings: tuple[str, ...]) -> list[str]:
    return [line for line in lines if not line.startswith(beginnings)]


@pytest.mark.parametrize("name", names())
def test_system_on_ringlet(name: str, tmp_path: Path) -> None:
    assert on_ringlet(image_of(name, tmp_path)) == (PASSED, expected(name))


@pytest.mark.parametrize("name", names())
def test_system_on_exact_ringlet(name: str, tmp_path: Path) -> None:
    assert on_ringlet(image_of(name, tmp_path), "--exact") == (PASSED, expected(name))


@pytest.mark.parametrize("mode", ["step", "kick"])
@pytest.mark.parametrize("name", names())
def test_system_on_disturbed_ringlet(name: str, mode: str, tmp_path: Path) -> None:
    assert on_disturbed_ringlet(image_of(name, tmp_path), mode) == (PASSED, expected(name))


def test_a_boot_sector_is_one_sector(tmp_path: Path) -> None:
    image = image_of("boot_sector", tmp_path).read_bytes()

    assert (len(image), image[-2:]) == (512, b"\x55\xaa")


@pytest.mark.reference
@pytest.mark.parametrize("name", sorted(set(names()) - QEMU_ENDS.keys()))
def test_system_on_qemu(name: str, tmp_path: Path) -> None:
    _, other = QEMU_DIFFERS.get(name, ("", ()))
    status, lines = on_qemu(name, image_of(name, tmp_path), tmp_path)
    assert status == PASSED
    assert without(lines, other) == without(expected(name), other)
