"""A direct process, as its virtual processor sees it: hand-over, commands, the guest's state."""
from ringlet.core.state cimport u8, u16, u32, u64, i64

cdef extern from "ringlet/direct/layout.h" nogil:
    enum:
        DIRECT_AGAIN
        DIRECT_COMMANDS
        DIRECT_RAM
        DIRECT_RAM_FILES
        DIRECT_SOCKET
        DIRECT_SHARED_SIZE
        DIRECT_STACK_SIZE
    u64 DIRECT_STUB
    u64 DIRECT_CONTROL
    u64 DIRECT_STACK
    u64 DIRECT_END
    u64 DIRECT_TOP
    struct direct_command:
        u64 number
        u64 arguments[6]
        i64 result
    struct direct_control:
        u32 signal
        u32 failed
        u64 fs_base
        u64 gs_base
        u64 frame
        u64 selectors
        u64 flags
        u64 rights
        u64 message
        direct_command commands[DIRECT_COMMANDS]

# Linux's selectors, the host's and the guest's.
cdef enum:
    USER_CODE = 0x33
    USER_CODE_32 = 0x23
    USER_DATA = 0x2B

# Registers in a frame (struct sigcontext).
cdef enum:
    FRAME_R8 = 0
    FRAME_RDI = 8
    FRAME_RSI = 9
    FRAME_RBP = 10
    FRAME_RBX = 11
    FRAME_RDX = 12
    FRAME_RAX = 13
    FRAME_RCX = 14
    FRAME_RSP = 15
    FRAME_RIP = 16
    FRAME_FLAGS = 17
    FRAME_SELECTORS = 18     # CS, GS, FS, SS
    FRAME_ERROR = 19
    FRAME_TRAP = 20
    FRAME_MASK = 21
    FRAME_CR2 = 22
    FRAME_XSAVE = 23         # its linear address there, or 0

cdef enum:
    NO_CPU = 0xFFFFFFFF      # a process that is kept on none

cdef struct Direct:
    direct_control* control
    int listener
    int pidfd
    int pid
    u64 id               # of the notification that it waits in
    u64 secret
    bint wakes_here      # a hand-over goes on on the same processor
    u32 cpu              # on which it is kept otherwise, or NO_CPU
    bint end_wakes       # its end wakes the thread that waits for a hand-over
    u32 commands         # queued
    u64 frame            # its frame's linear address there, after `direct_frame`
    u64* registers       # in that frame

# Wait until the kernel holds it in its hand-over call; False: it is dead.
cdef bint direct_wait(Direct* d) noexcept nogil
# Let it carry out its commands; the last is DIRECT_AGAIN or the return to the guest's code.
cdef void direct_answer(Direct* d) noexcept nogil
# Let it carry out its commands and hand over once more; False: it did not, or it cannot be trusted.
cdef bint direct_again(Direct* d) noexcept nogil
# Where its stack is seen here.
cdef inline u8* direct_stack(Direct* d) noexcept nogil:
    return <u8*>d.control + (DIRECT_STACK - DIRECT_CONTROL)
# Make a first frame, with all registers 0, and wipe what the kernel and the virtual processor left
# there of the last program.
cdef void direct_renew(Direct* d) noexcept nogil
# The same, and wipe what that program wrote itself.
cdef void direct_begin(Direct* d) noexcept nogil
# Find the frame that the kernel left; False: it is not where a frame can be.
cdef bint direct_frame(Direct* d) noexcept nogil
# Make a command, and queue it; False: the queue is full.
cdef inline direct_command direct_command_of(u64 number, u64 a0, u64 a1, u64 a2, u64 a3, u64 a4,
                                             u64 a5) noexcept nogil:
    cdef direct_command command
    command.number = number
    command.arguments[0] = a0
    command.arguments[1] = a1
    command.arguments[2] = a2
    command.arguments[3] = a3
    command.arguments[4] = a4
    command.arguments[5] = a5
    command.result = 0
    return command
cdef bint direct_command_add(Direct* d, direct_command command) noexcept nogil
# Queue the return to the guest's code, and let it go.
cdef void direct_resume(Direct* d) noexcept nogil
# Processor time of a process, and of the calling thread, in nanoseconds.
cdef u64 direct_cpu_ns(Direct* d) noexcept nogil
cdef u64 own_cpu_ns() noexcept nogil
cdef void direct_signal(int pidfd, int sig) noexcept nogil


cdef class DirectProcess:
    cdef Direct d
