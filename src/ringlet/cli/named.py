"""The name of a machine that this process runs, under which other processes reach it."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from ringlet.cli.signals import Stopped
from ringlet.cli.streams import complain
from ringlet.control.agent.agent import Agent
from ringlet.control.agent.readiness import wait_until_booted
from ringlet.control.background.places import Place
from ringlet.control.background.relay import Relay
from ringlet.control.background.server import Served
from ringlet.control.board import Board, Lines
from ringlet.control.spec import MachineSpec
from ringlet.devices.virtio.threads import block_signals
from ringlet.errors import InternalError, RingletError
from ringlet.network_config import NetMode

_DEFECT: Final = 70
_BOOTED_S: Final = 60.0
"""How long `run -d` waits for the services of a guest that takes commands."""


class Named:
    """The name of `spec`, from entry to exit; it does nothing if the spec has none.

    With `remove`, nothing remains of the machine.  `on_up` is called once its guest has booted,
    or, if it has no agent, once it is built.  Raises ConfigError if another machine has the name.
    """

    def __init__(
        self,
        spec: MachineSpec,
        command: Sequence[str] = (),
        *,
        remove: bool = False,
        on_up: Callable[[], object] = lambda: None,
    ) -> None:
        self.place: Place | None = None
        self.built = False
        self._remove = remove
        self.on_up = on_up
        self._served: Served | None = None
        self._board: Board | None = None
        self._ended = False
        self._spec = spec
        self._command = command

    def __enter__(self) -> Self:
        spec = self._spec
        if spec.name:
            self.place = Place.claim(
                spec.name,
                {
                    "guest": guest_of(spec), "memory": spec.memory, "command": [*self._command],
                    "ports": [forward.text for forward in spec.net.forwards],
                    "env": [f"{name}={value}" for name, value in spec.env], "cwd": spec.cwd,
                },
                remove=self._remove,
            )  # fmt: skip
        return self

    def settings(self, env: Sequence[tuple[str, str]], cwd: str, user: str) -> None:
        """Tell others how commands run in the guest."""
        if self.place is not None:
            variables = [f"{name}={value}" for name, value in env]
            self.place.update(env=variables, cwd=cwd, user=user)

    def lines(self, lines: Lines) -> Lines:
        """Return the lines for a Board in place of `lines`."""
        if self.place is None:
            return lines
        self._served = Served(self.place, lines, complain)
        return self._served

    def serve(self, board: Board) -> Callable[[], Agent | None]:
        """Let others reach the machine that `board` runs; return what gives its agent."""
        self._board = board
        if self._served is None:
            return board.connect
        self._served.on_attached = self._attached
        self._served.serve(board)
        return self._served.connect

    def log(self, data: bytes) -> None:
        """Add output of a command to the log."""
        if self._served is not None:
            self._served.log(data)

    def forget(self) -> None:
        """Leave nothing of the machine, which was never built."""
        if self.place is not None:
            self.place.update(remove=True)

    def end(self, status: int, message: str = "") -> None:
        """Say how the machine has ended."""
        if self.place is not None and not self._ended:
            self._ended = True
            self.place.end(status, message)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._served is not None:
            self._served.close()
        if error is None:
            self.end(0)
        elif isinstance(error, RingletError | InternalError | Stopped):
            self.end(error.exit_status, "" if isinstance(error, Stopped) else str(error))
        else:
            self.end(_DEFECT, str(error))

    def _attached(self) -> None:
        self.built = True
        threading.Thread(target=self._wait, name="up", daemon=True).start()

    def _wait(self) -> None:
        block_signals()
        relay = self._served.relay if self._served is not None else None
        if relay is not None:
            relay.ready.wait()
            if relay.over:
                return
            if self._board is not None and self._board.boots:
                self._wait_until_booted(relay)
        if self.place is not None and not self._ended:
            self.place.up()
        self.on_up()

    def _wait_until_booted(self, relay: Relay) -> None:
        """Wait for the services of the guest, but not for ever: it takes commands already."""
        networked = self._spec.net.mode is NetMode.USER
        with contextlib.suppress(RingletError), relay.agent() as agent:
            wait_until_booted(agent, _BOOTED_S, networked=networked)


def guest_of(spec: MachineSpec) -> str:
    """Return what a machine runs, for its user."""
    if spec.guest or spec.image:
        return spec.guest or spec.image
    if spec.root is not None:
        return str(spec.root)
    return spec.kernel.name if spec.kernel is not None else ""
