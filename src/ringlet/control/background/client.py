"""Machines that other processes run: `ringlet.machines()` and `ringlet.attach(name)`."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar, Unpack

from ringlet.config import format_size
from ringlet.control.agent.agent import START_TIMEOUT, Agent
from ringlet.control.agent.command import Result
from ringlet.control.agent.files import Files
from ringlet.control.agent.options import RunOptions
from ringlet.control.agent.process import Process, Text, else_at_home
from ringlet.control.background.log import read_log
from ringlet.control.background.places import Found, find, holder
from ringlet.control.background.places import machines as found_machines
from ringlet.control.background.places import remove as remove_found
from ringlet.control.background.server import LONGEST_STOP, VERSION, read_line, socket_address
from ringlet.control.closing import Closing
from ringlet.errors import AgentError, AgentTimeoutError, ConfigError, GuestEnded, GuestTimeout

T = TypeVar("T")
_PATIENCE_S: Final = 10.0
_KILLING_S: Final = 2.0
_LONGEST_ANSWER: Final = 1 << 20
_SOON_S: Final = 1.0
"""How long after its agent a machine ends; more means that only the agent has ended."""
_LOOK_AGAIN_S: Final = 0.02
_LOOK_LATER_S: Final = 0.2


class Attached(Closing):
    """A machine that another process runs; `ringlet.attach` returns one.

    It has the names of `ringlet.Machine`, as far as they make sense from outside.  As a context
    manager it closes its connection, and leaves the machine alone.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._agent: Agent | None = None

    @property
    def name(self) -> str:
        """The machine's name."""
        return self._found.name

    @property
    def pid(self) -> int:
        """The process that runs it, or 0."""
        return holder(self._found.directory)

    def look(self) -> Found:
        """Return what its directory says now.  Raises ConfigError if it was removed."""
        self._found = find(self.name)
        return self._found

    @property
    def state(self) -> str:
        """Return "starting", "running", "ended", "killed", or "removed"."""
        try:
            return self.look().state
        except ConfigError:
            return "removed"

    # --- commands and files

    def agent(self) -> Agent:
        """Return a new connection to its guest's agent, which the caller closes.

        Raises GuestEnded if the machine does not run, and ConfigError if its guest has no agent.
        """
        stream = self._ask("agent")
        stream.settimeout(None)
        return Agent(stream, start_timeout=START_TIMEOUT)

    def run(
        self, command: str | Sequence[str], **options: Unpack[RunOptions]
    ) -> Result[str]:
        """Run a command in the guest to its end, as `Machine.run` does.

        Raises what that raises.
        """
        with self.told_of_the_end():
            return self._in_its_directory(options, lambda: self._commands().run(command, **options))

    def popen(self, command: str | Sequence[str], /, **options: Any) -> Process:
        """Start a command in the guest and return it while it runs, as `Machine.popen` does."""
        with self.told_of_the_end():
            return self._in_its_directory(
                options, lambda: self._commands().popen(command, **options)
            )

    def _in_its_directory(self, options: Any, start: Callable[[], T]) -> T:
        """Start a command with what the machine's commands have, its own options before that.

        A user of its own who cannot enter the machine's directory is at home.
        """
        found = self._found
        given, user = options.get("cwd"), options.get("user")
        other = user is not None and user != ""
        options["env"] = {**dict(found.env), **(options.get("env") or {})}
        options["user"] = user if other else found.user or None

        def start_in(cwd: Text | None) -> T:
            options["cwd"] = cwd
            return start()

        if other and not given:
            return else_at_home(start_in, found.cwd or None)
        return start_in(given or found.cwd or None)

    @contextlib.contextmanager
    def told_of_the_end(self) -> Iterator[None]:
        """Raise GuestEnded with how the guest ended, if its agent is gone because of that."""
        try:
            yield
        except AgentTimeoutError:
            raise
        except AgentError as error:
            try:
                self.wait(_SOON_S)
            except GuestTimeout:
                raise error from None
            why = ""
            with contextlib.suppress(ConfigError):  # it was removed
                why = self.look().message
            raise GuestEnded(f"{self.name} has ended: {why or error}") from None

    @property
    def files(self) -> Files:
        """The guest's files, as `Machine.files`."""
        return self._commands().files

    def output(self) -> bytes:
        """Return what the guest has printed on its console: the last megabytes of it."""
        return b"".join(read_log(self._found.directory))

    def counters(self) -> dict[str, int]:
        """Return the machine's counters, which `ringlet run --stats` prints."""
        with self._ask("counters") as stream:
            answer = stream.answer["counters"]
        return {str(name): int(value) for name, value in answer.items()}

    # --- its end

    def stop(self, timeout: float = 10.0) -> None:
        """Let the guest turn itself off, and cut the power if it runs after `timeout` seconds.

        Returns when the machine's process has ended, which is killed if it does not react.
        """
        self._end("stop", min(timeout, LONGEST_STOP), _PATIENCE_S)

    def kill(self) -> None:
        """End the machine at once, as if the power was cut."""
        self._end("kill", 0.0, _KILLING_S)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the machine has ended; return its exit status, 137 if it was killed.

        Raises GuestTimeout if it still runs after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.pid:
            if end is not None and time.monotonic() >= end:
                raise GuestTimeout(f"{self.name} is still running after {timeout:g} s")
            time.sleep(_LOOK_LATER_S if end is None else _LOOK_AGAIN_S)
        try:
            status = self.look().status
        except ConfigError:  # it was made with --rm
            return 0
        return 128 + signal.SIGKILL if status is None else status

    def remove(self) -> None:
        """Remove what is left of a machine that has ended.  Raises ConfigError if it runs."""
        if self.pid:
            raise ConfigError(f"{self.name} is running; stop it, or ringlet rm -f {self.name}")
        remove_found(self._found)

    def close(self) -> None:
        """Close the connection to the guest's agent; its commands get SIGHUP."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def __repr__(self) -> str:
        size = format_size(self._found.memory)
        return f"<ringlet.Attached {self.name}: {self._found.guest}, {size}, {self.state}>"

    # --- implementation

    def _commands(self) -> Agent:
        if self._agent is None or self._agent.closed:
            self._agent = self.agent()
        return self._agent

    def _end(self, what: str, timeout: float, patience: float) -> None:
        """Have the machine end; kill its process if that takes too long."""
        pid = self.pid
        if not pid:
            return
        end = time.monotonic() + timeout + patience
        with (
            contextlib.suppress(GuestEnded, AgentError),
            self._ask(what, timeout, patience=patience) as stream,
        ):
            stream.settimeout(timeout + patience)
            with contextlib.suppress(OSError):
                stream.recv(1)  # the connection ends with the machine
        while self.pid == pid and time.monotonic() < end:
            time.sleep(_LOOK_AGAIN_S)
        if self.pid == pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.pid == pid:
            time.sleep(_LOOK_AGAIN_S)

    def _ask(
        self, what: str, timeout: float = 0.0, *, patience: float = _PATIENCE_S
    ) -> "_Stream":
        """Return the connection on which `what` was asked and granted."""
        stream = _Stream(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(patience)
        try:
            with socket_address(self._found.directory) as address:
                stream.connect(address)
            request = {"version": VERSION, "do": what, "timeout": timeout}
            stream.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(read_line(stream, _LONGEST_ANSWER))
        except TimeoutError:
            stream.close()
            raise AgentError(
                f"{self.name}: its process does not answer; ringlet rm -f {self.name} ends it"
            ) from None
        except (OSError, ValueError):
            stream.close()
            raise GuestEnded(
                f"{self.name} is not running; ringlet ps -a shows how it ended"
            ) from None
        if answer.get("ok") is not True:
            stream.close()
            raise ConfigError(f"{self.name}: {answer.get('error', 'refused')}")
        stream.answer = answer
        return stream


class _Stream(socket.socket):
    """A connection to a machine's process; `answer` is what it has said."""

    answer: dict[str, Any]


def attach(name: str) -> Attached:
    """Return the machine with this name, which another process runs.

    Raises ConfigError if there is none.
    """
    return Attached(find(name))


def machines() -> list[Attached]:
    """Return the machines with names that this user's processes run, or have run."""
    return [Attached(found) for found in found_machines()]
