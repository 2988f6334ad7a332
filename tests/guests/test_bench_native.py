"""The driver of `ringlet bench programs` on the host, with rows made here."""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringlet.bench import engines
from ringlet.bench.debian.results import Results, parse
from ringlet.bench.debian.rounds import Place
from ringlet.bench.debian.rows import fnv
from tests.guests.bench_rows import make_place

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host"),
    pytest.mark.timeout(300),
]

# New mounts and processes, as root or in a user namespace.
_UNSHARE = """
import ctypes, sys
unshare = ctypes.CDLL(None).unshare
sys.exit(unshare(0x30020000) != 0 and unshare(0x20020000) != 0)
"""
if subprocess.run([sys.executable, "-c", _UNSHARE], check=False).returncode:
    pytest.skip("this host allows no user namespaces", allow_module_level=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("bench"))


def run(place: Place, how: str, rows: str, limit: int = 60) -> Results:
    argv = [str(place.bench / "driver"), how, str(place.image.tree), str(place.bench), rows,
            str(limit)]  # fmt: skip
    return parse(engines.run(argv, 200).lines)


def test_a_row_is_prepared_and_run_and_its_output_hashed(place: Place) -> None:
    timing = run(place, "native", "sum:3").timings["sum"]

    assert (timing.status, timing.checksum) == ("0", fnv(b"15150\n"))
    assert 0 < timing.wall < 60 * 10**9
    assert timing.faults > 0
    assert not timing.clock_is_wrong


def test_each_row_begins_with_an_empty_directory_and_the_usual_devices(place: Place) -> None:
    results = run(place, "native", "tmp:1,tmp:1")

    assert results.timings["tmp"].checksum == fnv(b"/dev/null\n/proc/self/exe\n")


def test_system_calls_of_a_row_and_its_children_are_counted(place: Place) -> None:
    few, many = run(place, "count", "rate:10"), run(place, "count", "rate:3010")
    starts = run(place, "count", "starts:1")

    assert many.calls["rate"] - few.calls["rate"] == 3000
    # Each child calls execve and exit_group at least.
    assert starts.calls["starts"] > 8


def test_page_faults_of_a_row_are_counted(place: Place) -> None:
    results = run(place, "native", "faults:2048,rate:10")

    more = results.timings["faults"].faults - results.timings["rate"].faults
    assert 2000 < more < 2148


def test_a_row_that_fails_says_why_and_the_next_one_runs(place: Place) -> None:
    results = run(place, "native", "fails:1,unready:1,sum:1")

    assert results.timings["fails"].status == str(3 << 8)
    assert results.said["fails"] == "run: no such luck"
    assert "missing" in results.said["unready"]
    assert results.timings["sum"].checksum == fnv(b"5050\n")
    assert results.done


def test_a_row_over_its_time_is_ended(place: Place) -> None:
    results = run(place, "native", "late:1,sum:1", limit=1)

    assert results.timings["late"].status == "late"
    assert 10**9 <= results.timings["late"].wall < 30 * 10**9
    assert results.timings["sum"].status == "0"


@pytest.mark.parametrize("how", ["native", "count"])
def test_processes_that_a_row_leaves_are_ended(place: Place, how: str) -> None:
    results = run(place, how, "leaves:1,sum:1")

    assert (results.done, results.said) == (True, {})


def sleepers() -> int:
    """Return how many processes run the row `lasts`."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended
            found += path.read_bytes() == b"sleep\x0098765\x00"
    return found


def test_rows_end_with_a_driver_that_is_killed(place: Place) -> None:
    run(place, "native", "sum:1")
    argv = [str(place.bench / "driver"), "native", str(place.image.tree), str(place.bench),
            "lasts:1", "99"]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as driver:
        while not sleepers():
            time.sleep(0.05)
        driver.kill()
    deadline = time.monotonic() + 30
    while sleepers() and time.monotonic() < deadline:
        time.sleep(0.05)

    assert sleepers() == 0


def test_a_tree_that_is_missing_is_named(place: Place) -> None:
    argv = [str(place.bench / "driver"), "native", "/nonexistent", str(place.bench), "sum:1", "9"]
    transcript = engines.run(argv, 60)
    results = parse(transcript.lines)

    assert results.complaint == "/nonexistent failed with error 2"
    assert transcript.status == 3
