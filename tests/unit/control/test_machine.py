"""`ringlet.Machine`, without a guest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringlet
from ringlet import Console
from ringlet.errors import ConfigError, ProgramError, RingletError
from tests.unit.machine.kernel_maker import BzImage


def test_a_machine_that_was_not_started() -> None:
    with ringlet.Machine("/nonexistent") as machine, pytest.raises(ConfigError, match="boot"):
        machine.wait()


@pytest.mark.parametrize("use", [Console.expect, Console.send])
def test_the_console_of_a_machine_that_was_not_started(
    use: Callable[[Console, str], object],
) -> None:
    machine = ringlet.Machine("/nonexistent")

    with pytest.raises(ConfigError, match="this machine was not started; call boot"):
        use(machine.console, "# ")


def test_a_kernel_that_is_not_there() -> None:
    with ringlet.Machine("/nonexistent") as machine, pytest.raises(ProgramError, match="no such"):
        machine.boot()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("wrong", [{"append": "x" * 5000}, {"initrd": b""}])
def test_refused_machines_take_no_memory(tmp_path: Path, wrong: dict[str, Any]) -> None:
    kernel = BzImage().write(tmp_path / "vmlinuz")
    with ringlet.Machine(kernel, **wrong) as machine, pytest.raises(RingletError):
        machine.boot()
    before = descriptors()
    for _ in range(3):
        with ringlet.Machine(kernel, **wrong) as machine, pytest.raises(RingletError):
            machine.boot()

    assert descriptors() == before


def test_wrong_values_are_called_by_the_parameters_name() -> None:
    with pytest.raises(ConfigError, match=r"^memory 'much': not a size"):
        ringlet.Machine("/nonexistent", memory="much")
    with pytest.raises(ConfigError, match=r"^direct often: "):
        ringlet.Machine("/nonexistent", direct="often")
    with pytest.raises(ConfigError, match=r"^memory 64: too small; give at least 96M"):
        ringlet.Machine.debian(memory=64)
    with pytest.raises(ConfigError, match=r"^direct often: "):
        ringlet.Machine.debian(direct="often")


def test_the_package_has_no_more_than_it_says() -> None:
    assert set(ringlet.__all__) == {"Console", "Machine"}
    with pytest.raises(AttributeError):
        _ = ringlet.Nothing
