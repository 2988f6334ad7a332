"""The checks of the host, and the messages if it lacks something."""

import resource
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, HostError
from ringlet.machine import host
from ringlet.machine.host import Finding, Verdict

CPUINFO = "processor\t: 0\nflags\t\t: fpu bmi2 avx avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    return path


def find(name: str) -> Finding:
    return next(f for f in host.examine() if f.name == name)


def test_flags_are_the_first_processors(cpuinfo: Path) -> None:
    assert host.cpu_flags({}, cpuinfo) == {"fpu", "bmi2", "avx", "avx2"}


def test_hidden_flags_are_absent(cpuinfo: Path) -> None:
    environ = {"RINGLET_HIDE_CPU": "bmi2,avx2 avx"}

    assert host.cpu_flags(environ, cpuinfo) == {"fpu"}


def test_a_misspelt_flag_is_refused(cpuinfo: Path) -> None:
    with pytest.raises(ConfigError, match="RINGLET_HIDE_CPU: Ringlet does not look for 'bmi'"):
        host.cpu_flags({"RINGLET_HIDE_CPU": "bmi,avx2"}, cpuinfo)


def test_memory_size_agrees_with_the_kernel() -> None:
    meminfo = Path("/proc/meminfo").read_text()
    kib = int(meminfo.split("MemTotal:")[1].split()[0])

    assert host.memory_size() == kib * 1024


@pytest.mark.parametrize(("flag", "name"), [("bmi2", "BMI2"), ("fsgsbase", "FSGSBASE")])
def test_a_missing_feature_stops_with_its_name_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, flag: str, name: str
) -> None:
    monkeypatch.setenv("RINGLET_HIDE_CPU", flag)

    with pytest.raises(HostError, match=f"this host lacks {name}: .*; use a processor"):
        host.require()
    assert find(name).verdict is Verdict.MISSING


def test_without_avx2_guests_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLET_HIDE_CPU", "avx2")

    assert find("AVX2").verdict is Verdict.INFO


def test_limited_address_space_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1 << 33, 1 << 33))

    assert find("address space").verdict is Verdict.MISSING
    assert "ulimit -v" in find("address space").remedy


def test_limited_file_size_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1 << 20, 1 << 20))

    assert find("large files").verdict is Verdict.MISSING
    assert "ulimit -f" in find("large files").remedy


def test_what_is_missing_always_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGLET_HIDE_CPU", "bmi2,fsgsbase")

    assert all(f.remedy for f in host.examine() if f.verdict is Verdict.MISSING)


def test_this_host_is_looked_at_without_an_exception() -> None:
    names = [f.name for f in host.examine()]

    assert {"BMI2", "FSGSBASE", "memfd", "MAP_32BIT", "Landlock", "seccomp"} <= set(names)
    assert len(names) == len(set(names))
