"""The host's tools, started so that none outlives whoever asked for its work."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


@contextlib.contextmanager
def started(
    command: Sequence[str | Path],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    errors: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that reads nothing and whose output is read; after the body it is gone.

    An exception that a signal raises, such as KeyboardInterrupt, may strike the main thread while
    it starts the process, which then nobody would know of.  So another thread does.
    Raises OSError if it cannot be started.
    """
    made: list[subprocess.Popen[bytes]] = []
    failed: list[Exception] = []
    wanted = True
    at_work = threading.Lock()

    def make() -> None:
        with at_work:
            if not wanted:
                return
            try:
                made.append(
                    subprocess.Popen(
                        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=errors,
                    )
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - raised again below
                failed.append(error)

    thread = threading.Thread(target=make, name="tool")
    try:
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        yield made[0]
    finally:
        # Not by `join`: whether the thread has begun cannot be told if its start was interrupted.
        wanted = False
        with at_work:
            for process in made:
                process.kill()
                with process:  # its pipes are closed, and it is waited for
                    pass


def output(
    command: Sequence[str | Path],
    seconds: float,
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """Run a tool for at most so long.  Raises OSError and subprocess.TimeoutExpired."""
    with started(
        command, directory=directory, environment=environment, errors=subprocess.PIPE
    ) as process:
        texts = (text.decode(errors="replace") for text in process.communicate(timeout=seconds))
        return subprocess.CompletedProcess(command, process.returncode, *texts)
