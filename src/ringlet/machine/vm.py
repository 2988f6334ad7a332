"""The run loop in Python: runs the processor, handles its exit, and runs it again."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol, cast

from ringlet.core.state import Exit
from ringlet.devices.i8259 import I8259Pair
from ringlet.devices.wiring import Clock
from ringlet.errors import InternalError, RingletError, unexpected
from ringlet.machine import outcome
from ringlet.machine.bus import PortBus
from ringlet.machine.causes import shutdown, without_handler
from ringlet.machine.cpu import Cpu
from ringlet.machine.outcome import End, EndKind
from ringlet.machine.pins import Pins, Unplugged, detach
from ringlet.machine.place import mode, place
from ringlet.machine.timers import Timer
from ringlet.observe import EmulatedForm

RFLAGS_IF: Final = 1 << 9
MIN_TIMER_NS: Final = 20_000
"""The least interval between updates of timers; a guest with 1 us ticks would starve without it."""

_REGISTERS: Final = (
    "rip", "rflags", "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10",
    "r11", "r12", "r13", "r14", "r15", "cr0", "cr2", "cr3", "cr4", "efer", "cs.selector", "cs.base",
    "ss.selector", "ss.base",
)  # fmt: skip

_UNWANTED: Final = (
    EndKind.HALTED, EndKind.TIMEOUT, EndKind.TRIPLE_FAULT, EndKind.BEYOND, EndKind.RESET,
)  # fmt: skip

_TOLD: Final = (RingletError, OSError, MemoryError)
"""What the command line tells its user in other words than those for a defect."""


class Debugger(Protocol):
    """The debugger's functions that a machine calls, on the guest's thread."""

    def trapped(self) -> None:
        """Handle EXIT_DEBUG from `Cpu.run`; the guest continues when this returns."""

    def dying(self, end: End) -> None:
        """Examine a guest that cannot continue, before the run ends with `end`."""


class PowerButton(Protocol):
    """The fixed power button; only the guest's thread may press it."""

    @property
    def heeds_power_button(self) -> bool:
        """Whether the guest wants to be told of it.  Any thread may ask."""

    def press_power_button(self) -> None:
        """Ask the guest to turn itself off."""


class InterruptLine:
    """The processor's INTR pin, which passes on only changes of its level."""

    def __init__(self, pins: Pins) -> None:
        self._set = pins.set_interrupt
        self.level = False

    def __call__(self, level: bool) -> None:
        if level is not self.level:
            self.level = level
            self._set(level)


class Vm:
    """A virtual machine: a processor, a bus, an interrupt controller and a timer.

    One thread calls `run`; any thread and signal handlers may call `stop`.
    """

    def __init__(
        self,
        cpu: Cpu,
        bus: PortBus,
        interrupts: I8259Pair,
        line: InterruptLine,
        clock: Clock = time.monotonic_ns,
    ) -> None:
        self.cpu = cpu
        self.bus = bus
        self._interrupts = interrupts
        self._line = line
        self._clock = clock
        self._timer: Timer | None = None
        self._timer_irq = 0
        self._end: End | None = None
        self._failure: Exception | None = None
        self._woken = threading.Event()
        self._debugger: Debugger | None = None
        self._button: PowerButton | None = None
        self._flush: Callable[[], None] = lambda: None
        self._stopping: Callable[[End], object] = lambda end: None
        self._closers: list[Callable[[], None]] = []
        self._cutters: list[Callable[[], None]] = []
        self._posted: deque[Callable[[], None]] = deque()
        self._mmio = self._halts = self._kicks = self._injected = self._wall_ns = 0
        self._entry_ns = 0
        self._handlers = self._make_handlers()
        cpu.attach_ports(bus.read, bus.write)

    def attach_timer(self, timer: Timer, irq: int) -> None:
        """Add `timer`, wired to input `irq` of the interrupt controller, to the timers."""
        self._timer = timer
        self._timer_irq = irq

    def attach_output(self, flush: Callable[[], None]) -> None:
        """Add `flush`, which is called when the guest stops, so that no output is held back."""
        self._flush = flush

    def attach_stop(self, stopping: Callable[[End], object]) -> None:
        """Add `stopping`, which is called when `stop` is, with the end; in any thread, or a signal.

        The run may end much later, if the guest's thread waits for a reader of its output.
        """
        self._stopping = stopping

    def attach_power_button(self, button: PowerButton) -> None:
        """Add the power button, by which the host asks the guest to turn itself off."""
        self._button = button

    def press_power_button(self) -> bool:
        """Press the power button, if the guest heeds it; return whether it does.

        Any thread, or a signal handler, may call this.
        """
        button = self._button
        if button is None or not button.heeds_power_button:
            return False
        self.post(button.press_power_button)
        return True

    def at_end(self, close: Callable[[], None]) -> None:
        """Add `close`, of a device with threads or files of the host, for the end of the run."""
        self._closers.append(close)

    def close(self) -> None:
        """End the devices' threads and close what they use of the host."""
        while self._closers:
            self._closers.pop(0)()

    def at_free(self, cut: Callable[[], None]) -> None:
        """Add `cut`, by which a part of the machine lets go of the processor and its memory."""
        self._cutters.append(cut)

    def free(self) -> Cpu:
        """Take the machine apart, which must not run any more, and return its processor.

        Its memory is free as soon as the caller lets go of the processor.
        """
        self.close()
        cpu, self.cpu = self.cpu, cast("Cpu", Unplugged())
        detach(cpu)
        self._debugger = None
        self._posted.clear()
        while self._cutters:
            self._cutters.pop()()
        return cpu

    def attach_debugger(self, debugger: Debugger) -> None:
        """Add `debugger`, which is notified of the guest's stops."""
        self._debugger = debugger

    def timer_changed(self) -> None:
        """Set the alarm again, after a timer was programmed."""
        self._set_alarm(self._timer.next_event() if self._timer is not None else None)

    def _set_alarm(self, due: int | None) -> None:
        self.cpu.set_alarm(None if due is None else max(due, self._clock() + MIN_TIMER_NS))

    def finish(self, end: End) -> None:
        """End the run with `end`, unless it has ended already.  Devices call this."""
        if self._end is None:
            self._end = end
            # A device may call this within `run`.
            self.cpu.kick()

    def post(self, call: Callable[[], None]) -> None:
        """Make the guest's thread call `call` soon.  Any thread may post.

        Only the guest's thread may use devices, so input from outside reaches them this way.
        """
        self._posted.append(call)
        self.cpu.kick()
        self._woken.set()

    def stop(self, end: End) -> None:
        """End the run from another thread or a signal handler."""
        self.finish(end)
        self._woken.set()
        self._stopping(end)

    def fail(self, error: Exception) -> None:
        """End the run, which raises `error` or a report of it; for threads that serve the guest."""
        if self._failure is None:
            self._failure = error
        self.stop(outcome.failed())

    @property
    def ended(self) -> bool:
        """Return whether the run has ended or is about to end."""
        return self._end is not None

    def run(self) -> End:
        """Run the guest until it ends, and return how it ended.

        Raises OutputError if the guest's output cannot be written, InternalError for a defect of
        Ringlet.
        """
        run = self.cpu.run
        handlers = self._handlers
        started = self._clock()
        self._entry_ns = self._entry_ns or started
        try:
            while self._end is None:
                handlers[run()]()
            if self._failure is not None:
                raise self._failure
        except BaseException as error:
            with contextlib.suppress(Exception):  # it would hide the first error
                self._flush()
            if isinstance(error, _TOLD) or not isinstance(error, Exception):
                raise
            raise unexpected(error, self._report()) from error
        finally:
            self._wall_ns += self._clock() - started
            self.close()
        self._flush()
        return self._explained(self._end)

    def _explained(self, end: End) -> End:
        """Return `end` with what the guest's processor tells of the reason."""
        if end.kind in _UNWANTED and (why := without_handler(self.cpu)):
            return replace(end, message=f"{end.message}; {why}")
        return end

    def counters(self) -> dict[str, int]:
        """Return the processor's counters and the machine's own (`ringlet.observe`)."""
        return {
            **self.cpu.counters(),
            "machine_mmio": self._mmio,
            "machine_halts": self._halts,
            "machine_kicks": self._kicks,
            "machine_injected": self._injected,
            "machine_entry_ns": self._entry_ns,
            "machine_wall_ns": self._wall_ns,
        }

    def emulated_forms(self) -> list[EmulatedForm]:
        """Return the instruction forms that the general emulator performed, by frequency."""
        return self.cpu.emulated_forms()

    # --- exits

    def _make_handlers(self) -> list[Callable[[], None]]:
        handlers = [self._unexpected] * (max(Exit) + 1)
        handlers[Exit.EXIT_NONE] = self._nothing
        handlers[Exit.EXIT_MMIO_READ] = self._mmio_read
        handlers[Exit.EXIT_MMIO_WRITE] = self._mmio_write
        handlers[Exit.EXIT_HLT] = self._halt
        handlers[Exit.EXIT_SHUTDOWN] = self._shutdown
        handlers[Exit.EXIT_INTERRUPTED] = self._interrupted
        handlers[Exit.EXIT_WINDOW] = self._window
        handlers[Exit.EXIT_DEBUG] = self._trapped
        handlers[Exit.EXIT_NO_RAM] = partial(self._beyond, "there is no RAM at this address")
        return handlers

    def _nothing(self) -> None:
        """Handle an exit that needs no action."""

    def _mmio_read(self) -> None:
        # No device answers at this address, so the bus floats high.
        self._mmio += 1
        self.cpu.complete((1 << 8 * self.cpu.exit_info().size) - 1)

    def _mmio_write(self) -> None:
        self._mmio += 1
        self.cpu.complete()

    def _shutdown(self) -> None:
        where = place(self.cpu, self.cpu.get("shutdown_rip"))
        self._die(outcome.triple_fault(where, shutdown(self.cpu)))

    def _beyond(self, why: str) -> None:
        self._die(outcome.beyond(place(self.cpu, self.cpu.get("rip")), why))

    def _die(self, end: End) -> None:
        if self._debugger is not None:
            self._flush()
            self._debugger.dying(end)
        self.finish(end)

    def _trapped(self) -> None:
        if self._debugger is None:
            self._unexpected()
        else:
            self._flush()
            self._debugger.trapped()

    def _interrupted(self) -> None:
        self._kicks += 1
        self._work()
        if self._timer is not None:
            self._set_alarm(self._timer.tick())
        if self.cpu.interruptible():
            self._window()

    def _work(self) -> None:
        while self._posted:
            self._flush()  # the guest stops in a debugger's call
            self._posted.popleft()()

    def _window(self) -> None:
        self._injected += 1
        self.cpu.inject(self._interrupts.acknowledge())

    def _halt(self) -> None:
        """Wait for the next interrupt, or end the run if none can come."""
        self._halts += 1
        self.cpu.set_alarm(None)
        rip, flags = self.cpu.get("rip"), self.cpu.get("rflags")
        while self._end is None:
            self._woken.clear()
            self._work()
            if self.cpu.get("rip") != rip:
                break  # a debugger has changed RIP
            if self._timer is not None:
                self._timer.update()
            if not flags & RFLAGS_IF:
                self._halted_for_good("interrupts are off")
            elif self._line.level:
                break
            elif self._timer is None or (due := self._timer.next_event()) is None:
                self._halted_for_good("no timer is running")
            elif not self._interrupts.accepts(self._timer_irq):
                self._halted_for_good("the timer's interrupt is masked or still in service")
            else:
                self._woken.wait(max(0, due - self._clock()) / 1e9)
        self.timer_changed()

    def _halted_for_good(self, why: str) -> None:
        self.finish(outcome.halted(place(self.cpu, self.cpu.get("rip")), why))

    def _unexpected(self) -> None:
        info = self.cpu.exit_info()
        details: dict[str, object] = {"phys": info.phys, "port": info.port}
        raise InternalError("the processor left with an exit that this machine lacks", details)

    def _report(self) -> dict[str, object]:
        """Return what a report of a defect needs: registers, and counters that are not 0."""
        report: dict[str, object] = {"mode": mode(self.cpu)}
        report |= {name: self.cpu.get(name) for name in _REGISTERS}
        return report | {name: str(n) for name, n in self.counters().items() if n}
