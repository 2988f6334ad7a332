"""The benchmark programs themselves: built, run natively and under QEMU."""

import shutil
from pathlib import Path

import pytest

from ringlet.bench import engines
from ringlet.bench.output import Output, parse, ticks_per_ns
from ringlet.bench.rounds import failure
from ringlet.bench.toolchain import build

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host")
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="no QEMU on this host"
)
pytestmark = [needs_gcc, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def output_of(engine: str, name: str, cache: Path) -> Output:
    transcript = engines.run(engines.command(engine, build(name, cache), 128), 240)
    output = parse(transcript.lines)
    assert failure(engine, transcript, output, 240) is None
    return output


def test_a_program_is_built_once_for_a_state_of_its_sources(cache: Path) -> None:
    first = build("nano", cache).guest.stat()
    second = build("nano", cache).guest.stat()

    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)


def test_native_sections_take_a_measurable_time(cache: Path) -> None:
    output = output_of("native", "cpu", cache)

    rate = ticks_per_ns(output, None)
    assert rate is not None
    assert len(output.measurements) == 10
    assert all(m.ticks / rate > 10e6 for m in output.measurements.values())


@needs_qemu
def test_native_and_guest_checksums_agree(cache: Path) -> None:
    native, guest = output_of("native", "cpu", cache), output_of("qemu", "cpu", cache)

    expected = {name: m.checksum for name, m in native.measurements.items()}
    assert {name: m.checksum for name, m in guest.measurements.items()} == expected


@needs_qemu
def test_the_guest_measures_every_primitive(cache: Path) -> None:
    output = output_of("qemu", "nano", cache)

    assert set(output.measurements) == {
        "syscall", "call", "smc", "int80", "in", "out", "cr8", "divide", "pagefault", "pte",
        "cr3", "timer",
    }  # fmt: skip
    assert all(m.ticks > 0 and m.count > 0 for m in output.measurements.values())


@needs_qemu
def test_the_counter_under_qemu_runs_at_the_host_rate(cache: Path) -> None:
    host = ticks_per_ns(output_of("native", "nano", cache), None)
    guest = output_of("qemu", "nano", cache)

    assert host is not None
    assert ticks_per_ns(guest, host) == host
