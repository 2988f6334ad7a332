"""The PC: its devices are where a kernel expects them, and its runs end as they should."""

from collections.abc import Callable

import pytest

from ringlet.core.state import Exit
from ringlet.devices.acpi_pm import PM1_CONTROL, PM_TIMER, S5_TYPE, SLP_EN, SLP_TYP_SHIFT
from ringlet.machine import address_map as at
from ringlet.machine import outcome
from ringlet.machine.outcome import EndKind
from ringlet.machine.pc import Options, Pc, Wire, assemble
from tests.unit.machine.fake_cpu import FakeCpu, FakeExit

IO_APIC_SELECT, IO_APIC_WINDOW = at.IO_APIC, at.IO_APIC + 0x10


@pytest.fixture
def cpu() -> FakeCpu:
    return FakeCpu()


def build(cpu: FakeCpu, *wires: Wire) -> Pc:
    return assemble(cpu, Options(wires, debug_exit=True))


def route(cpu: FakeCpu, number: int, vector: int) -> None:
    """Unmask an input of the I/O APIC."""
    cpu.write_memory(IO_APIC_SELECT, 4, 0x10 + 2 * number)
    cpu.write_memory(IO_APIC_WINDOW, 4, vector)


def test_processor_is_asked_to_wait_in_halt(cpu: FakeCpu) -> None:
    build(cpu)
    assert cpu.waits_in_halt


def test_root_pointer_of_acpi_is_in_memory(cpu: FakeCpu) -> None:
    pc = build(cpu)
    assert cpu.memory[pc.rsdp].startswith(b"RSD PTR ")


def test_memory_without_a_device_reads_as_ones(cpu: FakeCpu) -> None:
    build(cpu)
    assert cpu.read_memory(0xD000_0000, 8) == (1 << 64) - 1
    cpu.write_memory(0xD000_0000, 4, 0)


@pytest.mark.parametrize(
    ("irq", "pin"), [(at.IRQ_TIMER, at.GSI_TIMER), (at.IRQ_COM1, at.IRQ_COM1)]
)
def test_isa_interrupts_reach_both_controllers(cpu: FakeCpu, irq: int, pin: int) -> None:
    build(cpu, Wire(lambda data: None))
    mask = 0xFF & ~(1 << irq)
    for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, mask)):
        cpu.write(port, 1, value)
    route(cpu, pin, 0x30 + pin)
    if irq == at.IRQ_COM1:
        cpu.write(at.PORT_COM1 + 4, 1, 8)
        cpu.write(at.PORT_COM1 + 1, 1, 2)
    else:
        cpu.write(at.PORT_PIT + 3, 1, 0x34)
    assert cpu.pending
    assert cpu.messages == [(0xFEE0_0000, 0x30 + pin)]


def test_ends_of_level_triggered_interrupts_are_reported(cpu: FakeCpu) -> None:
    build(cpu)
    route(cpu, at.IRQ_SCI, 0x8039)
    cpu.level_ended(0x39)
    assert cpu.messages == []


def test_serial_ports_are_as_many_as_wires(cpu: FakeCpu) -> None:
    sent: list[bytes] = []
    pc = build(cpu, Wire(sent.append), Wire(sent.append))
    cpu.write(at.PORT_COM2, 1, ord("x"))
    pc.machine.finish(outcome.powered_off())
    pc.machine.run()
    assert sent == [b"x"]
    assert cpu.read(at.PORT_COM3 + 5, 1) == 0xFF


def test_serial_output_comes_within_a_millisecond(cpu: FakeCpu) -> None:
    sent: list[bytes] = []
    now = 1_000_000
    pc = assemble(cpu, Options([Wire(sent.append)]), clock=lambda: now)
    cpu.write(at.PORT_COM1, 1, ord("x"))
    assert cpu.due is not None
    assert 1_000_000 < cpu.due <= 2_000_000
    now = cpu.due
    # The processor's alarm rings before anything else happens.
    cpu.script = [FakeExit(Exit.EXIT_SHUTDOWN, effect=lambda: sent.append(b"|"))]
    pc.machine.run()
    assert sent == [b"x", b"|"]


def test_serial_input_comes_from_the_wire(cpu: FakeCpu) -> None:
    left = bytearray(b"hi")

    def source(size: int) -> bytes:
        data = bytes(left[:size])
        del left[:size]
        return data

    pc = build(cpu, Wire(lambda data: None, source, handshake=True))
    pc.coms[0].poll()
    assert not cpu.read(at.PORT_COM1 + 5, 1) & 1, "before the guest asserts RTS"
    cpu.write(at.PORT_COM1 + 4, 1, 0xB)
    assert [cpu.read(at.PORT_COM1, 1) for _ in range(2)] == list(b"hi")


def test_clock_and_timers_answer(cpu: FakeCpu) -> None:
    build(cpu)
    cpu.write(at.PORT_RTC, 1, 0x0D)
    assert cpu.read(at.PORT_RTC + 1, 1) & 0x80
    first = cpu.read(at.PORT_PM + PM_TIMER, 4)
    assert cpu.read(at.PORT_PM + PM_TIMER, 4) >= first
    cpu.write(at.PORT_PCI_CONFIG, 4, 0x8000_0000)
    assert cpu.read(at.PORT_PCI_CONFIG + 4, 2) == 0x8086


ENDS: list[tuple[Callable[[FakeCpu], None], EndKind, int]] = [
    (
        lambda cpu: cpu.write(at.PORT_PM + PM1_CONTROL, 2, S5_TYPE << SLP_TYP_SHIFT | SLP_EN),
        EndKind.POWER_OFF,
        0,
    ),
    (lambda cpu: cpu.write(at.PORT_RESET, 1, 6), EndKind.RESET, 3),
    (lambda cpu: cpu.write(at.PORT_KEYBOARD_COMMAND, 1, 0xFE), EndKind.RESET, 3),
    (lambda cpu: cpu.write(at.PORT_DEBUG_EXIT, 1, 4), EndKind.DEBUG_EXIT, 9),
]


@pytest.mark.parametrize(("act", "kind", "status"), ENDS, ids=["s5", "cf9", "8042", "debug-exit"])
def test_ends(cpu: FakeCpu, act: Callable[[FakeCpu], None], kind: EndKind, status: int) -> None:
    machine = build(cpu).machine
    act(cpu)
    end = machine.run()
    assert (end.kind, end.status) == (kind, status)


def test_calls_from_other_threads_are_made_by_the_machines(cpu: FakeCpu) -> None:
    machine = build(cpu).machine
    made: list[int] = []
    machine.post(lambda: made.append(1))
    machine.post(lambda: cpu.write(at.PORT_DEBUG_EXIT, 1, 0))
    assert made == []
    machine.run()
    assert made == [1]


def test_timer_sets_the_alarm(cpu: FakeCpu) -> None:
    build(cpu)
    assert cpu.due is None
    for port, value in ((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04)):  # 1 kHz
        cpu.write(port, 1, value)
    assert cpu.due is not None
