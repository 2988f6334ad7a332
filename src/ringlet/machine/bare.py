"""The bare machine: a static ELF program or a flat image entered at CPL 0, with no firmware.

At the entry point of a 64-bit program:

* the processor is in 64-bit mode with paging on; 2 MiB pages map the first 4 GiB identically,
  writable and executable; RAM extends from 0 to the size given, or to 3 GiB with the rest
  at 4 GiB and above;
* RSP is the top of a stack of 512 KiB, 16-byte aligned; the other general registers are 0;
  RFLAGS is 2, so interrupts are off;
* CS is a 64-bit code segment and DS, ES, SS, FS, GS are flat data segments, from a GDT that the
  program may replace; the IDT is empty, so any exception before the program loads its own IDT shuts
  the processor down;
* x87, SSE and, if the processor has it, AVX are enabled.

At that of a 32-bit program all is the same, but the processor is in protected mode with paging off,
CS (08h) is a 32-bit code segment from 0 to 4 GiB, and the data segments (10h) have the same limits.

A 16-bit image is entered in real mode: CS, DS, ES, SS, FS and GS are the segment it was given, SP
is FFFEh, the other general registers are 0, interrupts are off, and the interrupt vector table is
at 0, with zeros.  x87 and SSE are as after a reset.

There are a 16550 at 3F8h between the source and the sink, an 8259 pair at 20h and A0h, an 8254 at
40h with counter 0 on input 0, system control ports A and B at 92h and 61h, a debug exit port at
F4h, and an I/O APIC at FEC0_0000h.  A reset by port 92h ends the run.
"""

import time
from functools import partial

from ringlet.config import MachineConfig
from ringlet.devices.debug_exit import DebugExit
from ringlet.devices.i8254 import I8254
from ringlet.devices.i8259 import I8259Pair
from ringlet.devices.ioapic import IoApic
from ringlet.devices.port_a import PortA
from ringlet.devices.port_b import PortB
from ringlet.devices.uart16550 import Sink, Source, Uart16550
from ringlet.devices.wiring import Clock
from ringlet.machine import address_map as at
from ringlet.machine import outcome
from ringlet.machine.bus import MemoryBus, PortBus
from ringlet.machine.cpu import Cpu, MakeCpu
from ringlet.machine.elf import Program, load_program, read_program
from ringlet.machine.flat_image import FlatImage, load_flat, read_flat
from ringlet.machine.long_mode import enter_long_mode
from ringlet.machine.pins import Pins
from ringlet.machine.short_modes import enable_vectors, enter_protected_mode, enter_real_mode
from ringlet.machine.vm import InterruptLine, Vm
from ringlet.machine.wired import Wired


def build(
    config: MachineConfig,
    make_cpu: MakeCpu,
    sink: Sink,
    source: Source | None = None,
    *,
    avx: bool,
    clock: Clock = time.monotonic_ns,
) -> Wired:
    """Return a bare machine with the program loaded, about to execute its first instruction.

    `avx` says whether the processor has AVX, which is then enabled.  Raises ProgramError.
    """
    program = check_program(config)
    cpu = make_cpu(config.memory)
    if isinstance(program, FlatImage):
        load_flat(program, cpu)
        place = program.place
        bits, entry = place.bits, place.address
        if bits == 16:
            enter_real_mode(cpu, place.segment, place.offset)
    else:
        load_program(program, cpu)
        bits, entry = program.bits, program.entry
    if bits == 32:
        enter_protected_mode(cpu, entry)
        enable_vectors(cpu, avx=avx)
    elif bits == 64:
        enter_long_mode(cpu, entry, avx=avx)
    return wire(cpu, sink, clock, source)


def check_program(config: MachineConfig) -> Program | FlatImage:
    """Read and check the program or the flat image of `config`.  Raises ProgramError."""
    if config.flat is not None:
        return read_flat(config.program, config.flat, config.memory)
    return read_program(config.program, config.memory)


def wire(cpu: Cpu, sink: Sink, clock: Clock, source: Source | None = None) -> Wired:
    """Put the devices on the bus and connect their lines."""
    bus = PortBus()
    pins = Pins(cpu)
    line = InterruptLine(pins)
    pics = I8259Pair(line)
    machine = Vm(cpu, bus, pics, line, clock)
    machine.at_free(pins.cut)

    pit = I8254(clock, pics.line(at.IRQ_TIMER), machine.timer_changed)
    machine.attach_timer(pit, at.IRQ_TIMER)
    port_b = PortB(lambda level: pit.set_gate(2, level), lambda: pit.out(2))
    uart = Uart16550(sink, pics.line(at.IRQ_COM1), source, handshake=True)
    debug_exit = DebugExit(lambda status: machine.finish(outcome.debug_exit(status)))

    memory, ioapic = MemoryBus(), IoApic(pins.message)
    memory.map(at.IO_APIC, at.IO_APIC_SIZE, ioapic)
    cpu.attach_memory(memory.read, memory.write)
    cpu.attach_level(ioapic.end_of_interrupt)

    bus.map(at.PORT_PIC_MASTER, 2, pics.master)
    bus.map(at.PORT_PIC_SLAVE, 2, pics.slave)
    bus.map(at.PORT_ELCR, 1, pics.master_elcr)
    bus.map(at.PORT_ELCR + 1, 1, pics.slave_elcr)
    bus.map(at.PORT_PIT, 4, pit)
    bus.map(at.PORT_B, 1, port_b)
    reset = partial(machine.finish, outcome.reset())
    port_a = PortA(lambda enabled: pins.mask_a20(not enabled), reset, enabled=True)
    bus.map(at.PORT_A, 1, port_a)
    bus.map(at.PORT_COM1, 8, uart)
    bus.map(at.PORT_DEBUG_EXIT, 4, debug_exit, width=4)
    return Wired(machine, (uart,))
