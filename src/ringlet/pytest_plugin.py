r"""A pytest plugin: the fixture `vm`, a machine for a test, and the mark `vm`, its options.

    @pytest.mark.vm(kernel="arch/x86/boot/bzImage", memory="256M")
    def test_boots(vm):
        vm.console.send("uname -r\n")
        vm.console.expect("6.")

The options are those of `ringlet.Machine`; marks of a test, its class and its module add up, the
nearest first.  The guest has booted when the test begins, and its memory is free after the test.
Each test has a machine of its own.  What the guest printed is a part of a failed test's report.

pytest loads this module in every suite, so it imports nothing that is slow.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ringlet.control.machine import Machine

_MARK = "vm(guest='debian', *, kernel, memory, ...): options of ringlet.Machine for the fixture vm"
_STARTED = pytest.StashKey["Machine"]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", _MARK)


@pytest.fixture
def vm(request: pytest.FixtureRequest) -> Iterator["Machine"]:
    """Give a machine that has booted; `pytest.mark.vm` has its options."""
    import inspect

    from ringlet.control.machine import Machine
    from ringlet.errors import RingletError

    guest, options = _options(request.node)
    failure = ""  # a failure within a handler would be shown twice
    try:
        inspect.signature(Machine).bind(*guest, **options)
    except TypeError as error:
        failure = f"@pytest.mark.vm: {error}; its arguments are those of ringlet.Machine"
    if failure:
        pytest.fail(failure, pytrace=False)
    machine = None
    try:
        machine = Machine(*guest, **options)
        request.node.stash[_STARTED] = machine
        machine.start()
        if machine.spec.guest or machine.spec.image or machine.spec.root:
            machine.ready()
        yield machine
    except RingletError as error:  # of the guest's start; a test's own errors do not come here
        failure = f"{type(error).__name__}: {error}"
    finally:
        if machine is not None:
            machine.close()
    if failure:
        pytest.fail(failure, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """Add what the guest printed to the report of a failed test."""
    report: Any = yield
    machine = item.stash.get(_STARTED, None)
    if report.failed and machine is not None:
        report.sections.append(("console of the guest", machine.last_output()))
    return report


def _options(node: pytest.Item) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the nearest marks."""
    positional: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    for mark in node.iter_markers("vm"):  # the nearest first
        positional = positional or mark.args
        options = {**mark.kwargs, **options}
    return positional, options
