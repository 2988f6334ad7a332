"""The commands of `ringlet bench`."""

import pytest
from typer.testing import CliRunner

from ringlet.bench import engines
from ringlet.cli.bench import bench_app
from ringlet.errors import ConfigError


def test_an_unknown_engine_is_the_users_mistake() -> None:
    result = CliRunner().invoke(bench_app, ["cpu", "--engine", "bochs"])

    assert isinstance(result.exception, ConfigError)
    assert "choose from native, ringlet, qemu" in str(result.exception)


def test_qemu_must_be_installed_to_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available", lambda: ["native", "ringlet"])

    result = CliRunner().invoke(bench_app, ["nano", "--engine", "qemu"])

    assert isinstance(result.exception, ConfigError)
    assert "install QEMU" in str(result.exception)


def test_there_are_four_benchmarks() -> None:
    result = CliRunner().invoke(bench_app, ["--help"])

    assert all(name in result.output for name in ("cpu", "nano", "linux", "translate"))
