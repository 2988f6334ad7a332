"""16- and 32-bit programs and systems on Bochs, and every descriptor there and on Ringlet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.bochs_differs import LINES, known_difference, known_result
from tests.conformance.engines import run_on_bochs, run_ringlet
from tests.conformance.test_narrow import gcc_makes_32_bit_code
from tests.guests.bochs.machine import BOCHS, needs_bochs
from tests.guests.build_guest import Guest
from tests.guests.build_narrow import build_narrow, narrow_names
from tests.guests.small_systems import expected, image_of, names, on_bochs

pytestmark = [pytest.mark.reference(BOCHS), needs_bochs, pytest.mark.timeout(120)]
needs_32_bit_code = pytest.mark.skipif(
    not gcc_makes_32_bit_code(), reason="no gcc for 32-bit code"
)

TABLES = Path(__file__).parents[1] / "guests" / "tables"
PATIENCE = 240.0  # seconds for a table


@needs_32_bit_code
@pytest.mark.parametrize("name", narrow_names())
def test_narrow_program_on_bochs(name: str, tmp_path: Path) -> None:
    image = build_narrow(name, tmp_path)
    outcome = run_on_bochs(Guest(name, image, image), tmp_path)
    wrong = [line for check, line in outcome.failed.items() if not known_difference(check)]
    assert not wrong, "\n" + "\n".join(wrong)
    assert (outcome.status, outcome.done) == (0, True), outcome.tail()


@pytest.mark.parametrize("name", names())
def test_system_on_bochs(name: str, tmp_path: Path) -> None:
    other = LINES.get(name, ())
    ended, lines = on_bochs(image_of(name, tmp_path), tmp_path)
    assert ended
    assert without(lines, other) == without(expected(name), other)


@needs_32_bit_code
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(path.stem for path in TABLES.glob("*.c")))
def test_every_descriptor_on_bochs_and_ringlet(name: str, tmp_path: Path) -> None:
    image = build_narrow(name, tmp_path, TABLES)
    guest = Guest(name, image, image)
    reference = run_on_bochs(guest, tmp_path, PATIENCE)
    outcome = run_ringlet(guest, timeout=PATIENCE)
    assert (reference.status, reference.done) == (0, True), reference.tail()
    assert (outcome.status, outcome.done) == (1, True), outcome.tail()
    wrong = list(differences(reference.lines, outcome.lines))
    assert not wrong, f"{len(wrong)} results differ:\n" + "\n".join(wrong[:40])


def differences(reference: list[str], lines: list[str]) -> Iterator[str]:
    """Yield what differs in two tables and is not known to, with the line's title."""
    assert [title(line) for line in lines] == [title(line) for line in reference]
    for bochs, ringlet in zip(reference, lines, strict=True):
        for theirs, ours in zip(bochs.split(), ringlet.split(), strict=True):
            if theirs != ours and not known_result(title(bochs), theirs, ours):
                yield f"{title(bochs)}: Bochs {theirs}, Ringlet {ours}"


def title(line: str) -> str:
    """Return what a line of a table is about."""
    return line.partition(":")[0]


def without(lines: list[str], beginnings: tuple[str, ...]) -> list[str]:
    return [line for line in lines if not line.startswith(beginnings)]
