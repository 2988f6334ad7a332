"""Hostile 32-bit code and its kept translations: a short run of the campaign."""

import pytest

from tests.fuzz.narrow_bytes import sample
from tests.fuzz.narrow_kept import KINDS, Kept, elsewhere
from tests.fuzz.strings import Task, run_isolated

SEED = 3_000_000


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_kept_fragments_do_what_those_made_anew_do(kind: str) -> None:
    findings = run_isolated(Task(Kept, SEED, 300, kind))

    assert findings.broken == []
    assert findings.reached["compared, kept"] > 5


@pytest.mark.parametrize("kind", KINDS)
def test_code_is_elsewhere_first_where_that_is_the_same_memory(kind: str) -> None:
    places = [sample(kind, SEED + 16 * n)[0] for n in range(60)]
    moved = [one for one in places if elsewhere(one) != one]

    assert all(one.paging != "none" and not one.segments[1][1] for one in moved)
    assert all(0 <= elsewhere(one).rip < 1 << 32 for one in places)
    assert moved
