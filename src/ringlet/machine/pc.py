"""Wires the PC: the devices that an unmodified Linux kernel expects around its processor.

An 8259 pair and an I/O APIC that share the devices' lines, an 8254, a clock with CMOS memory, four
16550s, a keyboard controller, the fixed ACPI hardware, the reset register, PCI with the chips of a
440FX board and virtio devices, and on request a debug exit port.  The processor brings its local
APIC.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ringlet.devices.acpi_pm import AcpiPm
from ringlet.devices.backends.spool import Spool
from ringlet.devices.debug_exit import DebugExit
from ringlet.devices.i8042 import I8042
from ringlet.devices.i8254 import I8254
from ringlet.devices.i8259 import I8259Pair
from ringlet.devices.ioapic import IoApic
from ringlet.devices.pci_host import PORTS as PCI_PORTS
from ringlet.devices.pci_host import PciHost
from ringlet.devices.piix3 import PIRQS, Piix3
from ringlet.devices.piix4_pm import PORTS as PM_PORTS
from ringlet.devices.piix4_pm import Piix4Pm
from ringlet.devices.port_a import PortA
from ringlet.devices.port_b import PortB
from ringlet.devices.reset import ResetControl
from ringlet.devices.rtc import Rtc
from ringlet.devices.uart16550 import Sink, Source, Uart16550
from ringlet.devices.virtio.pci import VirtioPci
from ringlet.devices.wiring import Clock, Line, PortDevice, SharedLine, joined
from ringlet.machine import acpi, outcome, pci_routing
from ringlet.machine import address_map as at
from ringlet.machine.bus import MemoryBus, PortBus
from ringlet.machine.cpu import Cpu
from ringlet.machine.dsdt import Platform
from ringlet.machine.interrupt_messages import InterruptMessages
from ringlet.machine.pci_slots import Board, MakeDevice, PciSlots
from ringlet.machine.pins import Pins
from ringlet.machine.timers import Timers
from ringlet.machine.vm import InterruptLine, Vm
from ringlet.machine.wired import Wired

_BIOS_DATA: Final = (
    (at.EBDA_SEGMENT, at.LOW_RAM_END >> 4),
    (at.BASE_MEMORY, at.LOW_RAM_END >> 10),
)
"""Words of the BIOS data area that kernels look at, such as Xen, which takes memory below."""
_COMS: Final = (  # ports, and the interrupts that they share
    (at.PORT_COM1, at.IRQ_COM1),
    (at.PORT_COM2, at.IRQ_COM2),
    (at.PORT_COM3, at.IRQ_COM1),
    (at.PORT_COM4, at.IRQ_COM2),
)


def to_standard_error(line: str) -> None:
    """Tell the user `line`."""
    print(f"ringlet: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Pc(Wired):
    """A wired PC; `rsdp` is the RSDP's address, and `rsdp_table` has that table's bytes.

    `virtio` has the devices in PCI slots by their names.
    """

    rsdp: int
    virtio: Mapping[str, VirtioPci] = field(default_factory=dict)
    rsdp_table: bytes = b""


@dataclass(frozen=True, slots=True)
class Wire:
    """The connection of a serial port: the sink of its output and the source of its input.

    With `handshake`, input waits until the guest wants it (`ringlet.devices.uart16550`).
    """

    sink: Sink
    source: Source | None = None
    handshake: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """The properties in which PCs may differ; a PC has those of COM1 to COM4 that have wires.

    `devices` are put in PCI slots in their order; `complain` is told what the user should know, in
    one line, by any thread.
    """

    wires: Sequence[Wire] = ()
    debug_exit: bool = False
    devices: Sequence[MakeDevice] = ()
    complain: Callable[[str], None] = to_standard_error


class Interrupts:
    """The lines of ISA devices, each connected to both interrupt controllers.

    PCI interrupts may share an input of the 8259 pair with them, if the guest routes them so.
    """

    def __init__(self, pics: I8259Pair, ioapic: IoApic) -> None:
        self._inputs = [SharedLine(pics.line(irq)) for irq in range(16)]
        self._ioapic = ioapic

    def pic_line(self, irq: int) -> Line:
        """Return a line to input `irq` of the 8259 pair alone."""
        return self._inputs[irq].tap()

    def line(self, irq: int) -> Line:
        """Return the line of ISA interrupt `irq`."""
        old = self.pic_line(irq)
        new = self._ioapic.line(at.GSI_TIMER if irq == at.IRQ_TIMER else irq)

        def drive(level: bool) -> None:
            old(level)
            new(level)

        return drive


def assemble(
    cpu: Cpu,
    options: Options,
    *,
    clock: Clock = time.monotonic_ns,
    wall: Callable[[], float] = time.time,
) -> Pc:
    """Put the devices on their buses, connect their lines and write the ACPI tables."""
    platform = Platform()
    ports = PortBus()
    memory = MemoryBus()
    pins = Pins(cpu)
    intr = InterruptLine(pins)
    pics = I8259Pair(intr)
    messages = InterruptMessages(dict.fromkeys(platform.apic_ids, pins.message))
    ioapic = IoApic(messages.send)
    interrupts = Interrupts(pics, ioapic)
    machine = Vm(cpu, ports, pics, intr, clock)
    machine.at_free(pins.cut)
    cpu.attach_memory(memory.read, memory.write)
    cpu.attach_level(ioapic.end_of_interrupt)
    cpu.wait_in_halt()
    reset = partial(machine.finish, outcome.reset())

    pit = I8254(clock, interrupts.line(at.IRQ_TIMER), machine.timer_changed)
    power = AcpiPm(
        clock,
        partial(machine.finish, outcome.powered_off()),
        interrupts.line(at.IRQ_SCI),
        machine.timer_changed,
    )
    rtc = Rtc(clock, wall, joined(interrupts.line(at.IRQ_RTC), power.rtc), machine.timer_changed)
    spool = Spool(clock, machine.timer_changed)
    timers = Timers()
    for timer in (pit, rtc, power, spool):
        timers.add(timer)
    machine.attach_timer(timers, at.IRQ_TIMER)
    machine.attach_output(spool.flush)

    a20 = SharedLine(lambda enabled: pins.mask_a20(not enabled))
    keyboard = I8042(reset, interrupts.line(at.IRQ_KEYBOARD), interrupts.line(at.IRQ_MOUSE),
                     a20=a20.tap())  # fmt: skip
    ports.map(at.PORT_A, 1, PortA(a20.tap(), reset))
    ports.map(at.PORT_PIC_MASTER, 2, pics.master)
    ports.map(at.PORT_PIC_SLAVE, 2, pics.slave)
    ports.map(at.PORT_ELCR, 1, pics.master_elcr)
    ports.map(at.PORT_ELCR + 1, 1, pics.slave_elcr)
    ports.map(at.PORT_PIT, 4, pit)
    ports.map(at.PORT_B, 1, PortB(partial(pit.set_gate, 2), partial(pit.out, 2)))
    ports.map(at.PORT_KEYBOARD_DATA, 1, keyboard.data)
    ports.map(at.PORT_KEYBOARD_COMMAND, 1, keyboard.command)
    ports.map(at.PORT_RTC, 2, rtc)
    bridge = PciHost(ResetControl(reset))
    isa = Piix3([ioapic.line(at.GSI_PCI + n) for n in range(PIRQS)], interrupts.pic_line,
                at.IRQS_PCI)  # fmt: skip
    bridge.add(at.SLOT_PIIX3, isa.function)
    pm = Piix4Pm(movable_ports(ports, PM_PORTS, power))
    bridge.add(at.SLOT_PIIX3, pm.function, number=3)
    pm.place(at.PORT_PM)
    for irq in set(at.IRQS_PCI):
        pics.set_level_triggered(irq)
    ports.map(at.PORT_PCI_CONFIG, PCI_PORTS, bridge, width=4)
    if options.debug_exit:
        exit_port = DebugExit(lambda status: machine.finish(outcome.debug_exit(status)))
        ports.map(at.PORT_DEBUG_EXIT, 4, exit_port, width=4)
    memory.map(at.IO_APIC, at.IO_APIC_SIZE, ioapic)

    coms = []
    shared = {irq: SharedLine(interrupts.line(irq)) for irq in (at.IRQ_COM1, at.IRQ_COM2)}
    for wire, (port, irq) in zip(options.wires, _COMS, strict=False):
        line = shared[irq].tap()
        sink = spool.before(wire.sink)
        coms.append(Uart16550(sink, line, wire.source, handshake=wire.handshake))
        ports.map(port, 8, coms[-1])

    board = Board(pins, messages.send, ports, memory, bridge, isa)
    slots = PciSlots(board, cpu.guest_memory, machine, options.complain)
    machine.at_free(slots.forget_memory)
    virtio = {function.device.name: function for function in map(slots.add, options.devices)}
    for function in virtio.values():
        machine.at_end(function.close)
        machine.at_free(function.forget_memory)

    tables = acpi.build(platform)
    cpu.write_phys(tables.base, tables.image)
    cpu.write_phys(at.PCI_ROUTING_TABLE, pci_routing.routing_table())
    for place, word in _BIOS_DATA:
        cpu.write_phys(place, word.to_bytes(2, "little"))
    machine.attach_power_button(power)
    table = tables.image[tables.rsdp - tables.base :][: acpi.RSDP_SIZE]
    return Pc(machine, tuple(coms), tables.rsdp, virtio, table)


def movable_ports(ports: PortBus, count: int, device: PortDevice) -> Callable[[int | None], None]:
    """Return what moves `count` ports of `device` to others, or with None takes them away."""
    places: list[int] = []

    def move(base: int | None) -> None:
        while places:
            ports.unmap(places.pop(), device)
        if base is not None:
            places.append(base)
            ports.map(base, count, device, width=4, over=True)

    return move
