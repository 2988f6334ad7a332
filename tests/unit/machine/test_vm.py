"""The run loop over a fake processor: exits, interrupts, halts, timers, stopping."""

import threading
import time

import pytest

from ringlet.core.state import Exit
from ringlet.errors import InternalError, OutputError
from ringlet.machine import bare, outcome
from ringlet.machine.outcome import EndKind
from ringlet.machine.vm import Vm
from tests.unit.machine.fake_cpu import HLT, FakeCpu, FakeExit, inp, out

IF = 0x200


class Console:
    """The bytes that the serial port sent."""

    def __init__(self) -> None:
        self.sent = b""

    def __call__(self, data: bytes) -> None:
        self.sent += data


@pytest.fixture
def console() -> Console:
    return Console()


def machine_for(cpu: FakeCpu, console: Console) -> Vm:
    return bare.wire(cpu, console, time.monotonic_ns).machine


PIC_SETUP = [
    out(port, value)
    for port, value in (
        (0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1),
        (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, 1),
        (0x21, 0xFE), (0xA1, 0xFF),
    )
]  # fmt: skip
TIMER_SETUP = [out(0x43, 0x34), out(0x40, 1200 & 0xFF), out(0x40, 1200 >> 8)]
BYE = out(0xF4, 0)


def test_serial_output_and_debug_exit(console: Console) -> None:
    cpu = FakeCpu([out(0x3F8, ord("h")), out(0x3F8, ord("i")), out(0xF4, 0x10)])
    end = machine_for(cpu, console).run()

    assert console.sent == b"hi"
    assert (end.kind, end.status) == (EndKind.DEBUG_EXIT, 0x21)


def test_in_is_completed_with_what_the_device_says(console: Console) -> None:
    cpu = FakeCpu([inp(0x3FD), inp(0x80, 2), BYE])
    machine_for(cpu, console).run()

    assert cpu.completed[:2] == [0x60, 0xFFFF]


def test_memory_without_ram_reads_as_ones(console: Console) -> None:
    read = FakeExit(Exit.EXIT_MMIO_READ, phys=0xFEE00000, size=4)
    write = FakeExit(Exit.EXIT_MMIO_WRITE, phys=0xFEE00000, size=8)
    cpu = FakeCpu([read, write, BYE])
    machine_for(cpu, console).run()

    assert cpu.completed[0] == 0xFFFFFFFF


def test_triple_fault_names_the_faulting_rip(console: Console) -> None:
    cpu = FakeCpu([FakeExit(Exit.EXIT_SHUTDOWN)])
    cpu.registers["shutdown_rip"] = 0x101234
    end = machine_for(cpu, console).run()

    assert (end.kind, end.status) == (EndKind.TRIPLE_FAULT, 3)
    assert "0x101234" in end.message


def test_triple_fault_names_its_exceptions(console: Console) -> None:
    cpu = FakeCpu([FakeExit(Exit.EXIT_SHUTDOWN)])
    faults = (14, 2, 0, 0x5008), (14, 0, 0, 0x6010), (8, 0, 0, 0), (13, 0x43, 0, 0)
    series = ((0x21, 0, 2, 0), *faults)
    for number, values in enumerate(series):
        for name, value in zip(("vector", "error", "source", "cr2"), values, strict=True):
            cpu.registers[f"raised{number}.{name}"] = value
    cpu.registers["raised_count"] = len(series)
    end = machine_for(cpu, console).run()

    assert end.message.endswith(
        ": interrupt 21h; its delivery raised #PF(0002) at 0x5008, #PF(0000) at 0x6010, #DF(0000) "
        "and #GP(0043)"
    )


def test_reset_by_port_92_ends_the_run(console: Console) -> None:
    end = machine_for(FakeCpu([out(0x92, 2), out(0x92, 3)]), console).run()

    assert (end.kind, end.status) == (EndKind.RESET, 3)


def test_halt_with_interrupts_off_ends_the_run(console: Console) -> None:
    end = machine_for(FakeCpu([HLT]), console).run()

    assert (end.kind, end.status) == (EndKind.HALTED, 4)
    assert "interrupts are off" in end.message


def test_halt_without_a_timer_ends_the_run(console: Console) -> None:
    cpu = FakeCpu([*PIC_SETUP, HLT])
    cpu.registers["rflags"] = IF
    end = machine_for(cpu, console).run()

    assert "no timer is running" in end.message


def test_halt_with_the_timer_masked_ends_the_run(console: Console) -> None:
    cpu = FakeCpu([*PIC_SETUP, *TIMER_SETUP, out(0x21, 0xFF), HLT])
    cpu.registers["rflags"] = IF
    end = machine_for(cpu, console).run()

    assert "masked" in end.message


def test_halt_waits_for_the_timer_and_delivers_its_vector(console: Console) -> None:
    cpu = FakeCpu([*PIC_SETUP, *TIMER_SETUP, out(0x20, 0x20), HLT, BYE])
    cpu.registers["rflags"] = IF
    machine = machine_for(cpu, console)
    machine.run()

    # Setting mode 2 raises the output and so gives a tick of its own, as on the chip.
    assert cpu.injected == [0x20, 0x20]
    assert machine.counters()["machine_halts"] == 1


def test_timer_interrupts_a_guest_that_computes(console: Console) -> None:
    cpu = FakeCpu([*PIC_SETUP, *TIMER_SETUP])
    cpu.registers["rflags"] = IF
    machine = machine_for(cpu, console)
    stopper = threading.Timer(0.3, machine.stop, [outcome.stopped(15)])
    stopper.start()
    end = machine.run()
    stopper.join()

    assert end.status == 143
    assert cpu.injected[:1] == [0x20]
    assert machine.counters()["machine_kicks"] >= 1


def test_pending_interrupt_waits_for_the_guest_to_allow_it(console: Console) -> None:
    def allow() -> None:
        cpu.registers["rflags"] = IF

    def wait() -> None:
        time.sleep(0.005)

    cpu = FakeCpu(
        [
            *PIC_SETUP,
            *TIMER_SETUP,
            FakeExit(Exit.EXIT_NONE, effect=wait),
            inp(0x40),
            FakeExit(Exit.EXIT_INTERRUPTED),
            FakeExit(Exit.EXIT_NONE, effect=allow),
            BYE,
        ]
    )
    machine_for(cpu, console).run()

    assert cpu.injected == [0x20]


def test_serial_interrupt_reaches_the_processor(console: Console) -> None:
    cpu = FakeCpu([*PIC_SETUP, out(0x21, 0xEF), out(0x3FC, 8), out(0x3F9, 2), BYE])
    cpu.registers["rflags"] = IF
    machine_for(cpu, console).run()

    assert cpu.injected == [0x24]


def test_stop_ends_a_guest_that_halts(console: Console) -> None:
    slow = [out(0x43, 0x34), out(0x40, 0), out(0x40, 0)]
    cpu = FakeCpu([*PIC_SETUP, *slow, HLT, HLT, HLT], interruptible_by_flag=False)
    cpu.registers["rflags"] = IF
    machine = machine_for(cpu, console)
    stopper = threading.Timer(0.02, machine.stop, [outcome.stopped(2)])
    started = time.monotonic()
    stopper.start()
    end = machine.run()
    stopper.join()

    assert end.status == 130
    assert time.monotonic() - started < 5


def test_stop_before_run_is_not_lost(console: Console) -> None:
    machine = machine_for(FakeCpu(), console)
    machine.stop(outcome.stopped(15))

    assert machine.run().status == 143


def test_the_first_end_counts(console: Console) -> None:
    machine = machine_for(FakeCpu(), console)
    machine.stop(outcome.stopped(15))
    machine.stop(outcome.stopped(2))

    assert machine.run().status == 143


def test_an_exit_without_a_handler_is_an_internal_error(console: Console) -> None:
    cpu = FakeCpu([FakeExit(Exit.EXIT_EOI)])

    with pytest.raises(InternalError, match="rip=0x100000"):
        machine_for(cpu, console).run()


def test_what_a_device_raises_is_an_internal_error_with_its_cause(console: Console) -> None:
    def broken() -> None:
        raise ZeroDivisionError("in a device")

    cpu = FakeCpu([FakeExit(Exit.EXIT_MMIO_WRITE, effect=broken)])

    with pytest.raises(InternalError, match=r"in a device.*at=test_vm.*rip=0x100000") as raised:
        machine_for(cpu, console).run()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_what_another_thread_reports_ends_the_run_as_an_internal_error(console: Console) -> None:
    machine = machine_for(FakeCpu(), console)
    threading.Timer(0.05, machine.fail, [KeyError("a thread")]).start()

    with pytest.raises(InternalError, match=r"KeyError.*rip=0x100000"):
        machine.run()


def test_a_failure_that_has_words_for_the_user_keeps_them(console: Console) -> None:
    machine = machine_for(FakeCpu(), console)
    threading.Timer(0.05, machine.fail, [OutputError("the terminal is gone")]).start()

    with pytest.raises(OutputError):
        machine.run()


def test_code_that_cannot_be_run_ends_the_run(console: Console) -> None:
    end = machine_for(FakeCpu([FakeExit(Exit.EXIT_NO_RAM)]), console).run()

    assert end.status == 5
    assert "RIP 0x100000" in end.message
    assert "no RAM" in end.message


def test_a_sink_that_fails_ends_the_run_with_its_error() -> None:
    def broken(data: bytes) -> None:
        raise OutputError("standard output was closed by its reader")

    with pytest.raises(OutputError):
        bare.wire(FakeCpu([out(0x3F8, 65)]), broken, time.monotonic_ns).machine.run()


def test_no_thread_is_left_behind(console: Console) -> None:
    cpu = FakeCpu([*PIC_SETUP, *TIMER_SETUP, BYE])
    before = threading.active_count()
    machine_for(cpu, console).run()

    assert threading.active_count() == before


def test_counters_join_the_processors_and_the_machines(console: Console) -> None:
    machine = machine_for(FakeCpu([out(0x3F8, 65), inp(0x3FD), BYE]), console)
    machine.run()
    counters = machine.counters()

    assert counters["exits"] == 7
    assert counters["machine_wall_ns"] > 0
    assert counters["machine_entry_ns"] > 0


# --- output that is held back


class Gathered:
    """The guest's position at each request for output."""

    def __init__(self, cpu: FakeCpu, console: Console) -> None:
        self.stops: list[str] = []
        self.machine = machine_for(cpu, console)
        self.machine.attach_output(lambda: self.stops.append("flushed"))
        self.machine.attach_debugger(self)

    def trapped(self) -> None:
        self.stops.append("stopped")

    def dying(self, end: outcome.End) -> None:
        self.stops.append("dying")


def test_output_is_complete_where_a_debugger_stops_the_guest(console: Console) -> None:
    gathered = Gathered(FakeCpu([FakeExit(Exit.EXIT_DEBUG), BYE]), console)
    gathered.machine.run()

    assert gathered.stops == ["flushed", "stopped", "flushed"]


def test_output_is_complete_where_a_debugger_looks_at_a_guest_that_dies(console: Console) -> None:
    gathered = Gathered(FakeCpu([FakeExit(Exit.EXIT_SHUTDOWN)]), console)
    gathered.machine.run()

    assert gathered.stops == ["flushed", "dying", "flushed"]


def test_output_is_complete_where_a_debugger_breaks_in(console: Console) -> None:
    cpu = FakeCpu([FakeExit(Exit.EXIT_INTERRUPTED), BYE])
    gathered = Gathered(cpu, console)
    gathered.machine.post(lambda: gathered.stops.append("stopped"))
    gathered.machine.run()

    assert gathered.stops == ["flushed", "stopped", "flushed"]


def test_output_that_cannot_be_written_does_not_hide_a_defect(console: Console) -> None:
    gathered = Gathered(FakeCpu([FakeExit(Exit.EXIT_BLOCK)]), console)

    def full() -> None:
        raise OutputError("standard output: no space")

    gathered.machine.attach_output(full)
    with pytest.raises(InternalError):
        gathered.machine.run()


def test_unwritable_output_at_the_end_is_reported(console: Console) -> None:
    gathered = Gathered(FakeCpu([BYE]), console)

    def full() -> None:
        raise OutputError("standard output: no space")

    gathered.machine.attach_output(full)
    with pytest.raises(OutputError):
        gathered.machine.run()


def test_output_is_complete_after_a_defect_of_ours(console: Console) -> None:
    gathered = Gathered(FakeCpu([FakeExit(Exit.EXIT_BLOCK)]), console)
    with pytest.raises(InternalError):
        gathered.machine.run()

    assert gathered.stops == ["flushed"]
