"""Serves a running machine to other processes of the same user, on a Unix socket.

A client sends a request, one line of JSON, and gets an answer, one line of JSON:

    {"version": 1, "do": "agent"}                  the connection is the agent's from then on
    {"version": 1, "do": "stop", "timeout": 10}    the guest turns itself off, or is cut off then
    {"version": 1, "do": "kill"}
    {"version": 1, "do": "counters"}

An answer has "ok", and "error", a line for the user, if that is false.  After "stop" and "kill",
the connection ends when the machine has ended.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ringlet.control.agent.agent import Agent
from ringlet.control.background.log import Log
from ringlet.control.background.places import SOCKET, Place
from ringlet.control.background.relay import Relay
from ringlet.control.board import Board, Lines
from ringlet.control.turning_off import turn_off
from ringlet.devices.virtio.threads import block_signals
from ringlet.errors import AgentError, HostError
from ringlet.machine import outcome
from ringlet.machine.pc import Wire, to_standard_error
from ringlet.machine.wired import Wired

VERSION: Final = 1
LONGEST_REQUEST: Final = 4096
"""Bytes of a request."""
MAX_REQUESTS: Final = 64
"""Requests that are answered at once; a further one waits in the socket."""
LONGEST_STOP: Final = 86400.0
"""Seconds that a guest may be given to turn itself off."""

_PATIENCE_S: Final = 5.0
_ACCEPT_AGAIN_S: Final = 0.1
_CREDENTIALS: Final = struct.Struct("iII")


class Served:
    """A machine with the name of `place`, whose serial ports are those of `lines`.

    As `Lines` of a Board, which must be given to `serve`, it keeps what the guest prints in a log,
    and shares its agent.  Raises HostError.
    """

    def __init__(
        self, place: Place, lines: Lines, complain: Callable[[str], None] = to_standard_error
    ) -> None:
        self.place = place
        self.log = Log(place.directory)
        self._lines = lines
        self._complain = complain
        self._board: Board | None = None
        self._relay: Relay | None = None
        self.on_attached: Callable[[], object] = lambda: None
        """Called when a machine was built."""
        self._ended = threading.Event()
        self._slots = threading.Semaphore(MAX_REQUESTS)
        self._socket = _listen(place.directory)
        # Without the machine, requests wait in the socket.

    def serve(self, board: Board) -> None:
        """Answer requests from now on; `board` runs the machine."""
        self._board = board
        threading.Thread(target=self._accept, name="server", daemon=True).start()

    def connect(self) -> Agent | None:
        """Return an agent of the machine that was built last; None if it has none."""
        return self._relay.agent() if self._relay is not None else None

    @property
    def relay(self) -> Relay | None:
        """What shares the agent of the machine that was built last."""
        return self._relay

    def close(self) -> None:
        """End all connections: the machine has ended."""
        self._ended.set()
        # A thread that waits in accept() learns of a shutdown, and not of a close.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._relay is not None:
            self._relay.close()
        self.log.close()

    # --- Lines

    def wires(self) -> Sequence[Wire]:
        """Return the connections of the ports; COM1 is logged, too."""
        wires = [*self._lines.wires()]
        if wires:
            sink = wires[0].sink

            def both(data: bytes) -> None:
                self.log(data)
                sink(data)

            wires[0] = Wire(both, wires[0].source, wires[0].handshake)
        return wires

    def attach(self, pc: Wired) -> None:
        """Share the agent of `pc` from now on."""
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        stream = self._board.agent_stream() if self._board is not None else None
        if stream is not None:
            self._relay = Relay(stream, self._complain)
        self._lines.attach(pc)
        self.on_attached()

    # --- requests

    def _accept(self) -> None:
        block_signals()
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                if self._ended.wait(_ACCEPT_AGAIN_S):  # else the host has no more files
                    return
                continue
            self._slots.acquire()
            try:
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()
            except RuntimeError:  # the host allows no more threads
                client.close()
                self._slots.release()

    def _answer(self, client: socket.socket) -> None:
        block_signals()
        kept = False
        # Nobody is told if the client has gone, is another user's, or says nothing sensible.
        with contextlib.suppress(OSError, ValueError):
            kept = self._carry_out(client, _request(client))
        self._slots.release()
        if not kept:
            client.close()

    def _carry_out(self, client: socket.socket, request: dict[str, Any]) -> bool:
        """Do what is asked; return whether the connection is somebody else's now."""
        board = self._board
        assert board is not None
        if request.get("version") != VERSION:
            _tell(client, error=f"the machine speaks version {VERSION} of the protocol; use "
                  "the Ringlet that started it")
            return False
        match request.get("do"):
            case "agent":
                if self._relay is None:
                    _tell(client, error="this guest has no agent that runs commands; "
                          "ringlet logs shows what it prints")
                    return False
                _tell(client)
                self._relay.join(client)
                return True
            case "stop":
                timeout = float(request.get("timeout", 0))
                _tell(client)
                self.stop(min(max(timeout, 0.0), LONGEST_STOP))
            case "kill":
                _tell(client)
                board.stop(outcome.stopped(signal.SIGKILL))
                self._ended.wait()
            case "counters":
                machine = board.machine
                _tell(client, counters=machine.counters() if machine is not None else {})
            case other:
                _tell(client, error=f"{str(other)[:40]}: an unknown request")
        return False

    def stop(self, timeout: float) -> None:
        """Let the guest turn itself off, and cut the power after `timeout` seconds.

        A guest without an agent that answers, which does not heed its power button either, is cut
        off at once (`turn_off`).
        """
        board = self._board
        assert board is not None
        end = time.monotonic() + timeout
        # A guest may take the request and never answer it.
        plug = threading.Timer(timeout, board.stop, [outcome.stopped(signal.SIGKILL)])
        plug.daemon = True
        plug.start()
        turn_off(board, self._ask, self._ended, end)
        if not self._ended.is_set():
            board.stop(outcome.stopped(signal.SIGKILL))
        self._ended.wait()
        plug.cancel()

    def _ask(self, seconds: float) -> bool:
        """Have the agent turn the guest off; return whether it answers."""
        relay = self._relay
        if relay is None or not relay.ready.is_set():
            return False
        try:
            with relay.agent(seconds) as agent:
                agent.shutdown(timeout=seconds)
        except AgentError:
            return False
        return True


@contextlib.contextmanager
def socket_address(directory: Path) -> Iterator[str]:
    """Give an address of the socket in `directory`, whose own path may be too long for one."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _listen(directory: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(directory) as address:
            server.bind(address)
        (directory / SOCKET).chmod(0o600)
        server.listen(MAX_REQUESTS)
    except OSError as error:
        server.close()
        raise HostError(f"{directory / SOCKET}: {error.strerror}; set XDG_RUNTIME_DIR") from None
    return server


def _request(client: socket.socket) -> dict[str, Any]:
    """Return what a client asks, if it is this user's.  Raises ValueError and OSError."""
    packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    if uid != os.geteuid():
        raise ValueError("another user's")
    client.settimeout(_PATIENCE_S)
    request = json.loads(read_line(client, LONGEST_REQUEST))
    if not isinstance(request, dict):
        raise ValueError("no request")  # noqa: TRY004 - it is no wrong call, but a wrong text
    return request


def read_line(stream: socket.socket, longest: int) -> bytes:
    """Return a line that the other end has sent; nothing may follow it yet.

    Raises ValueError if it is longer or ends too early, and OSError.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        part = stream.recv(longest - len(line))
        if not part:
            raise ValueError("a line that does not end")
        line += part
    return bytes(line)


def _tell(client: socket.socket, error: str = "", **values: object) -> None:
    answer = {"ok": not error, **({"error": error} if error else {}), **values}
    client.sendall(json.dumps(answer).encode() + b"\n")
