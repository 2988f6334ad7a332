"""Runs an engine of user-mode networking: its process, its socket, its end."""

import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from ringlet.devices.backends.network import addresses
from ringlet.devices.backends.network.link import MAX_FRAME, Lost

SEND_BUFFER: Final = 4 << 20
"""Bytes asked for in each direction; the kernel gives what net.core.wmem_max allows."""
KEEPER: Final = Path(__file__).parent / "keeper"
"""Starts the engine, and ends it with Ringlet (keeper.c)."""
HANG_SECONDS: Final = 15.0
"""How long an engine may take nothing from a full socket."""
_LOOK_SECONDS: Final = 5.0
_START_SECONDS: Final = 10.0
_END_SECONDS: Final = 5.0
_KEPT: Final = 2048
_LEAVE_SECONDS: Final = 2.0
"""How long an engine whose socket fails may take to end by itself."""


class EngineError(Exception):
    """The engine has not started.  `missing`: because its package is not installed."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class _State(Enum):
    STARTING = 0
    RUNNING = 1
    OVER = 2  # it has ended, or is to end


class Engine:
    """A running engine, and `socket`, which is connected to it.

    `arguments` makes its command line from the descriptor of its end of the socket.  A guest that
    does not read, or an engine that does not, fills the socket's buffers, and nothing else.
    """

    def __init__(
        self, name: str, program: Path | None, arguments: Callable[[int], Sequence[str]],
        mac: bytes, lost: Lost,
    ) -> None:  # fmt: skip
        """Start `program`, and wait until it answers.  Raises EngineError."""
        if program is None:
            raise EngineError(f"{name} is not installed", missing=True)
        self.name = name
        self._lost = lost
        self._lock = threading.Lock()
        self._state = _State.STARTING
        self._made = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._words = b""
        self._hung = False
        self._broken = ""
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (self.socket, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        taking = self.socket.dup()  # the watch's own: `close` may come at any time
        self._thread = threading.Thread(
            target=self._watch, args=(program, arguments, other, taking), name=f"net-{name}",
            daemon=True,
        )  # fmt: skip
        try:
            self._thread.start()
        except RuntimeError:
            for end in (self.socket, other, taking):
                end.close()
            raise
        self._made.wait()
        try:
            self._greet(mac)
        except OSError as error:
            self.close()
            raise self._reason(error) from error
        with self._lock:
            if self._state is _State.STARTING:
                self._state = _State.RUNNING
                return
        self.close()
        raise self._reason(None)

    @property
    def pid(self) -> int | None:
        """The keeper's process, whose child the engine is; None if it could not be made."""
        return self._process.pid if self._process else None

    def _watch(
        self, program: Path, arguments: Callable[[int], Sequence[str]], other: socket.socket,
        taking: socket.socket,
    ) -> None:  # fmt: skip
        """Make the process, and wait for its end."""
        with taking:
            self._run(program, arguments, other, taking)
        with self._lock:
            was, self._state = self._state, _State.OVER
        if was is _State.RUNNING:
            self._lost(
                f"the network's engine {self.name} ended ({self._how()}): "
                "the guest has no network from now on"
            )

    def _run(
        self, program: Path, arguments: Callable[[int], Sequence[str]], other: socket.socket,
        taking: socket.socket,
    ) -> None:  # fmt: skip
        try:
            with other:
                self._process = subprocess.Popen(
                    [KEEPER, program, *arguments(other.fileno())], pass_fds=[other.fileno()],
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    cwd="/", env={"LC_ALL": "C"}, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self._words = f"{KEEPER}: {error.strerror}".encode()
            return
        finally:
            self._made.set()
        assert self._process.stderr is not None
        with self._process.stderr as words:
            self._listen(words.fileno(), taking)
        self._process.wait()
        self._let_go()

    def _listen(self, words: int, taking: socket.socket) -> None:
        """Keep the last of what the engine says, until it ends; end it if it hangs."""
        while True:
            ready, _, _ = select.select([words], [], [], _LOOK_SECONDS)
            if not ready and not self._hung:
                ready, free, _ = select.select([words], [taking], [], HANG_SECONDS)
                if not ready and not free:
                    self._hung = True
                    self._let_go()
            if not ready:
                continue
            # The guest can make an engine complain without end.
            text = os.read(words, _KEPT)
            if not text:
                return
            self._words = (self._words + text)[-_KEPT:]

    def _let_go(self) -> None:
        """Have the keeper end the engine, by force if need be."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def failed(self, why: str) -> None:
        """Have the engine end, unless it does so now, because its socket cannot be used any more.

        Any thread may call this, once; `lost` is called when the engine has ended.
        """
        timer = threading.Timer(_LEAVE_SECONDS, self._end_broken, [why])
        timer.daemon = True
        timer.start()

    def _end_broken(self, why: str) -> None:
        with self._lock:
            if self._state is _State.RUNNING:
                self._broken = why
        self._let_go()

    def _greet(self, mac: bytes) -> None:
        """Ask for the gateway's Ethernet address, as any guest does first (RFC 826).

        The answer shows that the engine serves, and the engine learns where the guest is.  Only
        whole frames are taken from the socket, so that the guest finds the next one.
        """
        deadline = time.monotonic() + _START_SECONDS
        mine, gateway = socket.inet_aton(addresses.GUEST), socket.inet_aton(addresses.GATEWAY)
        head = b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x806, 1, 0x800, 6, 4, 1)
        question = head + mac + mine + bytes(6) + gateway
        self.socket.sendall(struct.pack("!I", len(question)) + question)
        while True:
            (length,) = struct.unpack("!I", self._take(4, deadline))
            if length > MAX_FRAME:
                raise OSError(f"it sent a frame of {length} bytes")
            frame = self._take(length, deadline)
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == gateway:
                self.socket.setblocking(False)
                return

    def _take(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            left = max(deadline - time.monotonic(), 0)
            if not select.select([self.socket], [], [], left)[0]:
                raise TimeoutError(f"it does not answer within {_START_SECONDS:.0f} s")
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data

    def _how(self) -> str:
        """How the process has ended, with the last line that it wrote."""
        if self._process is None:
            return self._last_line()
        if self._hung:
            return f"it took nothing for {HANG_SECONDS:.0f} s"
        if self._broken:
            return self._broken
        status = self._process.returncode
        if status is not None and status < 0:
            return f"killed by signal {-status}"
        line = self._last_line()
        return f"status {status}: {line}" if line else f"status {status}"

    def _last_line(self) -> str:
        lines = [line for line in self._words.decode(errors="replace").splitlines() if line.strip()]
        # passt says this where there is no system log.
        lines = [line for line in lines if not line.startswith("Failed to send ")]
        return "".join(c for c in lines[-1] if c.isprintable()) if lines else ""

    def _reason(self, error: OSError | None) -> EngineError:
        """Why the engine, which has ended, did not start."""
        if isinstance(error, ConnectionError | None) or error.errno is not None:
            return EngineError(self._how(), missing=self._status() == NO_LIBRARY)
        return EngineError(str(error))

    def _status(self) -> int | None:
        return self._process.returncode if self._process else None

    def close(self) -> None:
        """End the engine.  A second call does nothing."""
        with self._lock:
            self._state = _State.OVER
        # Engines end with their socket.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._let_go()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join()


NO_LIBRARY: Final = 3
"""The status of `slirp` (slirp.c) without libslirp."""
