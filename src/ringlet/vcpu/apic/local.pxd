"""The local APIC (SDM 3A ch. 10)."""
from ringlet.core.state cimport CpuState, u32, u64

# CpuState.intr: the sources of waiting interrupts.
cdef enum:
    INTR_EXTERNAL = 1   # the machine's controller, by INTR or LINT0
    INTR_LOCAL = 2      # the local APIC

cdef int apic_create(CpuState* c) except -1
cdef void apic_destroy(CpuState* c) noexcept

# --- any thread

# Set the level of the INTR pin, which is also LINT0.
cdef void apic_line(CpuState* c, bint level) noexcept nogil
# Post an interrupt message, given as a memory write on the bus (SDM 3A 10.11).
cdef void apic_message(CpuState* c, u64 address, u32 data) noexcept nogil

# --- the processor's own thread

# Accept what other threads have posted, and set CpuState.intr.
cdef void apic_update(CpuState* c) noexcept nogil
# Raise the timer's interrupt if due; set the alarm for the next event of the timer or the machine.
cdef void apic_tick(CpuState* c) noexcept nogil
# Set the class of the task priority (MOV to CR8) and clear its other bits (SDM 3A 10.8.6.1).
cdef void apic_set_class(CpuState* c, u64 value) noexcept nogil
# Return when the timer is due, in ticks of the host's TSC; 0: never.
cdef u64 apic_due(CpuState* c) noexcept nogil
# Put the highest requested interrupt into service and return its vector.
cdef u32 apic_accept(CpuState* c) noexcept nogil
# Call after IA32_APIC_BASE has changed from `old` to the value in CpuState.
cdef void apic_base_written(CpuState* c, u64 old) noexcept nogil

# Whether a guest physical address is that of an APIC register.
cdef bint apic_holds(CpuState* c, u64 phys) noexcept nogil
# Access a register by its offset in the page or by its MSR.  All but `apic_read` return 0,
# EMU_FAULT or EMU_EXIT.
cdef u32 apic_read(CpuState* c, u32 offset) noexcept nogil
cdef int apic_write(CpuState* c, u32 offset, u32 value) noexcept nogil
cdef int apic_read_msr(CpuState* c, u32 index, u64* value) noexcept nogil
cdef int apic_write_msr(CpuState* c, u32 index, u64 value) noexcept nogil
cdef u64 apic_deadline(CpuState* c) noexcept nogil
cdef void apic_set_deadline(CpuState* c, u64 deadline) noexcept nogil
