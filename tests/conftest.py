"""What holds for all tests.

Hypothesis makes the same examples each time; nightly runs make new.  A test that is skipped shows
nothing, so in CI (with CI in the environment, or --skip-budget) more skips than `skip_budget` in
pyproject.toml fail the run.
"""

import os

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


def pytest_configure(config: pytest.Config) -> None:
    budget = _budget(config)
    if budget is not None:
        config.pluginmanager.register(SkipBudget(budget), "skip-budget")
