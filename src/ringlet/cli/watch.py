"""`--trace` and `--compare`: observe a run block by block."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TextIO, cast

from ringlet.cli.streams import at_once, complain
from ringlet.errors import ConfigError, HostError, OutputError
from ringlet.machine import outcome
from ringlet.machine.vm import Vm

if TYPE_CHECKING:
    from ringlet.debug.compare import Comparer
    from ringlet.vcpu.processor import Processor


_SECOND: Final = 1.0


@contextlib.contextmanager
def watched(
    machine: Vm, trace: str, compare: int, progress: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Watch a machine that has not run yet.

    With `trace`, write the machine's last events to the file of that name, however the run ends.
    With `compare`, also run each block on another processor, the first `compare` times, and end
    the run where the two differ.  Raises ConfigError, HostError and OutputError.
    """
    if not trace and not compare:
        yield
        return
    cpu = cast("Processor", machine.cpu)
    comparer = _comparer(machine, cpu, compare) if compare else None
    with contextlib.ExitStack() as stack:
        if comparer is not None and progress is not None:
            stack.enter_context(_telling(comparer, progress))
        length = 0
        if trace:
            from ringlet.debug.trace import LENGTH, lines

            length = LENGTH
            try:
                # `_write` closes the file.
                file = open(trace, "w", encoding="ascii", opener=at_once)  # noqa: SIM115
            except OSError as error:
                raise ConfigError(f"--trace {trace}: {error.strerror}; give another file") from None
            stack.callback(lambda: _write(file, (f"{line}\n" for line in lines(cpu.events()))))
        cpu.watch_blocks(length, comparer.begins if comparer else None, compare)
        yield
        if comparer:
            complain(
                f"{comparer.compared} blocks compared, {comparer.passed_over} skipped "
                "(sensitive, faulting or interrupted, or with instructions that Unicorn lacks)"
            )


@contextlib.contextmanager
def _telling(comparer: "Comparer", progress: Callable[[str], object]) -> Iterator[None]:
    """Tell `progress` every second how many blocks were compared, during the body."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(_SECOND):
            progress(f"{comparer.compared:,} blocks compared, {comparer.passed_over:,} skipped")

    thread = threading.Thread(target=work, name="compare", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _write(file: TextIO, lines: Iterable[str]) -> None:
    try:
        with file:
            file.writelines(lines)
    except OSError as error:
        raise OutputError(f"cannot write {file.name}: {error.strerror}") from None


def _comparer(machine: Vm, cpu: "Processor", times: int) -> "Comparer":
    try:
        from ringlet.debug.compare import Comparer
    except ImportError:
        raise HostError(
            "--compare needs Unicorn; install it with: "
            f"{sys.executable} -m pip install 'unicorn>=2.1'"
        ) from None

    return Comparer(cpu, times, lambda text: machine.finish(outcome.differs(text)))
