"""The PC: its devices are where a kernel expects them, and its runs end as they should."""

from collections.abc import Callable

import pytest

from ringlet.core.state import Exit
from ringlet.devices.acpi_pm import (
    PM1_CONTROL,
    PM_TIMER,
    POWER_BUTTON,
    S5_TYPE,
    SCI_EN,
    SLP_EN,
    SLP_TYP_SHIFT,
)
from ringlet.devices.piix4_pm import PMBA, PMREGMISC
from ringlet.devices.virtio.rng import Rng
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


def test_bios_data_area_tells_of_the_memory_below_the_ebda(cpu: FakeCpu) -> None:
    build(cpu)
    assert cpu.memory[0x40E] == (0x9FC0).to_bytes(2, "little")
    assert cpu.memory[0x413] == (639).to_bytes(2, "little")


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


# --- what the guest moves, and the power button


def config(cpu: FakeCpu, slot: int, number: int, register: int) -> None:
    cpu.write(at.PORT_PCI_CONFIG, 4, 1 << 31 | slot << 11 | number << 8 | register)


def test_fixed_hardware_moves_with_pmba(cpu: FakeCpu) -> None:
    build(cpu)
    config(cpu, at.SLOT_PIIX3, 3, PMBA)
    cpu.write(at.PORT_PCI_CONFIG + 4, 4, 0xB000)

    assert cpu.read(at.PORT_PM + PM1_CONTROL, 2) == 0xFFFF
    assert cpu.read(0xB000 + PM1_CONTROL, 2) == SCI_EN
    assert cpu.read(0xB000 + 16, 4) == 0
    config(cpu, at.SLOT_PIIX3, 3, PMREGMISC)
    cpu.write(at.PORT_PCI_CONFIG + 4, 1, 0)
    assert cpu.read(0xB000 + PM1_CONTROL, 2) == 0xFFFF


def test_hardware_over_other_ports_gives_them_back(cpu: FakeCpu) -> None:
    build(cpu, Wire(lambda data: None))
    config(cpu, at.SLOT_PIIX3, 3, PMBA)
    cpu.write(at.PORT_PCI_CONFIG + 4, 4, at.PORT_COM1 & ~63)
    hidden = cpu.read(at.PORT_COM1 + 5, 1)
    cpu.write(at.PORT_PCI_CONFIG + 4, 4, at.PORT_PM)

    assert hidden != 0x60
    assert cpu.read(at.PORT_COM1 + 5, 1) == 0x60


def test_level_of_pci_and_of_an_isa_device_share_an_input(cpu: FakeCpu) -> None:
    """The guest routes PIRQD# to the input of the SCI: neither takes the other's level away."""
    pc = assemble(cpu, Options(devices=[Rng]))
    for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0),
                        (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, 1), (0xA1, 0),
                        (at.PORT_ELCR + 1, 2)):  # fmt: skip
        cpu.write(port, 1, value)
    function = pc.virtio["rng"].function
    config(cpu, at.SLOT_PIIX3, 0, 0x60)
    cpu.write(at.PORT_PCI_CONFIG + 4 + at.pirq(at.SLOT_DEVICES, 1), 1, at.IRQ_SCI)
    cpu.write(at.PORT_PM + 2, 2, POWER_BUTTON)
    pc.machine.press_power_button()
    pc.machine.post(lambda: pc.machine.finish(outcome.powered_off()))
    pc.machine.run()
    function.set_interrupt(True)
    function.set_interrupt(False)
    cpu.write(0xA0, 1, 0x0A)  # reads return the requests

    assert cpu.read(0xA0, 1) == 1 << (at.IRQ_SCI & 7)


def test_power_button_is_pressed_only_for_who_heeds_it(cpu: FakeCpu) -> None:
    machine = build(cpu).machine
    before = machine.press_power_button()
    cpu.write(at.PORT_PM + 2, 2, POWER_BUTTON)
    route(cpu, at.IRQ_SCI, 0x8039)
    pressed = machine.press_power_button()
    machine.post(lambda: machine.finish(outcome.powered_off()))
    machine.run()

    assert (before, pressed) == (False, True)
    assert cpu.read(at.PORT_PM, 2) == POWER_BUTTON
    assert [data & 0xFF for _, data in cpu.messages] == [0x39]


def test_messages_to_absent_processors_are_dropped(cpu: FakeCpu) -> None:
    """An input's entry with destination 100h: 15 bits, of which the low ones are a processor's."""
    build(cpu)
    cpu.write_memory(IO_APIC_SELECT, 4, 0x11 + 2 * at.GSI_TIMER)
    cpu.write_memory(IO_APIC_WINDOW, 4, 1 << 17)
    route(cpu, at.GSI_TIMER, 0x32)
    cpu.write(at.PORT_PIT + 3, 1, 0x34)

    assert cpu.messages == []


def test_routing_table_is_where_a_guest_searches(cpu: FakeCpu) -> None:
    build(cpu)
    assert cpu.memory[at.PCI_ROUTING_TABLE].startswith(b"$PIR")
