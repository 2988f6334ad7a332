"""The 8259A interrupt controller and the PC's cascaded pair (Intel 8259A data sheet).

A request in edge mode stays latched in IRR until it is acknowledged, even if its line falls before
that.  The data sheet requires devices to hold their line, but if the host is slow to run the guest,
a late tick is better than a spurious interrupt 7.
"""

from dataclasses import dataclass, replace

from ringlet.devices.wiring import Line, unconnected

# Initialisation Command Words
ICW1 = 1 << 4
ICW1_IC4 = 1 << 0
ICW1_SNGL = 1 << 1
ICW1_LTIM = 1 << 3
ICW4_AEOI = 1 << 1
ICW4_SFNM = 1 << 4

# Operation Command Words
OCW3 = 1 << 3
OCW3_RIS = 1 << 0
OCW3_RR = 1 << 1
OCW3_POLL = 1 << 2
OCW3_SMM = 1 << 5
OCW3_ESMM = 1 << 6

CASCADE = 2  # the master's input that the slave drives
SPURIOUS = 7


@dataclass(slots=True)
class I8259State:
    """One chip: its registers by their data-sheet names."""

    irr: int = 0
    isr: int = 0
    imr: int = 0
    lines: int = 0  # levels of IR0-IR7
    elcr: int = 0  # the inputs set to level-triggered individually (a PC's addition)
    lowest: int = 7  # input of lowest priority
    vector_base: int = 0
    init_step: int = 0  # the next ICW expected: 0 none, else 2, 3, 4
    icw1: int = 0
    icw3: int = 0
    icw4: int = 0
    read_isr: bool = False
    poll: bool = False
    special_mask: bool = False
    rotate_on_aeoi: bool = False


class I8259:
    """One chip at two ports of one byte; `output` is its INT pin."""

    def __init__(self, output: Line, *, master: bool) -> None:
        self._output = output
        self._master = master
        self._s = I8259State()

    # --- the bus

    def read(self, offset: int, size: int) -> int:
        """Return IMR at offset 1; at offset 0 IRR, ISR or, after a poll command, the request."""
        s = self._s
        if s.poll:
            s.poll = False
            irq = self.pending()
            if irq is None:
                return SPURIOUS
            self.acknowledge()
            return 0x80 | irq
        if offset:
            return s.imr
        return s.isr if s.read_isr else s.irr

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a command word (data sheet, "Programming the 8259A")."""
        s = self._s
        if offset == 0:
            if value & ICW1:
                self._write_icw1(value)
            elif value & OCW3:
                self._write_ocw3(value)
            else:
                self._write_ocw2(value)
        elif s.init_step:
            self._write_icw(value)
        else:
            s.imr = value
        self.update()

    # --- inputs and INTA

    def set_line(self, irq: int, level: bool) -> None:
        """Drive input `irq`, 0 to 7."""
        s = self._s
        bit = 1 << irq
        requests = s.irr
        if level:
            if not s.lines & bit or self._is_level(bit):
                s.irr |= bit
            s.lines |= bit
        else:
            if self._is_level(bit):
                s.irr &= ~bit
            s.lines &= ~bit
        if s.irr != requests:
            self.update()

    def pending(self) -> int | None:
        """Return the input whose request the chip would present now."""
        return self._select(self._s.irr)

    def accepts(self, irq: int) -> bool:
        """Return whether a request of input `irq` would make the chip raise INT now."""
        return self._select(self._s.irr | 1 << irq) is not None

    def acknowledge(self) -> int | None:
        """Do an INTA cycle and return the input put in service; None if the request is gone."""
        irq = self.pending()
        if irq is None:
            return None
        s = self._s
        bit = 1 << irq
        if not self._is_level(bit):
            s.irr &= ~bit
        if s.icw4 & ICW4_AEOI:
            if s.rotate_on_aeoi:
                s.lowest = irq
        else:
            s.isr |= bit
        # INT falls during INTA, so that a further request makes a new edge.
        self._output(False)
        self.update()
        return irq

    def vector(self, irq: int | None) -> int:
        """Return the vector of input `irq`, or that of input 7 if the request is gone (None)."""
        return self._s.vector_base | (SPURIOUS if irq is None else irq)

    def update(self) -> None:
        """Drive the INT pin."""
        self._output(self._s.init_step == 0 and self.pending() is not None)

    # --- the edge/level register of a PC (one port)

    def read_elcr(self) -> int:
        """Return which inputs are level-triggered."""
        return self._s.elcr

    def write_elcr(self, value: int) -> None:
        """Choose which inputs are level-triggered; timer, keyboard and cascade never are."""
        self._s.elcr = value & (0xF8 if self._master else 0xDE)
        self.update()

    # --- state

    def save(self) -> I8259State:
        """Return a copy of the state."""
        return replace(self._s)

    def restore(self, state: I8259State) -> None:
        """Restore `state` and drive INT accordingly."""
        self._s = replace(state)
        self.update()

    # --- inside

    def _select(self, irr: int) -> int | None:
        s = self._s
        requests = irr & ~s.imr
        if not requests:
            return None
        # In special mask mode, a masked input in service does not block other inputs.
        in_service = s.isr & ~s.imr if s.special_mask else s.isr
        for step in range(1, 9):
            irq = (s.lowest + step) & 7
            bit = 1 << irq
            if in_service & bit:
                return irq if requests & bit and self._nests(irq) else None
            if requests & bit:
                return irq
        return None

    def _is_level(self, bit: int) -> bool:
        return bool(self._s.icw1 & ICW1_LTIM or self._s.elcr & bit)

    def _nests(self, irq: int) -> bool:
        """Return whether the slave may interrupt again in service (special fully nested mode)."""
        return self._master and irq == CASCADE and bool(self._s.icw4 & ICW4_SFNM)

    def _write_icw1(self, value: int) -> None:
        s = self._s
        s.icw1 = value
        s.icw3 = s.icw4 = 0
        s.imr = s.isr = 0
        s.lowest = 7
        s.special_mask = s.read_isr = s.poll = s.rotate_on_aeoi = False
        # The edge sense circuit is reset, so a line must rise again.
        s.irr = s.lines if value & ICW1_LTIM else s.lines & s.elcr
        s.init_step = 2

    def _write_icw(self, value: int) -> None:
        s = self._s
        if s.init_step == 2:
            s.vector_base = value & 0xF8
            s.init_step = 3 if not s.icw1 & ICW1_SNGL else 4
        elif s.init_step == 3:
            s.icw3 = value
            s.init_step = 4
        else:
            s.icw4 = value
            s.init_step = 0
        if s.init_step == 4 and not s.icw1 & ICW1_IC4:
            s.init_step = 0

    def _write_ocw2(self, value: int) -> None:
        s = self._s
        level = value & 7
        match value >> 5:
            case 0b001:
                self._end_of_interrupt(self._highest_in_service())
            case 0b011:
                self._end_of_interrupt(level)
            case 0b101:
                irq = self._highest_in_service()
                self._end_of_interrupt(irq)
                if irq is not None:
                    s.lowest = irq
            case 0b111:
                self._end_of_interrupt(level)
                s.lowest = level
            case 0b110:
                s.lowest = level
            case 0b100:
                s.rotate_on_aeoi = True
            case 0b000:
                s.rotate_on_aeoi = False

    def _write_ocw3(self, value: int) -> None:
        s = self._s
        if value & OCW3_ESMM:
            s.special_mask = bool(value & OCW3_SMM)
        if value & OCW3_POLL:
            s.poll = True
        elif value & OCW3_RR:
            s.read_isr = bool(value & OCW3_RIS)

    def _highest_in_service(self) -> int | None:
        s = self._s
        # In special mask mode a non-specific EOI does not clear a masked level's bit.
        in_service = s.isr & ~s.imr if s.special_mask else s.isr
        for step in range(1, 9):
            irq = (s.lowest + step) & 7
            if in_service >> irq & 1:
                return irq
        return None

    def _end_of_interrupt(self, irq: int | None) -> None:
        if irq is not None:
            self._s.isr &= ~(1 << irq)


@dataclass(slots=True)
class I8259PairState:
    """Both chips."""

    master: I8259State
    slave: I8259State


class ElcrPort:
    """The edge/level register of one chip, one port."""

    def __init__(self, chip: I8259) -> None:
        self._chip = chip

    def read(self, offset: int, size: int) -> int:
        """Return which inputs are level-triggered."""
        return self._chip.read_elcr()

    def write(self, offset: int, size: int, value: int) -> None:
        """Choose which inputs are level-triggered."""
        self._chip.write_elcr(value)


class I8259Pair:
    """The two cascaded controllers of a PC: inputs 0 to 15, one output to the processor."""

    def __init__(self, output: Line = unconnected) -> None:
        self.master = I8259(output, master=True)
        self.slave = I8259(self._cascade, master=False)
        self.master_elcr = ElcrPort(self.master)
        self.slave_elcr = ElcrPort(self.slave)

    def line(self, irq: int) -> Line:
        """Return the line that drives input `irq`, 0 to 15 (2 is the cascade's own)."""
        chip = self.slave if irq & 8 else self.master
        number = irq & 7

        def drive(level: bool) -> None:
            chip.set_line(number, level)

        return drive

    def set_level_triggered(self, irq: int) -> None:
        """Make input `irq` level-triggered, as firmware does for those of PCI."""
        chip = self.slave if irq & 8 else self.master
        chip.write_elcr(chip.read_elcr() | 1 << (irq & 7))

    def acknowledge(self) -> int:
        """Do the INTA cycles and return the vector, or the spurious vector if nothing requests."""
        irq = self.master.acknowledge()
        if irq != CASCADE:
            return self.master.vector(irq)
        return self.slave.vector(self.slave.acknowledge())

    def accepts(self, irq: int) -> bool:
        """Return whether a request of input `irq` would reach the processor now."""
        if irq & 8:
            return self.slave.accepts(irq & 7) and self.master.accepts(CASCADE)
        return self.master.accepts(irq)

    def save(self) -> I8259PairState:
        """Return a copy of both states."""
        return I8259PairState(self.master.save(), self.slave.save())

    def restore(self, state: I8259PairState) -> None:
        """Restore `state`."""
        self.slave.restore(state.slave)
        self.master.restore(state.master)

    def _cascade(self, level: bool) -> None:
        self.master.set_line(CASCADE, level)
