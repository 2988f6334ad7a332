"""Interleaving, the best of rounds, traps, and runs that fail."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from ringlet.bench.debian.image import Image
from ringlet.bench.debian.results import Timing
from ringlet.bench.debian.rounds import (
    Figures,
    Place,
    ProgramsComparison,
    Settings,
    compare,
    memory,
    program,
)
from ringlet.bench.debian.rows import Row, fnv
from ringlet.bench.devices import Devices
from ringlet.bench.engines import Transcript
from ringlet.bench.gauge import Gauge
from ringlet.bench.output import Line

PERL = Row("perl", "base", "perl program", 3, 1)
RSA = Row("rsa", "base", "RSA", 1, 1, "signs/s", output="OK\n")
LOOP = Row("loop", "python", "loop", 20, 2)
CALL = Row("getppid", "base", "null system call", 1, 1, "calls/s", cost=True)
FAULT = Row("fault", "base", "page fault", 1, 1, "faults/s", cost=True)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Place]:
    archive = tmp_path / "tree.cpio"
    archive.write_bytes(bytes(3 << 20))
    image = Image(tmp_path / "tree", archive, {"perl": "5.36"})
    place = Place(image, Path("/disk"), Path("/bench"), Path("/vmlinuz"))
    return {"base": place, "python": place}


def end(name: str, ms: int, checksum: str = "aa", rate: str = "", status: str = "0") -> list[Line]:
    """Lines of a row that takes some ms."""
    text = f"row {name} end {status} {ms * 10**6} {ms * 9 * 10**5} 5 100 {checksum} {rate}"
    return [Line(0, f"row {name} begin"), Line(ms * 10**6, text)]


def transcript(*rows: list[Line], status: int = 0, done: bool = True) -> Transcript:
    lines = [line for row in rows for line in row]
    return Transcript([*lines, Line(0, "driver: done" if done else "")], status, "exits  7 exits")


class Runs:
    """Hands out prepared transcripts by engine and remembers the order of the calls."""

    def __init__(self, calls: dict[str, int] | None = None, **prepared: list[Transcript]) -> None:
        counted = [Line(0, f"row {name} calls {n}") for name, n in (calls or {}).items()]
        self.counted = transcript(counted)
        self.prepared = prepared
        self.order: list[str] = []

    def __call__(self, argv: list[str], timeout: float, ask: str) -> Transcript:
        if "count" in argv:
            return self.counted
        engine = "native" if argv[1] == "native" else "qemu" if "qemu" in argv[0] else "ringlet"
        names = next(text for text in argv if "loop:" in text or "perl:" in text or "rsa:" in text)
        assert ask == ("row " if engine == "ringlet" else "")
        self.order.append(f"{engine} {'python' if 'loop:' in names else 'base'}")
        return self.prepared[engine].pop(0)


def of(made: ProgramsComparison, name: str) -> Figures:
    return next(figures for figures in made.figures if figures.row.name == name)


def test_engines_take_turns_in_each_group(places: dict[str, Place]) -> None:
    runs = Runs(
        native=[transcript(end(name, 10)) for name in ("perl", "loop") * 2],
        qemu=[transcript(end(name, 50)) for name in ("perl", "loop") * 2],
    )

    compare([LOOP, PERL], places, ["native", "qemu"], Settings(rounds=2), runner=runs)

    once = ["native base", "qemu base", "native python", "qemu python"]
    assert runs.order == once * 2


def test_a_figure_is_the_best_of_the_rounds(places: dict[str, Place]) -> None:
    key = fnv(b"OK\n")
    runs = Runs(native=[
        transcript(end("perl", 12), end("rsa", 9, key, "100 1.0")),
        transcript(end("perl", 10), end("rsa", 9, key, "300 1.0")),
        transcript(end("perl", 11), end("rsa", 9, key, "200 1.0")),
    ])  # fmt: skip

    made = compare([PERL, RSA], places, ["native"], Settings(rounds=3), runner=runs)

    assert of(made, "perl").time("native") == 10 * 10**6
    assert of(made, "rsa").time("native") == pytest.approx(1e9 / 300)


def test_the_mean_is_of_programs_and_not_of_costs(places: dict[str, Place]) -> None:
    runs = Runs(
        native=[transcript(end("perl", 10), end("getppid", 9, rate="1000 1"))],
        ringlet=[transcript(end("perl", 40), end("getppid", 9, rate="10 1"))],
    )

    made = compare([CALL, PERL], places, ["native", "ringlet"], Settings(), runner=runs)

    assert made.mean("ringlet", "native") == pytest.approx(4.0)
    assert of(made, "getppid").ratio("ringlet", "native") == pytest.approx(100)


def test_traps_are_calls_and_faults_for_a_second_of_user_time(places: dict[str, Place]) -> None:
    runs = Runs(calls={"perl": 350}, native=[transcript(end("perl", 500))])

    made = compare([PERL], places, ["native"], Settings(), runner=runs)

    assert of(made, "perl").traps == 450
    assert of(made, "perl").trap_rate == pytest.approx(1000)


def test_the_cost_of_traps_is_what_the_engine_takes_for_them(places: dict[str, Place]) -> None:
    runs = Runs(
        calls={"perl": 50},
        native=[transcript(end("perl", 10))],
        ringlet=[transcript(end("perl", 10), end("getppid", 9, rate="2000000 1"),
                            end("fault", 9, rate="100000 1"))],
    )  # fmt: skip

    made = compare([CALL, FAULT, PERL], places, ["native", "ringlet"], Settings(), runner=runs)

    assert made.trap_time(of(made, "perl")) == pytest.approx(50 * 500 + 100 * 10_000)


def test_output_unlike_the_native_one_is_no_figure(places: dict[str, Place]) -> None:
    runs = Runs(native=[transcript(end("perl", 10))], qemu=[transcript(end("perl", 9, "ab"))])

    made = compare([PERL], places, ["native", "qemu"], Settings(), runner=runs)

    assert of(made, "perl").errors == {"qemu": "wrong result"}
    assert of(made, "perl").ratio("qemu", "native") is None


def test_output_that_is_known_must_be_right_natively_too(places: dict[str, Place]) -> None:
    runs = Runs(native=[transcript(end("rsa", 10, rate="1 1"))])

    made = compare([RSA], places, ["native"], Settings(), runner=runs)

    assert of(made, "rsa").errors == {"native": "wrong result"}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (end("perl", 10, status="late"), "over its time"),
        (end("perl", 10, status="11"), "ended with status 11"),
        ([Line(0, "row perl said prepare: no file")], "prepare: no file"),
        ([], "not run"),
    ],
)
def test_a_row_that_fails_says_why(
    places: dict[str, Place], lines: list[Line], reason: str
) -> None:
    runs = Runs(native=[transcript(lines)])

    made = compare([PERL], places, ["native"], Settings(), runner=runs)

    assert of(made, "perl").errors == {"native": reason}


def test_a_guest_with_a_slow_clock_has_no_figure(places: dict[str, Place]) -> None:
    begin, ended = end("perl", 1000)
    late = Line(ended.arrived * 3, ended.text)
    runs = Runs(qemu=[transcript([begin, late])])

    made = compare([PERL], places, ["qemu"], Settings(), runner=runs)

    assert of(made, "perl").errors == {"qemu": "its clock said 1.00 s, the host's 3.00 s"}


def test_an_engine_that_fails_in_a_group_goes_on_in_others(places: dict[str, Place]) -> None:
    died = transcript(end("perl", 10), status=3, done=False)
    runs = Runs(ringlet=[died, transcript(end("loop", 5)), transcript(end("loop", 4))])

    made = compare([LOOP, PERL], places, ["ringlet"], Settings(rounds=2), runner=runs)

    assert made.errors == {"ringlet, base": "ended with status 3: exits  7 exits"}
    assert runs.order == ["ringlet base", "ringlet python", "ringlet python"]
    assert of(made, "perl").time("ringlet") == 10 * 10**6


def test_counters_are_kept_by_group_and_by_row(places: dict[str, Place]) -> None:
    stderr = (
        "counters at 1 ns\nexits  10 exits\n\n"
        "counters at 10000001 ns\nexits  25 exits\n\nexits  30 exits"
    )
    runs = Runs(ringlet=[replace(transcript(end("perl", 10)), stderr=stderr)])

    made = compare([PERL], places, ["ringlet"], Settings(), runner=runs)

    assert made.counters == {"base": {"exits": 30}}
    assert of(made, "perl").counters == {"exits": 15}
    assert made.versions == {"perl": "5.36"}


def test_the_same_driver_and_rows_run_natively_and_in_a_guest(places: dict[str, Place]) -> None:
    place = places["base"]

    made = program(place, [PERL, RSA], Settings(quick=True, limit=60))

    tree = str(place.image.tree)
    assert made.native_arguments == ("native", tree, "/bench", "perl:1,rsa:1", "60")
    assert made.kernel_arguments == "rootfstype=ramfs -- perl:1,rsa:1 60"
    assert (made.native, made.guest, made.kernel) == (
        Path("/bench/driver"), Path("/disk"), Path("/vmlinuz"),
    )  # fmt: skip


def test_a_row_alone_has_a_guest_of_its_own(places: dict[str, Place]) -> None:
    rows = [Row("disk-read", "disk", "read", 1, 1), Row("disk-write", "disk", "write", 1, 1)]
    seen: list[str] = []

    def run(argv: list[str], timeout: float, ask: str) -> Transcript:
        seen.append(next(text for text in argv if text.startswith("disk-")))
        return transcript(end(seen[-1].partition(":")[0], 10), done=seen[-1] != "disk-read:1")

    made = compare(rows, {"disk": places["base"]}, ["native"], Settings(counting=False), runner=run)

    assert seen == ["disk-read:1", "disk-write:1"]
    assert list(made.errors) == ["native, disk-read"]


def test_devices_become_part_of_the_command(places: dict[str, Place], tmp_path: Path) -> None:
    devices = Devices(tmp_path, shared=True, port=40000)
    place = replace(places["base"], devices=devices)

    made = program(place, [PERL], Settings())

    assert made.native_arguments[-3:] == ("perl:3:40000", "300", str(tmp_path))
    assert made.kernel_arguments == "rootfstype=ramfs share=ringlet-0 -- perl:3:40000 300"


def test_a_guest_has_room_for_its_image_twice(places: dict[str, Place]) -> None:
    assert memory(places["base"], Settings()) == 1280 + 2 * 3
    assert memory(places["base"], Settings(memory=900)) == 900


class Paces:
    """A gauge that has two paces, and learns of the best one last."""

    best = 0.01

    def __init__(self) -> None:
        self.chosen = 0

    def choose(self) -> int:
        self.chosen += 1
        return 0

    def pace(self, began: int, ended: int) -> float | None:
        return 0.002 if self.chosen == 1 else 0.01


def test_the_best_of_the_rounds_is_that_at_full_speed(places: dict[str, Place]) -> None:
    runs = Runs(native=[transcript(end("perl", 15)), transcript(end("perl", 10))])
    paces = Paces()

    made = compare(
        [PERL], places, ["native"], Settings(rounds=2), runner=runs, gauge=cast("Gauge", paces)
    )

    assert paces.chosen == 2
    timing = of(made, "perl").timings["native"]
    assert timing.wall == 15 * 10**6
    assert timing.speed == pytest.approx(0.2)


def test_figures_without_a_native_run_have_no_trap_rate() -> None:
    figures = Figures(PERL, {"qemu": Timing("0", 5, 5, 5, 5, "aa")}, calls=7)

    assert (figures.traps, figures.trap_rate) == (None, None)
