"""`ringlet.Machine`, without a guest."""

import pytest

import ringlet
from ringlet.errors import ConfigError, ProgramError


def test_a_machine_that_was_not_started() -> None:
    with ringlet.Machine("/nonexistent") as machine, pytest.raises(ConfigError, match="boot"):
        machine.wait()


def test_a_kernel_that_is_not_there() -> None:
    with ringlet.Machine("/nonexistent") as machine, pytest.raises(ProgramError, match="no such"):
        machine.boot()


def test_a_wrong_size() -> None:
    with pytest.raises(ConfigError, match="not a size"):
        ringlet.Machine("/nonexistent", memory="much")


def test_the_package_has_no_more_than_it_says() -> None:
    assert set(ringlet.__all__) == {"Console", "Machine"}
    with pytest.raises(AttributeError):
        _ = ringlet.Nothing
