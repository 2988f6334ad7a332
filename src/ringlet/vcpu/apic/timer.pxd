"""The timer of the local APIC (SDM 3A 10.5.4)."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.vcpu.apic.state cimport Apic

# None of these sets the alarm; the caller does.
cdef void timer_start(CpuState* c, Apic* a, u32 count) noexcept nogil
cdef u32 timer_count(CpuState* c, Apic* a) noexcept nogil
# Whether the timer has expired; a periodic timer starts its next period.
cdef bint timer_expires(Apic* a, u64 now) noexcept nogil
cdef void timer_mode_written(CpuState* c, Apic* a, u32 old) noexcept nogil
cdef void timer_set_deadline(CpuState* c, Apic* a, u64 deadline) noexcept nogil
