"""What holds for all tests.

Hypothesis makes the same examples each time; nightly runs make new.  A test that is skipped shows
nothing, so in CI (with CI in the environment, or --skip-budget) more skips than `skip_budget` in
pyproject.toml fail the run.

A run in the background ignores the keyboard's signals, and so would the programs that tests start;
they get their usual effects.  What tests have started and left is ended after them.
"""

import gc
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("skip_budget", "how many tests may be skipped in CI", default="0")
    parser.addoption("--skip-budget", type=int, metavar="N",
                     help="fail if more than N tests are skipped (in CI: skip_budget)")


def _budget(config: pytest.Config) -> int | None:
    asked: int | None = config.getoption("--skip-budget")
    if asked is None and os.environ.get("CI"):
        return int(config.getini("skip_budget"))
    return asked


class SkipBudget:
    """Counts the tests that were skipped, and fails a run that has too many of them."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._skipped: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skipped.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._skipped.add(report.nodeid)

    @property
    def _exceeded(self) -> bool:
        return len(self._skipped) > self._budget

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._exceeded and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._exceeded:
            terminalreporter.write_line(
                f"{len(self._skipped)} tests were skipped, {self._budget} may be: "
                "install what they lack, or change skip_budget", red=True)


_MARK = "RINGLET_TESTS"
"""The variable that marks the programs of a run."""


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing.  Programs that are started do not inherit this, as they would SIG_IGN."""


def _left() -> list[int]:
    """Return the processes that this run has started."""
    mark = f"{_MARK}={os.environ[_MARK]}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it is another user's, or has ended
            if (
                process.name.isdecimal()
                and int(process.name) != os.getpid()
                and mark in (process / "environ").read_bytes().split(b"\0")
            ):
                found.append(int(process.name))
    return found


def pytest_unconfigure() -> None:
    for process in _left():
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)


def pytest_configure(config: pytest.Config) -> None:
    os.environ[_MARK] = uuid.uuid4().hex
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, _ignore),
        (signal.SIGHUP, _ignore),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    budget = _budget(config)
    if budget is not None:
        config.pluginmanager.register(SkipBudget(budget), "skip-budget")


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left_of_processors() -> Iterator[None]:
    """Free what cycles of references keep: a processor's code cache is below 2 GiB."""
    yield
    gc.collect()
