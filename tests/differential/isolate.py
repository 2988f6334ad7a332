"""Runs work in a separate process, so that a crash is a result and does not end the campaign."""
from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Death:
    """The process died with `exit_code` (minus the signal) at the piece of work `index`."""

    index: int
    exit_code: int


def _run(work: Callable[[Any, Progress], Any], argument: Any, index: Synchronized[int],
         results: Connection) -> None:
    def progress(number: int) -> None:
        index.value = number

    results.send(work(argument, progress))


@contextmanager
def _importable() -> Iterator[None]:
    """A new process finds these tests: behind an installed package, which the checkout's, without
    its compiled modules, must not hide."""
    root = str(Path(__file__).parents[2])
    sys.path.append(root)
    try:
        yield
    finally:
        sys.path.pop()


def isolated(work: Callable[[Any, Progress], Any], argument: Any) -> Any:
    """`work(argument, progress)` in a new process: its result, or a `Death`.

    `work` is a module's function; it tells `progress` the number of each piece it begins.
    """
    context = multiprocessing.get_context("spawn")
    index = context.Value("q", 0)
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, argument, index, send))
    with _importable():
        process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        process.join()
        return Death(index.value, process.exitcode or 0)
    finally:
        process.join()
        receive.close()
