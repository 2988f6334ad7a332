"""Doorbells: writes that only notify, passed on without Python."""
from ringlet.core.state cimport CpuState, u32, u64

cdef enum:
    DOORBELL_MEMORY = 0
    DOORBELL_PORT = 1

# Pass on a write of the guest if a doorbell is there.  False: there is none.
cdef bint doorbell_rings(CpuState* c, u32 kind, u64 address, u32 size, u64 value) noexcept nogil
# Add a doorbell, or give the one that is there another eventfd, of which a duplicate is kept.
# `any_value`: every value rings.  False: there is no room.
cdef bint doorbell_attach(CpuState* c, u32 kind, u64 address, u32 size, bint any_value, u64 value,
                       int fd) except -1
# Remove a doorbell, if it is there.
cdef void doorbell_detach(CpuState* c, u32 kind, u64 address, u32 size, bint any_value,
                          u64 value) noexcept
cdef void doorbells_destroy(CpuState* c) noexcept
