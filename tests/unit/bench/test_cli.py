"""The commands of `ringlet bench`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringlet.bench import engines
from ringlet.cli.bench import bench_app
from ringlet.errors import ConfigError, RingletError


def test_an_unknown_engine_is_the_users_mistake() -> None:
    result = CliRunner().invoke(bench_app, ["cpu", "--engine", "bochs"])

    assert isinstance(result.exception, ConfigError)
    assert "choose from native, ringlet, qemu, kvm" in str(result.exception)


def test_qemu_must_be_installed_to_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available", lambda: ["native", "ringlet"])

    result = CliRunner().invoke(bench_app, ["nano", "--engine", "qemu"])

    assert isinstance(result.exception, ConfigError)
    assert "install QEMU" in str(result.exception)


def test_kvm_must_be_usable_to_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available", lambda: ["native", "ringlet", "qemu"])

    result = CliRunner().invoke(bench_app, ["programs", "--engine", "kvm"])

    assert isinstance(result.exception, ConfigError)
    assert "and /dev/kvm" in str(result.exception)


def test_an_unknown_row_is_the_users_mistake_before_anything_is_fetched() -> None:
    result = CliRunner().invoke(bench_app, ["programs", "--rows", "perl,cobol"])

    assert isinstance(result.exception, ConfigError)
    assert "no row 'cobol'" in str(result.exception)


@pytest.mark.parametrize("name", ["linux", "programs"])
def test_a_kernel_must_be_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "vmlinuz").write_bytes(bytes(4096))

    result = CliRunner().invoke(bench_app, [name, "--kernel", str(tmp_path / "vmlinuz")])

    assert isinstance(result.exception, RingletError)
    assert "vmlinuz" in str(result.exception)


def test_a_row_of_another_benchmark_is_unknown_before_anything_is_fetched() -> None:
    result = CliRunner().invoke(bench_app, ["io", "--rows", "perl"])

    assert isinstance(result.exception, ConfigError)
    assert "choose from disk-write, disk-read" in str(result.exception)


def test_there_are_six_benchmarks() -> None:
    result = CliRunner().invoke(bench_app, ["--help"])

    names = ("cpu", "nano", "linux", "programs", "io", "translate")
    assert all(name in result.output for name in names)
