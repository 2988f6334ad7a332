"""The error tree and its drawing."""

import errno
import inspect

import pytest

from ringlet import errors
from ringlet.errors import (
    AgentTimeoutError,
    CommandError,
    CommandTimeoutError,
    GuestFileError,
    HostError,
    InternalError,
    RingletError,
    unexpected,
)

CLASSES = [
    c for name, c in inspect.getmembers(errors, inspect.isclass)
    if c.__module__ == "ringlet.errors" and not name.startswith("_")
]  # fmt: skip


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_in_the_drawing(error: type) -> None:
    assert f"─ {error.__name__} " in (errors.__doc__ or "")


COMMANDS = {
    "CommandError": 126, "CommandFailedError": 1, "CommandTimeoutError": 124,
    "ReaderGoneError": 141,
}  # fmt: skip
"""The statuses of shells and of timeout(1); 127 if there is no such program."""


def test_users_mistakes_end_with_status_2_but_those_of_commands() -> None:
    statuses = {c.__name__: c.exit_status for c in CLASSES if issubclass(c, RingletError)}

    assert statuses == dict.fromkeys(statuses, 2) | COMMANDS
    assert CommandError("", errno.ENOENT).exit_status == 127


def test_errors_that_python_knows_too_are_caught_as_such() -> None:
    late = CommandTimeoutError("late", b"\xff", "text")

    assert isinstance(late, TimeoutError)
    assert (late.as_text().stdout, late.as_text().stderr) == ("\udcff", "text")
    assert isinstance(AgentTimeoutError("late"), TimeoutError)
    assert str(GuestFileError(errno.ENOENT, "not there", "/x")) == "/x: not there (in the guest)"


def test_internal_error_shows_its_details_in_one_line() -> None:
    error = InternalError("a link was lost", {"rip": 0x1234, "mode": "long"})

    assert str(error) == "a link was lost (rip=0x1234, mode=long)"


def test_internal_error_without_details() -> None:
    assert str(InternalError("a link was lost")) == "a link was lost"


def test_host_without_threads_is_no_defect() -> None:
    report = unexpected(RuntimeError("can't start new thread"), {"rip": 1})

    assert isinstance(report, HostError)
    assert "pids.max" in str(report)
