"""What the host's processor does where those of one vendor differ."""
from ringlet.core.state cimport u64
from ringlet.vcpu.emulation.native cimport Native

cdef u64 conduct_on_host(Native native, vendor) except? 0xFFFFFFFF
