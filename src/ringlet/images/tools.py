"""Starts the host's tools so that none of them outlives its caller."""

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
    """Start a process without input, whose output the body reads; it is killed after the body.

    A signal may raise an exception such as KeyboardInterrupt in the main thread while that thread
    starts a process, and the process would be lost.  So another thread starts it.  Raises OSError
    if the process cannot be started.
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
        # `join` cannot be used: if the start was interrupted, the thread may not have begun.
        wanted = False
        with at_work:
            for process in made:
                process.kill()
                with process:  # closes the pipes and waits for the process
                    pass


def output(
    command: Sequence[str | Path],
    seconds: float,
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """Run a tool for at most `seconds`.  Raises OSError and subprocess.TimeoutExpired."""
    with started(
        command, directory=directory, environment=environment, errors=subprocess.PIPE
    ) as process:
        texts = (text.decode(errors="replace") for text in process.communicate(timeout=seconds))
        return subprocess.CompletedProcess(command, process.returncode, *texts)
