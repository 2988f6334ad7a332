"""The pytest plugin, with a machine that only records what it is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

FAKE = """
import types

import pytest
import ringlet.control.machine as module
from ringlet.errors import BootError, ImageError

told = []

class Machine:
    def __init__(self, *args, **options):
        told.append(("made", args, options))
        self.options = options
        guest = "" if "guestless" in args else "debian"
        self.spec = types.SimpleNamespace(guest=guest, image="", root=None)
        if options.get("memory") == "none":
            raise ImageError("nothing can be fetched")

    def start(self):
        told.append("started")
        return self

    def ready(self):
        told.append("ready")
        if self.options.get("memory") == "deaf":
            raise BootError("the guest is not ready after 60 s")

    def last_output(self):
        return "the last line of the guest"

    def close(self):
        told.append("closed")

module.Machine = Machine

@pytest.fixture
def record():
    told.clear()
    return told
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite that uses the plugin, whether the package is installed here or not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(FAKE)
    return pytester


def run(suite: pytest.Pytester, source: str) -> pytest.RunResult:
    suite.makepyfile(source)
    return suite.runpytest_subprocess("-p", "ringlet.pytest_plugin", "--strict-markers")


def test_machine_is_ready_in_the_test_and_closed_after_it(suite: pytest.Pytester) -> None:
    result = run(suite, """
        def test_first(record, vm):
            assert record == [("made", (), {}), "started", "ready"]

        def test_second(request):
            import conftest
            assert conftest.told[-1] == "closed"
        """)

    result.assert_outcomes(passed=2)


def test_marks_add_up_the_nearest_first(suite: pytest.Pytester) -> None:
    result = run(suite, """
        import pytest
        pytestmark = pytest.mark.vm("guestless", memory="1G", timeout=9)

        @pytest.mark.vm(memory="256M", kernel="bzImage")
        class TestAll:
            @pytest.mark.vm(kernel="vmlinux")
            def test_it(self, record, vm):
                options = {"memory": "256M", "kernel": "vmlinux", "timeout": 9}
                assert record == [("made", ("guestless",), options), "started"]
        """)

    result.assert_outcomes(passed=1)


def test_failure_shows_what_the_guest_printed(suite: pytest.Pytester) -> None:
    result = run(suite, "def test_it(vm):\n    assert 0")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*console of the guest*", "the last line of the guest"])


@pytest.mark.parametrize(
    ("memory", "line"),
    [("none", "ImageError: nothing can be fetched"), ("deaf", "BootError: the guest is not *")],
)
def test_guest_that_does_not_start_is_a_line(
    suite: pytest.Pytester, memory: str, line: str
) -> None:
    result = run(suite, f"""
        import pytest

        @pytest.mark.vm(memory="{memory}")
        def test_it(vm):
            pass
        """)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([line])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ('"busybox", memroy="1G"', ("@pytest.mark.vm: got an unexpected keyword argument 'memroy'; "
         "its arguments are those of ringlet.Machine")),
        ('"nothere"', "ConfigError: nothere: no guest or image has this name, *"),
    ],
)  # fmt: skip
def test_mistake_in_a_mark_is_one_line_and_said_once(
    suite: pytest.Pytester, arguments: str, line: str
) -> None:
    suite.makeconftest("")
    result = run(suite, f"""
        import pytest

        @pytest.mark.vm({arguments})
        def test_it(vm):
            pass
        """)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([line])
    printed = result.stdout.str()
    assert printed.count(f"\n{line[:30]}") == 1
    assert "another exception" not in printed
    assert "pytest_plugin.py" not in printed


def test_suites_without_machines_load_nothing_slow() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import ringlet.pytest_plugin\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["ringlet", "ringlet.pytest_plugin"]
