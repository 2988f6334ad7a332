"""The local APIC (SDM 3A ch. 10)."""
from ringlet.core.state cimport CpuState, u32, u64

# CpuState.intr: what waits.
cdef enum:
    INTR_EXTERNAL = 1   # the machine's controller, by INTR or LINT0
    INTR_LOCAL = 2      # the local APIC

cdef int apic_create(CpuState* c) except -1
cdef void apic_destroy(CpuState* c) noexcept

# --- any thread

# The level of the INTR pin, which is also LINT0.
cdef void apic_line(CpuState* c, bint level) noexcept nogil
# An interrupt message, as the memory write that it is on the bus (SDM 3A 10.11).
cdef void apic_message(CpuState* c, u64 address, u32 data) noexcept nogil

# --- the processor's own thread

# Take in what came from other threads, and see what waits: CpuState.intr.
cdef void apic_update(CpuState* c) noexcept nogil
# Raise what the timer has come to, and set the alarm for the next moment, the machine's or its own.
cdef void apic_tick(CpuState* c) noexcept nogil
# MOV to CR8: the task priority's class is written, its other bits are cleared (SDM 3A 10.8.6.1).
cdef void apic_set_class(CpuState* c, u64 value) noexcept nogil
# When the timer is to be looked at, by the host's TSC; 0: never.
cdef u64 apic_due(CpuState* c) noexcept nogil
# The vector of the interrupt to deliver now, which goes into service.
cdef u32 apic_accept(CpuState* c) noexcept nogil
# IA32_APIC_BASE changes from `old` to what CpuState has.
cdef void apic_base_written(CpuState* c, u64 old) noexcept nogil

# Whether a guest physical address is one of its registers.
cdef bint apic_holds(CpuState* c, u64 phys) noexcept nogil
# A register by its offset in the page, and by its MSR; those return 0, EMU_FAULT or EMU_EXIT.
cdef u32 apic_read(CpuState* c, u32 offset) noexcept nogil
cdef int apic_write(CpuState* c, u32 offset, u32 value) noexcept nogil
cdef int apic_read_msr(CpuState* c, u32 index, u64* value) noexcept nogil
cdef int apic_write_msr(CpuState* c, u32 index, u64 value) noexcept nogil
cdef u64 apic_deadline(CpuState* c) noexcept nogil
cdef void apic_set_deadline(CpuState* c, u64 deadline) noexcept nogil
