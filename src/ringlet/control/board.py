"""Builds the machine that a spec describes: the one way from a description to a machine."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ringlet.config import MachineConfig
from ringlet.control.agent.agent import Agent
from ringlet.control.peripherals import Peripherals
from ringlet.control.plan import Plan
from ringlet.control.spec import MachineSpec
from ringlet.control.tail import Tail
from ringlet.devices.backends.fd_sink import FdSink
from ringlet.devices.uart16550 import Sink
from ringlet.errors import ConfigError, InternalError
from ringlet.images.store import translations_directory
from ringlet.machine import bare, boot, host, outcome
from ringlet.machine.engine import Engine
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.pc import Options, Wire, to_standard_error
from ringlet.machine.vm import Vm
from ringlet.machine.wired import Wired


class Lines(Protocol):
    """What the serial ports of a machine are connected to."""

    def wires(self) -> Sequence[Wire]:
        """Return the connections of COM1 and the ports after it."""

    def attach(self, pc: Wired) -> None:
        """Send input to `pc` from now on."""


class Board:
    """Builds a machine, and builds it anew after each reset; keeps its translations.

    `plan` is None for a bare program.  `machine` and `pc` are the last that were built.  What
    `undisturbed` returns is held while the translations are written.  Raises ConfigError if the
    log cannot be written.
    """

    def __init__(
        self,
        spec: MachineSpec,
        plan: Plan | None,
        lines: Lines,
        *,
        undisturbed: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        complain: Callable[[str], None] = to_standard_error,
    ) -> None:
        self.spec = spec
        self.tail = Tail()
        self.machine: Vm | None = None
        self.pc: Wired | None = None
        self.trouble = ""
        """Why the translations could not be kept, a line for the user, or an empty text."""
        self.resets = 0
        self._led_there = ""  # what led to the last reset, or an empty text
        self._plan = plan
        self._lines = lines
        self._undisturbed = undisturbed
        self._log = _open_log(spec.log) if spec.log is not None else -1
        self._end: End | None = None
        self._changes = threading.Lock()
        directory = None if spec.cold or plan is None else translations_directory()
        self._engine = Engine(
            exact=spec.exact,
            direct=spec.direct,
            directory=directory,
            kernel=plan.kernel if plan is not None else None,
        )
        self._complain = complain
        self._peripherals = Peripherals(spec, plan, complain)

    def build(self) -> Vm:
        """Build the machine, ready for its first instruction.

        Raises ConfigError, ProgramError and HostError.
        """
        self.tail.clear()
        if self._plan is None:
            self.pc = self._build_bare()
        else:
            wires = [*self._lines.wires()]
            if wires:
                first = wires[0]
                sink = self.tail.before(first.sink)
                if self.spec.log is not None:
                    sink = _both(FdSink(self._log, str(self.spec.log)), sink)
                wires[0] = Wire(sink, first.source, first.handshake)
            options = Options(
                wires, self.spec.debug_exit, self._peripherals.devices(), self._complain
            )
            config = self._plan.config(self._peripherals.address)
            self.pc = boot.build(config, self._engine, options)
        self._lines.attach(self.pc)
        machine = self.pc.machine
        with self._changes:
            self.machine = machine
            if self._end is not None:  # the run was ended while the machine was being built
                machine.stop(self._end)
        return machine

    def _build_bare(self) -> Wired:
        if self.spec.program is None:
            raise InternalError("a machine without a plan has no program")
        config = MachineConfig(self.spec.program, self.spec.memory, flat=self.spec.flat)
        (wire,) = self._lines.wires()
        avx = "avx" in host.cpu_flags()
        sink = self.tail.before(wire.sink)
        return bare.build(config, self._engine, sink, wire.source, avx=avx)

    def run(self, execute: Callable[[Vm], End]) -> End:
        """Run the machine by `execute`, again after each reset if the spec says so, to the end.

        A reset after a panic ends the run.  Raises what `execute` raises.
        """
        machine = self.machine or self.build()
        with self._limited(), self._logged():
            while True:
                end = self._explained(execute(machine))
                self._keep()
                if end.kind is not EndKind.RESET or not self.spec.reboot:
                    return end
                self.resets += 1
                self._led_there = end.message.partition("; ")[2]
                self.let_go()
                machine = self.build()

    def connect(self) -> Agent | None:
        """Return the agent of the machine that was built last, once; None if it has none."""
        return self._peripherals.connect()

    def agent_stream(self) -> socket.socket | None:
        """Return the line to that agent, once, for who speaks its protocol; None if it has none."""
        return self._peripherals.agent_stream()

    @property
    def boots(self) -> bool:
        """Whether an init of the guest's own becomes process 1 and starts services."""
        return self._plan is not None and self._plan.boots

    def close(self) -> None:
        """Free the memory of the last machine, and close all that the machines had of the host."""
        self.let_go()
        self._plan = None  # it has the initial RAM disk
        self._peripherals.close()

    def let_go(self) -> None:
        """Free the memory of the last machine, which must not run, at once."""
        with self._changes:
            machine, self.machine, self.pc = self.machine, None, None
        self._engine.let_go()
        if machine is not None:
            machine.free()

    def stop(self, end: End) -> None:
        """End the run with `end`.  Any thread may call this, before the run, too."""
        with self._changes:
            self._end = self._end or end
            if self.machine is not None:
                self.machine.stop(self._end)

    def press_power_button(self) -> bool:
        """Press the guest's power button, if it heeds it; return whether it does.

        Any thread may call this.
        """
        with self._changes:
            return self.machine is not None and self.machine.press_power_button()

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Close the log after the body."""
        try:
            yield
        finally:
            if self._log >= 0:
                log, self._log = self._log, -1
                os.close(log)

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """End the run in the body when the spec's time is over."""
        seconds = self.spec.timeout
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self.stop, [outcome.timed_out(seconds)])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _explained(self, end: End) -> End:
        """Return `end` with what the guest's console says about it."""
        if end.kind is EndKind.RESET and (why := self.tail.panic()):
            return outcome.panicked(why)
        if end.kind is EndKind.HALTED and self.tail.halted():
            return outcome.halted_by_command()
        if end.kind is EndKind.TIMEOUT and self.resets:
            times = "once" if self.resets == 1 else f"{self.resets} times"
            began, _, why = end.message.partition("; ")
            why = why or self._led_there
            return replace(
                end, message=f"{began}, in which it reset the machine {times}{why and '; '}{why}"
            )
        return end

    def _keep(self) -> None:
        try:
            with self._undisturbed():
                self._engine.keep()
        except OSError as error:
            where = error.filename or "translations"
            self.trouble = (
                f"{where}: cannot keep translations: {error.strerror or error}; "
                "--cold runs without them"
            )


def _open_log(path: Path) -> int:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot write the log: {error.strerror}; give another file"
        ) from None
    os.set_blocking(fd, True)
    return fd


def _both(first: Sink, second: Sink) -> Sink:
    def pass_on(data: bytes) -> None:
        first(data)
        second(data)

    return pass_on
