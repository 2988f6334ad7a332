"""Runs work in a process of its own, so that its death is a result and not the end."""
from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
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


def isolated(work: Callable[[Any, Progress], Any], argument: Any) -> Any:
    """`work(argument, progress)` in a new process: its result, or a `Death`.

    `work` is a module's function; it tells `progress` the number of each piece it begins.
    """
    context = multiprocessing.get_context("spawn")
    index = context.Value("q", 0)
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, argument, index, send))
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
