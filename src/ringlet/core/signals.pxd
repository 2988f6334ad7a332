"""Host signals raised by translated code."""
from ringlet.core.state cimport CpuState, u32, u64

# A signal as the virtual processor sees it; registers are the host's at the faulting instruction.
cdef struct HostFault:
    int signal
    u32 trap          # hardware exception vector
    u32 error         # its error code
    u64 address       # si_addr
    u64* regs         # gregs of the ucontext: HR_*
    int nested        # the thread was in a signal handler

# Indices in gregs (sys/ucontext.h).
cdef enum:
    HR_R8 = 0
    HR_R9 = 1
    HR_R10 = 2
    HR_R11 = 3
    HR_R12 = 4
    HR_R13 = 5
    HR_R14 = 6
    HR_R15 = 7
    HR_RDI = 8
    HR_RSI = 9
    HR_RBP = 10
    HR_RBX = 11
    HR_RDX = 12
    HR_RAX = 13
    HR_RCX = 14
    HR_RSP = 15
    HR_RIP = 16
    HR_EFL = 17

# Return 1 if the signal was handled (regs may have changed), 0 if the guest did not cause it.
ctypedef int (*fault_fn)(CpuState* c, HostFault* f) noexcept nogil

cdef int install_handlers(fault_fn handler) except -1
cdef int enter_thread(CpuState* c) except -1
cdef void leave_thread() noexcept nogil
# Store the guest's registers except r8-r11, which are in memory; subtract the addend from RSP.
cdef void save_registers(CpuState* c, u64* regs) noexcept nogil
