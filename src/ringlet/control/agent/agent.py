"""The agent in a guest: runs commands and reaches files there, whatever the guest's network is."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Unpack, overload

from ringlet.control.agent.channel import Answered, Refused, deadline_after
from ringlet.control.agent.command import Result, Run
from ringlet.control.agent.connection import Connection
from ringlet.control.agent.files import Files, call
from ringlet.control.agent.options import AgentOptions, require_known
from ringlet.control.agent.process import Argv, Command, Process, Text, to_text
from ringlet.control.agent.transfer import PATIENCE
from ringlet.control.closing import Closing
from ringlet.errors import AgentError, AgentTimeoutError, CommandTimeoutError
from ringlet.guest.protocol import Flag, Operation, Power, Request

START_TIMEOUT: Final = 180.0
"""Seconds in which a guest has to boot and start the agent."""


@dataclass(frozen=True, slots=True)
class GuestInfo:
    """What the guest says about itself; times in seconds, since 1970 and since its boot."""

    hostname: str
    release: str
    version: str
    machine: str
    boot_time: float
    uptime: float
    boot_id: str
    agent_pid: int
    agent_uid: int


class Agent(Closing):
    """The host's side of a guest's agent.  Any thread may call its methods.

    `stream` is a connected stream socket whose other end is the guest's port; the agent closes it.
    The agent may start later: the first call waits for it, `start_timeout` seconds.  Close the
    agent, from any thread, to end every call that waits; they raise AgentError.
    """

    def __init__(
        self, stream: socket.socket, *, start_timeout: float | None = START_TIMEOUT
    ) -> None:
        self._start_timeout = start_timeout
        self._connection = Connection(stream)
        self.files = Files(self._ready)

    # --- the connection

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the agent in the guest answers.  Raises AgentTimeoutError and AgentError."""
        self._connection.wait_ready(timeout)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, lost or broken."""
        return self._connection.ended

    def close(self) -> None:
        """Close the connection; the guest's commands get SIGHUP.  May be called twice."""
        self._connection.close()

    def _ready(self) -> Connection:
        self._connection.wait_ready(self._start_timeout)
        return self._connection

    # --- commands

    @overload
    def run(
        self, argv: Argv, *, text: Literal[True] = True, **options: Unpack[AgentOptions]
    ) -> Result[str]: ...

    @overload
    def run(
        self, argv: Argv, *, text: Literal[False], **options: Unpack[AgentOptions]
    ) -> Result[bytes]: ...

    def run(
        self, argv: Argv, *, text: bool = True, **options: Unpack[AgentOptions]
    ) -> Result[str] | Result[bytes]:
        """Run a command to its end and return the Result.  The names are `subprocess.run`'s.

        `argv` is a list of arguments, or a string that the guest's /bin/sh runs.  Outputs are text
        (UTF-8; other bytes become what os.fsdecode makes of them) or, without `text`, bytes;
        a function that is given gets bytes as they come, in the calling thread.  `user` is a name
        or a number, perhaps with ":GROUP"; `env` is added to a login's environment, or with
        `only_env` replaces it; `merge` has errors in the output; `tty` gives it a terminal of
        `size` (rows, columns), which has one output.

        The command has ended when its process has: what it leaves in the background goes on, and
        its output is dropped.  After `timeout` seconds the command is killed with its process
        group, and CommandTimeoutError raised.  CommandError: it cannot be started.  AgentError: the
        guest has ended, or misbehaves.  CommandFailedError: its status is not 0, with `check`.
        """
        require_known(options)
        given, check = options.get("input"), options.get("check", False)
        timeout = options.get("timeout")
        command = Command(
            argv, options.get("env"), options.get("cwd"), options.get("user"),
            options.get("tty", False), options.get("size"), given is not None,
            options.get("merge", False), options.get("only_env", False),
        )  # fmt: skip
        data = given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given or b""
        run = Run(
            self._ready(), command, memoryview(data).cast("B"), options.get("on_stdout"),
            options.get("on_stderr"),
        )  # fmt: skip
        if not text:
            return run.finish(timeout).check() if check else run.finish(timeout)
        try:
            done = run.finish(timeout)
        except CommandTimeoutError as late:
            raise late.as_text() from None
        result = Result(
            done.args, to_text(done.stdout), to_text(done.stderr), done.exit_code, done.duration
        )
        return result.check() if check else result

    def popen(
        self, argv: Argv, *, env: Mapping[str, str] | None = None, cwd: Text | None = None,
        user: str | int | None = None, tty: bool = False, size: tuple[int, int] | None = None,
        stdin: bool = True, merge: bool = False, only_env: bool = False,
        timeout: float | None = PATIENCE,
    ) -> Process:  # fmt: skip
        """Start a command and return it while it runs.

        The arguments are those of `run`; without `stdin` its input is empty.  Raises CommandError
        if it cannot be started, CommandTimeoutError if it is not started within `timeout`.
        """
        command = Command(argv, env, cwd, user, tty, size, stdin, merge, only_env)
        process = Process(self._ready(), command)
        process.wait_started(timeout)
        return process

    # --- the guest

    def info(self, timeout: float | None = PATIENCE) -> GuestInfo:
        """Return what the guest says about itself.  Strings are as long as the guest makes them."""
        lines = to_text(self._answer(Request(Operation.INFO), timeout)).splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        return GuestInfo(
            values.get("hostname", ""), values.get("release", ""), values.get("version", ""),
            values.get("machine", ""), _seconds(values, "boot_time_ns"),
            _seconds(values, "uptime_ns"), values.get("boot_id", ""),
            _number(values, "agent_pid"), _number(values, "agent_uid"),
        )  # fmt: skip

    def time(self, timeout: float | None = PATIENCE) -> float:
        """Return the guest's clock, in seconds since 1970; it shows that the agent answers."""
        payload = self._answer(Request(Operation.TIME), timeout)
        if len(payload) != 16:
            raise AgentError("the agent in the guest broke the protocol: a time of a wrong length")
        return int.from_bytes(payload[:8], "little") / 1e9

    def sync(self, timeout: float | None = PATIENCE) -> None:
        """Have the guest write what it holds of files to its disks."""
        call(self._ready(), Request(Operation.SYNC), "/", timeout)

    def shutdown(
        self, *, reboot: bool = False, force: bool = False, timeout: float | None = PATIENCE
    ) -> None:
        """Have the guest turn itself off, or begin anew.

        The guest's init does it in order; without such an init, or with `force`, the kernel does it
        at once after files were written.  Returns when the guest has begun.
        """
        self._answer(
            Request(
                Operation.POWER,
                flags=Flag.RECURSIVE if force else Flag.NONE,
                mode=Power.REBOOT if reboot else Power.OFF,
            ),
            timeout,
        )

    def _answer(self, request: Request, timeout: float | None) -> bytes:
        channel = self._ready().open(request)
        with channel.changed:
            in_time = channel.wait(lambda: channel.end is not None, deadline_after(timeout))
        if not in_time:
            raise AgentTimeoutError(f"the agent in the guest has not answered within {timeout:g} s")
        if isinstance(channel.end, Answered):
            return channel.end.payload
        reason = f": error {channel.end.errno}" if isinstance(channel.end, Refused) else ""
        raise AgentError(f"the guest refuses {request.operation.name}{reason}")

    def __repr__(self) -> str:
        return f"<Agent {'closed' if self.closed else 'open'}>"


def _number(values: Mapping[str, str], key: str) -> int:
    text = values.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def _seconds(values: Mapping[str, str], key: str) -> float:
    return _number(values, key) / 1e9
