"""The error tree and its drawing."""

import inspect

import pytest

from ringlet import errors
from ringlet.errors import HostError, InternalError, RingletError, unexpected

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == "ringlet.errors"
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_in_the_drawing(error: type) -> None:
    assert f"─ {error.__name__} " in (errors.__doc__ or "")


def test_users_mistakes_end_with_status_2() -> None:
    assert {c.exit_status for c in CLASSES if issubclass(c, RingletError)} == {2}


def test_internal_error_shows_its_details_in_one_line() -> None:
    error = InternalError("a link was lost", {"rip": 0x1234, "mode": "long"})

    assert str(error) == "a link was lost (rip=0x1234, mode=long)"


def test_internal_error_without_details() -> None:
    assert str(InternalError("a link was lost")) == "a link was lost"


def test_host_without_threads_is_no_defect() -> None:
    report = unexpected(RuntimeError("can't start new thread"), {"rip": 1})

    assert isinstance(report, HostError)
    assert "pids.max" in str(report)
