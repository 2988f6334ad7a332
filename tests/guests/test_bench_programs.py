"""The benchmark programs themselves: built, run natively and under QEMU."""

import shutil
from pathlib import Path

import pytest

from ringlet.bench import engines
from ringlet.bench.output import Output, parse, ticks_per_ns
from ringlet.bench.rounds import BOOT, START, boot_times, failure
from ringlet.bench.toolchain import Program, build, build_linux
from ringlet.errors import ImageError
from ringlet.images.debian import fetch_kernel

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host")
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="no QEMU on this host"
)
pytestmark = [needs_gcc, pytest.mark.timeout(300)]

LINUX_ROWS = {
    "chase", "heapsort", "qsort", "fib", "matmul", "crc32",
    "getppid", "pipe", "fault", "fork", "exec",
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def output_of(engine: str, name: str, cache: Path) -> Output:
    return run(engine, build(name, cache))


def run(engine: str, program: Program, memory: int = 128) -> Output:
    transcript = engines.run(engines.command(engine, program, memory), 240)
    output = parse(transcript.lines)
    assert failure(engine, program, transcript, output, 240) is None
    output.times = boot_times(transcript, output)
    return output


@pytest.fixture(scope="module")
def linux(cache: Path) -> Program:
    try:
        kernel = fetch_kernel().vmlinuz
    except ImageError as error:
        pytest.skip(f"no Debian kernel: {error}")
    return build_linux(kernel, cache)


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
        "syscall", "call", "smc", "int80", "in", "out", "cr8", "apicread", "apicwrite",
        "deviceread", "devicewrite", "divide", "pagefault", "pte", "cr3", "timer",
    }  # fmt: skip
    # On a busy host nobody can tell what the interrupts of a timer cost.
    told = [m for name, m in output.measurements.items() if name != "timer"]
    assert all(m.ticks > 0 and m.count > 0 for m in told)


@needs_qemu
def test_the_counter_under_qemu_runs_at_the_host_rate(cache: Path) -> None:
    host = ticks_per_ns(output_of("native", "nano", cache), None)
    guest = output_of("qemu", "nano", cache)

    assert host is not None
    assert ticks_per_ns(guest, host) == host


def test_the_linux_program_measures_sections_and_system_calls_natively(cache: Path) -> None:
    output = run("native", build_linux(Path("unused"), cache))

    assert set(output.measurements) == LINUX_ROWS
    assert all(m.ticks > 0 and m.count > 0 for m in output.measurements.values())
    assert ticks_per_ns(output, None) is not None


def test_linux_under_ringlet_agrees_with_the_host(linux: Program) -> None:
    native, guest = run("native", linux), run("ringlet", linux, 512)

    expected = {name: m.checksum for name, m in native.measurements.items()}
    assert {name: m.checksum for name, m in guest.measurements.items()} == expected
    assert 0 < guest.times[BOOT] < guest.times[START]
    assert ticks_per_ns(guest, ticks_per_ns(native, None)) == ticks_per_ns(native, None)


@needs_qemu
def test_linux_under_qemu_tells_when_its_kernel_is_entered(linux: Program) -> None:
    guest = run("qemu", linux, 512)

    assert set(guest.measurements) == LINUX_ROWS
    assert 0 < guest.times[BOOT] < guest.times[START]
