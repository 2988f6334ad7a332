"""Access from Python to the registers, memory, doorbells and pins of one virtual CPU."""
import time

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.string cimport memcpy
from ringlet.core.alarm cimport alarm_set, to_ticks
from ringlet.core.host cimport host_ticks
from ringlet.core.prod cimport request_stop
from ringlet.core.state cimport *
from ringlet.core.vectors cimport vectors_settle
from ringlet.mmu.guest_memory cimport guest_memory
from ringlet.mmu.layout cimport Mmu
from ringlet.mmu.mmu cimport (
    mmu_flush_all, mmu_load_cr3, mmu_look, mmu_mask_a20, mmu_read, mmu_write, phys_read, phys_write)
from ringlet.mmu.ram cimport about_to_write
from ringlet.vcpu.apic.local cimport apic_due, apic_line, apic_message
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.doorbells cimport (
    DOORBELL_MEMORY, DOORBELL_PORT, doorbell_attach, doorbell_detach)
from ringlet.vcpu.system.host_fpu cimport AREA_FDP, AREA_FIP, AREA_FOP
from ringlet.vcpu.system.x87 cimport (
    FPU_DATA, FPU_INSTRUCTION, guest_opcode, guest_pointer, load_pointer)

from ringlet.vcpu.fields import FIELDS

cdef enum:
    XSAVE_SIZE = 832


cdef class ProcessorState:
    """The part of `Processor` that does not run: memory, registers, doorbells, and its pins."""

    cdef u8* xsave(self):
        return <u8*>((<u64>&self.c.xsave[0] + 63) & ~<u64>63)

    @property
    def conduct(self) -> int:
        """What it does where processors differ (`ringlet.arch.vendors.Conduct`)."""
        return self.c.conduct

    # --- memory

    def read_phys(self, u64 address, size_t size) -> bytes:
        """Return `size` bytes of guest physical memory; ValueError where there is no RAM."""
        data = PyBytes_FromStringAndSize(NULL, size)
        if phys_read(self.c, address, PyBytes_AsString(data), size) != MEM_OK:
            raise ValueError(f"no RAM at guest physical {address:#x}, {size} bytes")
        return data

    def write_phys(self, u64 address, const unsigned char[::1] data) -> None:
        """Write guest physical memory and drop the translations of changed code."""
        if data.shape[0] and phys_write(self.c, address, &data[0], data.shape[0]) != MEM_OK:
            raise ValueError(f"no RAM at guest physical {address:#x}, {data.shape[0]} bytes")

    def read_linear(self, u64 address, size_t size) -> bytes:
        """Return `size` bytes at a linear address, read as supervisor; ValueError if not mapped."""
        data = PyBytes_FromStringAndSize(NULL, size)
        if mmu_read(self.c, address, PyBytes_AsString(data), size, ACC_READ) != MEM_OK:
            raise ValueError(f"linear {address:#x} is not mapped to RAM")
        return data

    def translate_linear(self, u64 address) -> int | None:
        """Return the guest physical address of a linear one; None: the guest's tables have none."""
        cdef u64 phys = 0
        return phys if mmu_look(self.c, address, &phys) else None

    def write_linear(self, u64 address, const unsigned char[::1] data) -> None:
        if data.shape[0] and mmu_write(self.c, address, &data[0], data.shape[0],
                                       ACC_WRITE) != MEM_OK:
            raise ValueError(f"linear {address:#x} is not mapped to writable RAM")

    def guest_memory(self):
        """Return the guest's memory for devices (`ringlet.mmu.guest_memory`)."""
        return guest_memory(self, (<Mmu*>self.c.mmu).ram)

    def drop_code(self, u64 address, u64 size) -> None:
        """Drop all translations of a range of guest physical memory that a device has written."""
        cdef u64 page = address & ~<u64>0xFFF
        while page < address + size:
            about_to_write((<Mmu*>self.c.mmu).ram, page)
            page += 0x1000

    # --- registers

    def get(self, str name) -> int:
        """Return the value of a register, given its SDM name in lower case."""
        if name == "rflags":
            return get_rflags(self.c)
        if name == "cpl":
            return self.c.arch.cpl
        if name == "exception":
            return self.c.exc_vector | (<u64>self.c.exc_error << 32)
        offset, size = FIELDS[name]
        return int.from_bytes((<u8*>self.c + <size_t>offset)[:<size_t>size], "little")

    def set(self, str name, u64 value) -> None:
        """Set a register; control registers take effect at once."""
        if name == "rflags":
            set_rflags(self.c, value)
        elif name == "cpl":
            self.c.arch.cpl = value & 3
        else:
            offset, size = FIELDS[name]
            memcpy(<u8*>self.c + <size_t>offset, &value, size)
        self.c.resume = 0
        if name in ("cr0", "cr4", "efer"):
            mmu_flush_all(self.c)
        if name == "cr3":
            mmu_load_cr3(self.c)
        update_key(self.c)

    cdef Segment* segment(self, int index):
        if 0 <= index < 6:
            return &self.c.arch.seg[index]
        if index == 6:
            return &self.c.arch.ldtr
        if index == 7:
            return &self.c.arch.tr
        return NULL

    def get_segment(self, int index) -> tuple[int, int, int, int]:
        """Return (selector, base, limit, access rights) of a segment register.

        The index is that of ES CS SS DS FS GS (0-5), LDTR (6), TR (7).
        """
        cdef Segment* s = self.segment(index)
        if s == NULL:
            raise IndexError(index)
        return s.selector, s.base, s.limit, s.ar

    def set_segment(self, int index, u16 selector, u64 base, u32 limit, u32 ar) -> None:
        cdef Segment* s = self.segment(index)
        if s == NULL:
            raise IndexError(index)
        s.selector = selector
        s.base = base
        s.limit = limit
        s.ar = ar
        self.c.resume = 0
        update_key(self.c)

    def get_table(self, str name) -> tuple[int, int]:
        """Return (base, limit) of "gdtr" or "idtr"."""
        cdef TableReg* t = &self.c.arch.gdtr if name == "gdtr" else &self.c.arch.idtr
        return t.base, t.limit

    def set_table(self, str name, u64 base, u32 limit) -> None:
        cdef TableReg* t = &self.c.arch.gdtr if name == "gdtr" else &self.c.arch.idtr
        t.base = base
        t.limit = limit
        update_key(self.c)

    def get_xsave(self) -> bytes:
        """x87, SSE and AVX state as a standard-format XSAVE image, 832 bytes (SDM 1 13.4).

        The x87 pointers are the guest's.
        """
        cdef u8 image[XSAVE_SIZE]
        cdef u64* fip = <u64*>(image + AREA_FIP)
        cdef u64* fdp = <u64*>(image + AREA_FDP)
        cdef u16* fop = <u16*>(image + AREA_FOP)
        vectors_settle(self.xsave())
        memcpy(image, self.xsave(), XSAVE_SIZE)
        fop[0] = guest_opcode(self.c, fip[0], fop[0])
        fip[0] = guest_pointer(self.c, fip[0], FPU_INSTRUCTION)
        fdp[0] = guest_pointer(self.c, fdp[0], FPU_DATA)
        return PyBytes_FromStringAndSize(<char*>image, XSAVE_SIZE)

    def set_xsave(self, const unsigned char[::1] image) -> None:
        """Load what `get_xsave` returns; ValueError if it has another size."""
        cdef u64* fip = <u64*>(self.xsave() + AREA_FIP)
        cdef u64* fdp = <u64*>(self.xsave() + AREA_FDP)
        if image.shape[0] != XSAVE_SIZE:
            raise ValueError(f"an XSAVE image of x87, SSE and AVX has {XSAVE_SIZE} bytes")
        memcpy(self.xsave(), &image[0], XSAVE_SIZE)
        vectors_settle(self.xsave())
        fip[0] = load_pointer(self.c, fip[0], FPU_INSTRUCTION)
        fdp[0] = load_pointer(self.c, fdp[0], FPU_DATA)

    # --- doorbells

    def add_doorbell(self, u64 address, u32 size, value: int | None, int fd) -> bool:
        """Let a write of `size` bytes of `value`, or of any value if it is None, to a guest
        physical address without RAM add 1 to the eventfd `fd`, within `run` and without Python.

        The functions of `attach_memory` do not see such a write.  The doorbell keeps a duplicate of
        `fd`.  If there is one already for this write, it gets the new eventfd.  False: there is no
        room, so the write reaches them.  ValueError if `fd` is no descriptor that does not block.
        """
        return doorbell_attach(self.c, DOORBELL_MEMORY, address, size, value is None, value or 0,
                               fd)

    def remove_doorbell(self, u64 address, u32 size, value: int | None) -> None:
        """Remove the doorbell of such a write, if there is one."""
        doorbell_detach(self.c, DOORBELL_MEMORY, address, size, value is None, value or 0)

    def add_port_doorbell(self, u16 port, u32 size, value: int | None, int fd) -> bool:
        """Do for OUT and OUTS to `port` what `add_doorbell` does for writes to memory."""
        return doorbell_attach(self.c, DOORBELL_PORT, port, size, value is None, value or 0, fd)

    def remove_port_doorbell(self, u16 port, u32 size, value: int | None) -> None:
        """Remove the doorbell of such a write to a port, if there is one."""
        doorbell_detach(self.c, DOORBELL_PORT, port, size, value is None, value or 0)

    # --- pins, messages and requests

    def set_interrupt(self, bint pending) -> None:
        """Set the interrupt line of the machine's controller; any thread may call this."""
        apic_line(self.c, pending)

    def mask_a20(self, bint masked) -> None:
        """Set the A20M# pin: masked, bit 20 of physical addresses is 0 while paging is off.

        Only the machine's thread may call this, while the processor does not run.
        """
        mmu_mask_a20(self.c, masked)

    def message(self, u64 address, u32 data) -> None:
        """Send an interrupt message to the local APIC, as a device writes it (SDM 3A 10.11).

        Any thread may call this.
        """
        apic_message(self.c, address, data)

    def kick(self) -> None:
        """Make `run` return EXIT_INTERRUPTED soon; any thread may call this."""
        self.c.stop = 1
        request_stop(self.c)

    def set_alarm(self, due: int | None) -> None:
        """Make `run` return EXIT_INTERRUPTED at `due`, in ns of CLOCK_MONOTONIC.

        The new alarm replaces the previous one; None: no alarm.
        """
        self.c.alarm_due = 0 if due is None else host_ticks() + to_ticks(
            self.c, max(0, due - time.monotonic_ns()), 1000000000)
        alarm_set(self.c, apic_due(self.c))
