"""The machine code between compiled code and translated code."""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.core.template cimport STUB_COUNT

cdef struct StubSet:
    u32 at[STUB_COUNT]     # offsets by Stub
    u32 enter_end          # the entry stub is [at[STUB_ENTER], enter_end)
    u32 size

# Emit all stubs for the state block at `block` (below 2 GiB) to `out`.
cdef StubSet emit_stubs(u8* out, u64 block) noexcept nogil
