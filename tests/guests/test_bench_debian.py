"""The driver of `ringlet bench programs` in guests, with rows made here."""

import shutil
from collections.abc import Sequence

import pytest

from ringlet.bench import engines
from ringlet.bench.debian.image import initial_disk
from ringlet.bench.debian.rounds import Place, ProgramsComparison, Settings, compare
from ringlet.bench.debian.rows import Row
from ringlet.errors import ImageError
from ringlet.images.debian import fetch_kernel
from tests.guests.bench_rows import make_place

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("bench"))


def compared(place: Place, chosen: Sequence[str]) -> ProgramsComparison:
    try:
        kernel = fetch_kernel().vmlinuz
    except ImageError as error:
        pytest.skip(f"no Debian kernel: {error}")
    rows = [
        Row("sum", "base", "sum", 3, 3, output="15150\n"),
        Row("rate", "base", "null system call", 1000, 1000, "calls/s", cost=True),
        Row("starts", "base", "starts", 1, 1),
        Row("fails", "base", "fails", 1, 1),
    ]
    with initial_disk(place.image, place.bench) as disk:
        places = {"base": Place(place.image, disk, place.bench, kernel)}
        return compare(rows, places, chosen, Settings(memory=256, limit=60))


def test_ringlet_runs_the_same_rows(place: Place) -> None:
    made = compared(place, ["ringlet"])

    done, rate, starts, fails = made.figures
    assert made.errors == {}
    assert [f.errors for f in (done, rate, starts)] == [{}, {}, {}]
    assert fails.errors == {"ringlet": "run: no such luck"}
    assert done.timings["ringlet"].cpu > 0
    assert made.cost("rate", "ringlet") is not None
    assert 0 < starts.counters["exits"] < made.counters["base"]["exits"]


@pytest.mark.parametrize("engine", [e for e in engines.available() if e in {"qemu", "kvm"}])
def test_qemu_runs_the_same_rows(place: Place, engine: str) -> None:
    made = compared(place, [engine])

    assert made.errors == {}
    assert [f.errors for f in made.figures[:3]] == [{}, {}, {}]
