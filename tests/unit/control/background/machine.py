"""A process that serves a machine whose agent runs on the host itself, and which ends when asked.

    python -m tests.unit.control.background.machine NAME [--rm]
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import cast

from ringlet.control.agent import Agent
from ringlet.control.background.client import Attached, attach
from ringlet.control.background.places import Place
from ringlet.control.background.server import Served
from ringlet.control.board import Board
from ringlet.machine import outcome
from ringlet.machine.outcome import End
from ringlet.machine.pc import Pc, Wire
from ringlet.machine.wired import Wired
from tests.unit.control.agent.native import start

PATIENCE = 20


class FakeVm:
    def counters(self) -> dict[str, int]:
        return {"exits": 7}


class FakeBoard:
    """The part of a Board that a server uses."""

    def __init__(self) -> None:
        self.process, self._stream = start()
        self.machine = FakeVm()
        self.ends: SimpleQueue[End] = SimpleQueue()

    def agent_stream(self) -> object:
        return self._stream

    def stop(self, end: End) -> None:
        self.ends.put(end)


class FakeLines:
    def wires(self) -> list[Wire]:
        return [Wire(lambda data: None)]

    def attach(self, pc: Wired) -> None:
        """Nothing is connected."""


def main(name: str, *, remove: bool) -> None:
    place = Place.claim(
        name, {"guest": "none", "memory": 1 << 20, "env": ["FIRST=1"], "cwd": "/"}, remove=remove
    )
    served = Served(place, FakeLines())
    board = FakeBoard()
    # The agent is on the host, which must not be turned off.
    Agent.shutdown = lambda self, **how: board.stop(outcome.powered_off())  # type: ignore[method-assign]
    served.serve(cast("Board", board))
    (wire,) = served.wires()
    wire.sink(b"printed\n")
    served.attach(cast("Pc", None))
    assert served.relay is not None
    served.relay.ready.wait()
    place.up()
    print("up", flush=True)
    end = board.ends.get()
    served.close()
    board.process.wait(PATIENCE)
    place.end(end.status, "it was asked")


@contextlib.contextmanager
def running(directory: Path, name: str, *more: str) -> Iterator[Attached]:
    """Run such a process; XDG_RUNTIME_DIR is `directory`, in this process, too."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, name, *more], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(directory)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        # What has ended must not remain a zombie, which holds nothing anyway.
        threading.Thread(target=process.wait, daemon=True).start()
        with attach(name) as machine:
            yield machine
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main(sys.argv[1], remove="--rm" in sys.argv)
