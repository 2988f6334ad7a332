"""Sites: instructions that have met devices, and are translated as accesses to them."""
from ringlet.core.state cimport CpuState, u64

cdef int sites_create(CpuState* c) except -1
cdef void sites_destroy(CpuState* c) noexcept
# The instruction at a linear address has faulted at a device.  True: translate it anew.
cdef bint site_met(CpuState* c, u64 linear) noexcept nogil
# A site has accessed a device.
cdef void site_device(CpuState* c, u64 linear) noexcept nogil
# A site has accessed RAM.  True: it is one no more, and what was translated has to go.
cdef bint site_ram(CpuState* c, u64 linear) noexcept nogil
# Mark the sites of the page at a linear address by their offsets; False: there are none.
cdef bint sites_of(CpuState* c, u64 page, u64* offsets) noexcept nogil
