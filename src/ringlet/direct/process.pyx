"""A direct process, as its virtual processor sees it: hand-over, commands, and the guest's state.

The kernel vouches for a hand-over: a process that is in the system call of its stub's hand-over
instruction has given the listener a notification, and runs no code until it is answered.  Only then
is the shared memory read or written here.  The answer is the secret with which its system calls
pass the filter.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.string cimport memcpy, strerror
from posix.mman cimport mmap, munmap, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE
from posix.unistd cimport close

cdef extern from "ringlet/direct/calls.h" nogil:
    """
    #include <errno.h>
    #include <linux/seccomp.h>
    #include <poll.h>
    #include <sys/ioctl.h>
    #include <time.h>

    #ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
    #define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, unsigned long long)
    #endif
    #define RINGLET_SYNC_WAKE_UP 1

    /* Tell whether the process waits in its hand-over call, or -ENOENT if it has ended. */
    static int ringlet_poll(int listener, int pidfd, int patience)
    {
        struct pollfd p[2] = {{listener, POLLIN}, {pidfd, POLLIN}};
        long r = ringlet_call(SYS_poll, (long)p, 2, patience, 0);
        if (r > 0 && !(p[0].revents & POLLIN) && (p[0].revents & POLLHUP || p[1].revents))
            return -ENOENT;
        return r < 0 ? (int)r : r > 0;
    }
    static int ringlet_receive(int listener, unsigned long *id)
    {
        struct seccomp_notif n;
        volatile unsigned long *word = (void *)&n;
        unsigned i;
        long r;
        for (i = 0; i < sizeof n / sizeof *word; i++)
            word[i] = 0;
        r = ringlet_call(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, (long)&n, 0);
        *id = n.id;
        return (int)r;
    }
    static int ringlet_respond(int listener, unsigned long id, long value)
    {
        struct seccomp_notif_resp r = {id, value, 0, 0};
        return (int)ringlet_call(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_SEND, (long)&r, 0);
    }
    static void ringlet_pidfd_signal(int pidfd, int sig)
    { ringlet_call(SYS_pidfd_send_signal, pidfd, sig, 0, 0); }
    static unsigned long ringlet_cpu_ns(long clock)
    {
        struct timespec t = {0, 0};
        ringlet_call(SYS_clock_gettime, clock, (long)&t, 0, 0);
        return t.tv_sec * 1000000000ul + t.tv_nsec;
    }
    /* The clock of a process's processor time (Linux, include/linux/posix-timers.h). */
    static long ringlet_cpu_clock(int pid) { return ~(long)pid << 3 | 2; }
    /* Allowing CPUID changes nothing, and fails where it cannot be forbidden. */
    static int ringlet_cpuid_faults(void)
    { return ringlet_call(SYS_arch_prctl, 0x1012 /* ARCH_SET_CPUID */, 1, 0, 0) == 0; }
    static int ringlet_wake_here(int listener)
    {
        return ringlet_call(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                            RINGLET_SYNC_WAKE_UP, 0) == 0;
    }
    """
    bint ringlet_cpuid_faults()
    u64 ringlet_cpu_ns(long clock)
    long ringlet_cpu_clock(int pid)
    long CLOCK_THREAD_CPUTIME_ID
    int ringlet_receive(int listener, u64* id)
    int ringlet_respond(int listener, u64 id, i64 value)
    int ringlet_poll(int listener, int pidfd, int patience)
    void ringlet_pidfd_signal(int pidfd, int sig)
    bint ringlet_wake_here(int listener)
    int EINTR, ENOENT
    int MAP_POPULATE

cdef enum:
    FOREVER = -1
    FRAME_CONTEXT = 8            # struct ucontext, after the handler's return address
    CONTEXT_FLAGS = 0            # offsets in quadwords
    CONTEXT_LINK = 1
    CONTEXT_STACK = 2
    CONTEXT_REGISTERS = 5
    CONTEXT_MASK = 37
    CONTEXT_SIZE = 304
    KEPT_FLAGS = 0x204000        # NT and ID: Linux leaves them as they are at rt_sigreturn
    UC_FLAGS = 6                 # UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
    FRAME_ROOM = 1024            # a frame and a legacy save area take more
    SIGRETURN = 15
    SIG_KILL = 9
    FIRST_FRAME = 0x1000         # on the stack
    FRAMES_AT_ENDS = 0x2400      # bytes at each end of the stack, with all frames and vectors


cdef void wipe(u64* word, u64 size) noexcept nogil:
    """Write zeros to memory, without vector registers, which are the guest's."""
    cdef u64* end = word + size // 8
    while word < end:
        word[0] = 0
        word += 1


cdef bint direct_wait(Direct* d) noexcept nogil:
    cdef int r
    # A signal to this thread interrupts the wait, and a pause of the process withdraws what it has
    # given: it gives it anew.
    while True:
        r = 0 if d.end_wakes else ringlet_poll(d.listener, d.pidfd, FOREVER)
        if r >= 0:
            r = ringlet_receive(d.listener, &d.id)
        if r != -EINTR and r != -ENOENT:
            return r == 0
        if ringlet_poll(d.listener, d.pidfd, 0) == -ENOENT:
            return False


cdef void direct_answer(Direct* d) noexcept nogil:
    cdef int r = -ENOENT
    d.commands = 0
    # Until the kernel has taken the answer, the process has done nothing of what it is told.
    while r == -EINTR or r == -ENOENT:
        r = ringlet_respond(d.listener, d.id, <i64>d.secret)
        if r == -ENOENT and not direct_wait(d):
            return


cdef void carry_out(Direct* d) noexcept nogil:
    """Let the process carry out the queue and hand over once more."""
    direct_command_add(d, direct_command_of(<u64><i64>DIRECT_AGAIN, 0, 0, 0, 0, 0, 0))
    direct_answer(d)


cdef bint direct_again(Direct* d) noexcept nogil:
    # Guest code may have made the hand-over itself, with EFLAGS.TF set or signals unblocked.  Then
    # a signal interrupts the commands, and its handler names it here.
    d.control.signal = d.control.failed = 0
    carry_out(d)
    return direct_wait(d) and not d.control.signal and not d.control.failed


cdef void begin_anew(Direct* d, u64 size) noexcept nogil:
    """Make a first frame.  Wipe `size` bytes at each end of the stack, where frames hold registers
    of the last program, and the commands that were carried out, which hold its addresses."""
    cdef u8* stack = direct_stack(d)
    wipe(<u64*>&d.control.commands[d.commands],
         (DIRECT_COMMANDS - d.commands) * sizeof(direct_command))
    wipe(<u64*>stack, size)
    wipe(<u64*>(stack + DIRECT_STACK_SIZE - size), size)
    d.control.frame = DIRECT_STACK + FIRST_FRAME
    direct_frame(d)
    d.registers[FRAME_SELECTORS] = USER_CODE | <u64>USER_DATA << 48
    d.registers[FRAME_FLAGS] = 0x202


cdef void direct_renew(Direct* d) noexcept nogil:
    begin_anew(d, FRAMES_AT_ENDS)


cdef void direct_begin(Direct* d) noexcept nogil:
    begin_anew(d, DIRECT_STACK_SIZE // 2)


cdef bint direct_frame(Direct* d) noexcept nogil:
    cdef u64 at = d.control.frame - DIRECT_STACK
    if at > <u64>(DIRECT_STACK_SIZE - FRAME_ROOM) or at & 7:
        return False
    d.frame = DIRECT_STACK + at
    d.registers = <u64*>(direct_stack(d) + at + FRAME_CONTEXT) + CONTEXT_REGISTERS
    return True


cdef bint direct_command_add(Direct* d, direct_command command) noexcept nogil:
    if d.commands == DIRECT_COMMANDS:
        return False
    d.control.commands[d.commands] = command
    d.commands += 1
    return True


cdef void direct_resume(Direct* d) noexcept nogil:
    # What the guest's code could have put here is written anew.
    cdef u64* context = d.registers - CONTEXT_REGISTERS
    d.control.frame = d.frame
    d.control.flags = d.registers[FRAME_FLAGS] & KEPT_FLAGS | 2
    context[CONTEXT_FLAGS] = UC_FLAGS
    context[CONTEXT_LINK] = 0
    context[CONTEXT_STACK] = DIRECT_STACK
    context[CONTEXT_STACK + 1] = <u64>1 << 31
    context[CONTEXT_STACK + 2] = DIRECT_STACK_SIZE
    context[CONTEXT_MASK] = 0
    direct_command_add(d, direct_command_of(SIGRETURN, 0, 0, 0, 0, 0, 0))
    direct_answer(d)


cdef u64 direct_cpu_ns(Direct* d) noexcept nogil:
    return ringlet_cpu_ns(ringlet_cpu_clock(d.pid))


cdef u64 own_cpu_ns() noexcept nogil:
    return ringlet_cpu_ns(CLOCK_THREAD_CPUTIME_ID)


cdef void direct_signal(int pidfd, int sig) noexcept nogil:
    ringlet_pidfd_signal(pidfd, sig)


def cpuid_faults() -> bool:
    """Tell whether the host can make CPUID trap in a process of its own."""
    return ringlet_cpuid_faults()


STUB = DIRECT_STUB
CONTROL = DIRECT_CONTROL
STACK = DIRECT_STACK
END = DIRECT_END
TOP = DIRECT_TOP
RAM = DIRECT_RAM
SOCKET = DIRECT_SOCKET
SHARED_SIZE = DIRECT_SHARED_SIZE
RIGHTS_AT = <size_t>&(<direct_control*>NULL).rights
MESSAGE_AT = <size_t>&(<direct_control*>NULL).message
COMMANDS_AT = <size_t>&(<direct_control*>NULL).commands


cdef class DirectProcess:
    """A direct process in Python's hands: it is stopped in its hand-over call.

    `control` is the file of its shared memory, `listener` its filter's and `pidfd` its own
    descriptor, and `pid` its number; the descriptors are this object's from here on.  The process
    ends with it.  `wakes_here`: let a hand-over go on on the same processor, if Linux can.
    `end_wakes`: Linux ends the wait for a hand-over when the process ends.
    """

    def __cinit__(self, int control, int listener, int pidfd, int pid, u64 secret, *,
                  bint wakes_here, bint end_wakes):
        cdef void* at
        self.d.listener = listener
        self.d.pidfd = pidfd
        self.d.pid = pid
        self.d.secret = secret
        at = mmap(NULL, DIRECT_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                  control, 0)
        if at == MAP_FAILED:
            raise OSError(errno, f"the memory of a direct process: {strerror(errno).decode()}")
        self.d.control = <direct_control*>at
        self.d.wakes_here = wakes_here and ringlet_wake_here(listener)
        self.d.cpu = NO_CPU
        self.d.end_wakes = end_wakes

    def __dealloc__(self):
        if self.d.control != NULL:
            munmap(self.d.control, DIRECT_SHARED_SIZE)
        if self.d.pid:
            ringlet_pidfd_signal(self.d.pidfd, SIG_KILL)
            close(self.d.pidfd)
            close(self.d.listener)

    @property
    def wakes_here(self) -> bool:
        """A hand-over goes on on the same processor."""
        return self.d.wakes_here

    def wait(self) -> bool:
        """Wait for its hand-over; False: it is dead."""
        cdef bint r
        with nogil:
            r = direct_wait(&self.d)
        return r

    def command(self, u64 number, *arguments: int) -> None:
        """Queue a system call."""
        cdef u64 a[6]
        cdef int i
        for i in range(6):
            a[i] = arguments[i] if i < len(arguments) else 0
        if not direct_command_add(
                &self.d, direct_command_of(number, a[0], a[1], a[2], a[3], a[4], a[5])):
            raise ValueError("too many commands")

    def again(self) -> None:
        """Carry out the queue and hand over once more."""
        carry_out(&self.d)

    def results(self, int count) -> list[int]:
        """What the first commands gave."""
        return [self.d.control.commands[i].result for i in range(count)]

    def frame(self) -> bool:
        """Find the frame; False: what it says of it cannot be."""
        return direct_frame(&self.d)

    def begin(self) -> None:
        """Make a first frame, with all registers 0."""
        direct_begin(&self.d)

    def renew(self) -> None:
        """The same, but leave what the last program wrote itself."""
        direct_renew(&self.d)

    def resume(self) -> None:
        """Let it go on with the registers of the frame."""
        direct_resume(&self.d)

    def get(self, int register) -> int:
        return self.d.registers[register]

    def set(self, int register, u64 value) -> None:
        self.d.registers[register] = value

    @property
    def signal(self) -> int:
        """The signal that stopped it."""
        return self.d.control.signal

    @property
    def pid(self) -> int:
        """Its number."""
        return self.d.pid

    def kill(self, int sig) -> None:
        direct_signal(self.d.pidfd, sig)

    def shared(self) -> bytes:
        """A copy of the shared memory."""
        return PyBytes_FromStringAndSize(<char*>self.d.control, DIRECT_SHARED_SIZE)

    def poke(self, u64 offset, bytes data) -> None:
        """Write to the shared memory."""
        if offset + len(data) > DIRECT_SHARED_SIZE:
            raise ValueError("outside of the shared memory")
        memcpy(<u8*>self.d.control + offset, <const char*>data, len(data))
