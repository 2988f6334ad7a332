"""Serves the remote protocol of gdb on a port of the loopback interface or a Unix socket.

A thread reads the socket.  The guest's thread answers the packets: it enters the server through
`Vm.post` and stays there until gdb resumes the guest, and no other thread touches the
processor.  The server disconnects a peer that violates the protocol or does not read its answers,
and the guest then continues as if no debugger had connected.
"""

import contextlib
import errno
import os
import queue
import signal
import socket
import stat
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from ringlet.debug import commands, monitor
from ringlet.debug.commands import Commands, Next
from ringlet.debug.layouts import Choice
from ringlet.debug.monitor import Monitor
from ringlet.debug.protocol import Event, Parser, ProtocolError, Signal, frame
from ringlet.debug.stops import SIGABRT, SIGINT, SIGTRAP, Points, Stop, Watch
from ringlet.errors import ConfigError
from ringlet.machine import outcome
from ringlet.machine.outcome import End
from ringlet.machine.place import program_counter
from ringlet.vcpu.debug.stops import DebugReason

_SEND_TIMEOUT_S: Final = 5
_POLL_S: Final = 0.1
"""The interval at which a stopped guest checks whether its run was ended."""
_WAITING: Final = 64
"""The number of packets that may wait for an answer; gdb waits for each answer."""
_READ_SIZE: Final = 1 << 16
_PORT_END: Final = 1 << 16
_LOOPBACK: Final = ("", "localhost", "127.0.0.1")


class Cpu(commands.Cpu, monitor.Cpu, Protocol):
    """The part of a processor that the server uses."""

    def set_breakpoints(self, addresses: Sequence[int]) -> None: ...
    def set_watchpoints(self, watches: Sequence[Watch]) -> None: ...


class Vm(Protocol):
    """The part of a machine that the server uses."""

    def post(self, call: Callable[[], None]) -> None: ...
    def finish(self, end: End) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def counters(self) -> dict[str, int]: ...
    @property
    def ended(self) -> bool: ...


def listen(where: str) -> socket.socket:
    """Return a socket that listens at `where`: a port of 127.0.0.1, or a Unix socket.

    `1234`, `:1234`, `localhost:1234` and QEMU's `tcp::1234` are ports; port 0 chooses a free one.
    `unix:PATH` is a socket, and so is a path with a slash.  Raises ConfigError.
    """
    place = where.removeprefix("tcp:")
    host, colon, port = place.rpartition(":")
    try:
        if port.isascii() and port.isdigit() and host in _LOOPBACK:
            if int(port) >= _PORT_END:
                raise ConfigError(f"--gdb {where}: give a port up to {_PORT_END - 1}")
            return socket.create_server(("127.0.0.1", int(port)), backlog=1)
        path = where.removeprefix("unix:")
        if path and (path != where or ("/" in path and not colon)):
            return _listen_at(Path(path))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--gdb {where}: another process listens there; give another port or path"
            ) from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"--gdb {where}: cannot listen: {reason}") from None
    raise ConfigError(
        f"--gdb {where}: give a port of the loopback interface, such as :1234, or unix:PATH"
    )


def _listen_at(path: Path) -> socket.socket:
    """Return a Unix socket at `path` that only this user may connect to."""
    _make_way(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        server.bind(str(path))
        server.listen(1)
    except BaseException:
        server.close()
        raise
    finally:
        os.umask(mask)
    return server


def place_of(listener: socket.socket) -> str:
    """Return the address of `listener` for gdb's `target remote`."""
    if listener.family == socket.AF_UNIX:
        return str(listener.getsockname())
    return f"localhost:{listener.getsockname()[1]}"


def _make_way(path: Path) -> None:
    """Remove a socket at `path` if no process listens on it any more.

    Raises OSError if something else is there.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "it exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


class _Link:
    """A connection: its socket and the packets that wait for an answer; None marks their end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.packets: queue.Queue[bytes | None] = queue.Queue()
        self.alive = True
        self.acknowledges = True
        self.last = b""
        self._sending = threading.Lock()
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _SEND_TIMEOUT_S, 0)
        )
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_raw(self, data: bytes) -> None:
        """Send bytes, and disconnect a peer that does not read them."""
        try:
            with self._sending:
                self.sock.sendall(data)
        except OSError:
            self.hang_up()

    def send(self, packet: bytes) -> None:
        """Send a packet, and keep it until the next one in case gdb requests it again."""
        self.last = frame(packet)
        self.send_raw(self.last)

    def send_text(self, text: str) -> None:
        """Make gdb show a text.  Allowed only while gdb waits for a stop."""
        self.send(b"O" + text.encode("utf-8").hex().encode("ascii"))

    def hang_up(self) -> None:
        """Close the connection, so that the reading thread sees its end."""
        self.alive = False
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class GdbServer:
    """A server for one machine and one gdb at a time.

    The machine calls `trapped` and `dying`; `attach_debugger` registers the server there.  `wide`
    says that the guest's file has 64-bit code (`ringlet.debug.layouts.Choice`).
    """

    def __init__(
        self, machine: Vm, cpu: Cpu, listener: socket.socket, *, wide: bool = False
    ) -> None:
        self._machine = machine
        self._cpu = cpu
        self._listener = listener
        self._points = Points(cpu.set_breakpoints, cpu.set_watchpoints)
        choice = Choice(cpu, wide)
        answer = Monitor(cpu, choice, machine.counters).answer
        self._commands = Commands(cpu, self._points, choice.layout, answer)
        self._link: _Link | None = None
        self._came = threading.Event()
        self._awaits = False  # the guest has not run: it waits for a gdb that continues it
        self._resumes = 0
        self._running = True
        self._interrupting = False
        self._owes = False
        self._stopped_at = 0
        self._thread = threading.Thread(target=self._accept, name="gdb", daemon=True)

    def start(self, *, wait: bool = False) -> None:
        """Start to listen; with `wait`, the guest runs only after gdb connects and continues it."""
        if wait:
            self._awaits = True
            self._machine.post(self._await)
        self._thread.start()

    def close(self, status: int) -> None:
        """Report the end of the run and its exit status to gdb, and stop listening."""
        link = self._link
        if link is not None:
            if self._owes:
                link.send(b"W%02x" % (status & 0xFF))
            link.hang_up()
        name = self._listener.getsockname() if self._listener.family == socket.AF_UNIX else ""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if name:
            Path(name).unlink(missing_ok=True)

    # --- the reading thread

    def _accept(self) -> None:
        # Signals belong to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while True:
                sock, _ = self._listener.accept()
                with sock:
                    self._talk(_Link(sock))
        except OSError:
            return  # closed: the run has ended
        except Exception as error:  # noqa: BLE001 - the run ends with it
            self._machine.fail(error)

    def _talk(self, link: _Link) -> None:
        gone = threading.Event()

        def left() -> None:
            if self._link is link:
                self._let_go()
            if not self._awaits:
                gone.set()
                return
            # This gdb has not continued the guest; perhaps the next one does.
            self._came.clear()
            gone.set()
            self._await()

        self._machine.post(lambda: self._attached(link))
        self._came.set()
        self._read(link)
        # In this order: the guest does not run between the two.
        self._machine.post(left)
        link.packets.put(None)
        while not gone.wait(_POLL_S) and not self._machine.ended:
            pass

    def _read(self, link: _Link) -> None:
        """Pass packets to the guest's thread until the connection ends."""
        parser = Parser()
        with contextlib.suppress(OSError, ProtocolError):
            while link.alive and (data := link.sock.recv(_READ_SIZE)):
                for event in parser.feed(data):
                    self._take(link, event)
        link.hang_up()

    def _take(self, link: _Link, event: Event) -> None:
        if isinstance(event, bytes):
            if link.acknowledges:
                link.send_raw(b"+")
            if link.packets.qsize() >= _WAITING:
                raise ProtocolError("too many packets wait for answers; gdb waits for each")
            link.packets.put(event)
            if event == b"QStartNoAckMode":
                link.acknowledges = False
        elif event is Signal.INTERRUPT:
            if self._running and not self._interrupting:
                self._interrupting = True
                at = self._resumes
                self._machine.post(lambda: self._interrupted(link, at))
        elif link.acknowledges and event is Signal.BROKEN:
            link.send_raw(b"-")
        elif link.acknowledges and event is Signal.NACK:
            link.send_raw(link.last)

    # --- the guest's thread

    def trapped(self) -> None:
        """Handle a stop of the processor: a breakpoint, a step, a watchpoint."""
        reason, hits = self._cpu.debug_stop()
        if reason == DebugReason.DEBUG_BREAKPOINT:
            linear = program_counter(self._cpu)
            # If gdb cannot know this address, it would take the stop for one of its past.
            known = self._commands.layout.holds(linear)
            self._stop(self._points.break_hit(linear) if known else Stop(SIGTRAP))
        elif reason == DebugReason.DEBUG_WATCHPOINT:
            self._stop(self._points.watch_hit(hits))
        else:
            self._stop(Stop(SIGTRAP))

    def dying(self, end: End) -> None:
        """Let gdb examine a guest that cannot continue, before the run ends."""
        if self._link is not None:
            self._link.send_text(f"{end.message}\n")
        self._stop(Stop(SIGABRT))

    def _await(self) -> None:
        while not self._came.wait(_POLL_S) and not self._machine.ended:
            pass

    def _attached(self, link: _Link) -> None:
        # A guest that waits does not run before `left` has been posted, even if the link is dead.
        if link.alive or self._awaits:
            self._link = link
            self._commands.stop = Stop(SIGINT)
            self._commands.connected()
            self._serve(link)

    def _interrupted(self, link: _Link, resumes: int) -> None:
        self._interrupting = False
        # Since the request to stop, the guest may have stopped by itself and been resumed.
        if link is self._link and resumes == self._resumes:
            self._stop(Stop(SIGINT))

    def _stop(self, stop: Stop) -> None:
        """Report the stop and wait until gdb resumes the guest; without gdb, return at once."""
        link = self._link
        if link is None or not link.alive:
            self._let_go()
            return
        self._commands.stop = stop
        self._owes = False
        link.send(stop.reply())
        self._serve(link)

    def _let_go(self) -> None:
        """Detach: resume the guest without gdb."""
        self._link = None
        self._owes = False
        self._points.clear()
        self._cpu.debug_go(step=False, skip=True)

    def _serve(self, link: _Link) -> None:
        """Answer gdb's packets until gdb resumes the guest."""
        self._running = False
        self._stopped_at = program_counter(self._cpu)
        while not self._machine.ended:
            try:
                packet = link.packets.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if packet is None:
                self._let_go()
                break
            reply, then = self._commands.answer(packet)
            if reply is not None:
                link.send(reply)
            if then is not Next.STAY:
                self._go(then)
                break
        self._resumes += 1
        self._running = True

    def _go(self, then: Next) -> None:
        self._awaits = False
        if then is Next.DETACH:
            self._let_go()
        elif then is Next.KILL:
            self._link = None
            self._machine.finish(outcome.stopped(signal.SIGKILL))
        else:
            self._owes = True
            # gdb steps off a breakpoint where it stopped by itself.  If gdb moved RIP, a
            # breakpoint at the new RIP must stop the guest.
            moved = program_counter(self._cpu) != self._stopped_at
            self._cpu.debug_go(step=then is Next.STEP, skip=not moved)
