"""The alarm of a virtual processor, which stops it at a given time."""
from ringlet.core.state cimport CpuState, u64

# Start the alarm's thread, once.
cdef int alarm_attach(CpuState* c) except -1
# Stop the alarm's thread.
cdef void alarm_destroy(CpuState* c) noexcept
# Make the processor come to a safepoint when the host's TSC reaches `due`, which replaces the
# previous time; 0: no alarm.
cdef void alarm_set(CpuState* c, u64 due) noexcept nogil
# Sleep until `request_stop`, or until the host's TSC reaches `due` if that is not 0.
cdef void alarm_wait(CpuState* c, u64 due) noexcept nogil

# Convert `count` units of 1/hz s to ticks of the host's TSC, and the reverse; rounded up.
cdef u64 to_ticks(CpuState* c, u64 count, u64 hz) noexcept nogil
cdef u64 from_ticks(CpuState* c, u64 ticks, u64 hz) noexcept nogil
