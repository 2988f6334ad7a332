"""Agents that run on the host itself, over a pair of sockets."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringlet.control.agent import Agent
from ringlet.guest import PROGRAM


def names(directory: Path) -> list[str]:
    """The names in a directory, in order."""
    return sorted(path.name for path in directory.iterdir())


def start(program: Path = PROGRAM) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the agent; return its process and the host's end of its stream."""
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            [program, f"fd:{its.fileno()}"], pass_fds=[its.fileno()], stderr=subprocess.PIPE
        )
    return process, ours


@contextmanager
def native_agent(program: Path = PROGRAM) -> Iterator[Agent]:
    """An agent that is ready.  Afterwards it has ended by itself, without a complaint."""
    process, stream = start(program)
    try:
        with Agent(stream, start_timeout=20) as agent:
            yield agent
    finally:
        _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (0, b"")
