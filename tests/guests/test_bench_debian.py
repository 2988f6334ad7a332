"""The driver of `ringlet bench programs`, natively and in guests, with rows made here."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ringlet.bench import engines
from ringlet.bench.debian.image import Image, initial_disk
from ringlet.bench.debian.results import Results, parse
from ringlet.bench.debian.rounds import Place, ProgramsComparison, Settings, compare
from ringlet.bench.debian.rows import Row, fnv
from ringlet.bench.toolchain import build_driver
from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.cpio import CpioWriter
from ringlet.images.debian import fetch_kernel

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host"),
    pytest.mark.timeout(300),
]

READY = "prepare() { :; }\n"
SCRIPTS = {
    "sum": """
        prepare() { seq 100 >numbers; }
        run() { awk '{ n += $1 * ENVIRON["N"] } END { print n }' numbers; }
    """,
    "rate": READY + 'run() { /bench/driver getppid "$N" >rate; }',
    "faults": READY + 'run() { /bench/driver fault "$N" >rate; }',
    "starts": READY + "run() { for i in 1 2 3 4; do busybox true; done; echo $i; }",
    "fails": READY + "run() { echo 'no such luck' >&2; return 3; }",
    "unready": "prepare() { cat missing; }\nrun() { :; }",
    "late": READY + "run() { sleep 100; }",
    "lasts": READY + "run() { sleep 98765; }",
    "leaves": READY + "run() { sleep 100 & echo left; }",
    "tmp": READY + "run() { ls /tmp/row; touch /tmp/row/x; ls /dev/null /proc/self/exe; }",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    directory = tmp_path_factory.mktemp("bench")
    tree, bench = directory / "tree", directory / "bench"
    for name in ("bin", "bench", "dev", "proc", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    busybox = find_busybox()
    shutil.copy(busybox, tree / "bin/busybox")
    for name in ("sh", "awk", "seq", "sleep", "cat", "ls", "touch"):
        (tree / "bin" / name).symlink_to("busybox")
    (bench / "rows").mkdir(parents=True)
    for name, text in SCRIPTS.items():
        (bench / "rows" / f"{name}.sh").write_text(text)
    shutil.copy(build_driver(directory / "cache"), bench / "driver")
    with (directory / "tree.cpio").open("wb") as file:
        archive = CpioWriter(file)
        for name in sorted(path.name for path in tree.iterdir()):
            archive.directory(name)
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        for path in (tree / "bin").iterdir():
            if path.is_symlink():
                archive.symlink(f"bin/{path.name}", "busybox")
        archive.character_device("dev/console", 5, 1)
        archive.end()
    return Place(Image(tree, directory / "tree.cpio", {}), Path("unused"), bench, Path("unused"))


def run(place: Place, how: str, rows: str, limit: int = 60) -> Results:
    argv = [str(place.bench / "driver"), how, str(place.image.tree), str(place.bench), rows,
            str(limit)]  # fmt: skip
    results = parse(engines.run(argv, 200).lines)
    if (results.complaint or "").startswith("unshare failed"):
        pytest.skip("this host allows no user namespaces")
    return results


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
    if (results.complaint or "").startswith("unshare failed"):
        pytest.skip("this host allows no user namespaces")

    assert results.complaint == "/nonexistent failed with error 2"
    assert transcript.status == 3


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
