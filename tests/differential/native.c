/* Runs test programs on the host's own processor.
 *
 * A freestanding process (no libc: FS and GS belong to the programs) that shares one file with the
 * test.  A program of 16 or 32 bits is entered by its code selector; its signals come in 64-bit mode
 * all the same.  The file holds a header, the base image, the live image (mapped a second time at the
 * areas' own addresses), requests and responses.  A byte on fd 0 starts a batch, a byte on fd 1
 * ends it.  A program is entered by IRETQ, which alone loads TF, NT and ID at ring 3, and ends
 * with a signal: INT3 at its end, or the fault that the test wants to see.
 */
#include "host.h"

#include <linux/prctl.h>
#include <linux/time_types.h>

enum { MAX_AREAS = 32, MAX_SEGMENTS = 32 };
/* IRETQ to a 16-bit stack leaves bits 16 to 31 of RSP as they are: the frame's address has those
 * that programs with such a stack begin with.
 */
enum { FRAME_PAGE = 0x7FFE0000, FRAME = FRAME_PAGE + 0x800 };
enum { STATUS_NOT_RUN = 0, STATUS_EVENT = 1, STATUS_TIMEOUT = 2 };
enum { PROT_R = 1, PROT_W = 2, PROT_X = 4 };

struct area {
    u64 linear, offset, size, prot;
};

struct header {
    u64 file_size, image_size, base_offset, live_offset;
    u64 request_offset, request_size, response_offset, response_size;
    u64 count;     /* programs in this batch */
    u64 progress;  /* the program being run */
    u64 tick_us, ticks;
    u64 n_areas;
    struct area areas[MAX_AREAS];
    u64 n_segments;
    struct user_desc segments[MAX_SEGMENTS]; /* of the local descriptor table */
};

struct state {
    u64 gpr[16];
    u64 rip, rflags, fs_base, gs_base;
    u16 selector[6]; /* ES CS SS DS FS GS */
    u8 pad[20];
    u8 xsave[XSAVE_SIZE] __attribute__((aligned(64)));
};

struct request {
    struct state state;
    u32 n_patches, pad;
    u8 patches[]; /* u64 image offset, u64 length, bytes padded to 8 */
};

struct response {
    struct state state;
    u32 status, signal, vector, error;
    u64 cr2;
    u64 changed;  /* a bit for each page of the image that differs from the base image */
    u8 pad[4096 - sizeof(struct state) - 32];
    u8 pages[];   /* those pages, one after the other */
};

_Static_assert(FRAME == 0x7ffe0800, "used by enter");
_Static_assert(offsetof(struct state, selector) == 160, "used by enter");
_Static_assert(offsetof(struct state, xsave) == 192, "layout shared with native.py");
_Static_assert(offsetof(struct request, patches) == 1032, "layout shared with native.py");
_Static_assert(offsetof(struct response, pages) == 4096, "layout shared with native.py");

extern char __executable_start[] __attribute__((visibility("hidden")));
extern char etext[] __attribute__((visibility("hidden")));

static struct header *header;
static struct response *out;  /* NULL while no program runs */
static u64 ticks_seen;  /* since this program began */
static char dispatch = 1;  /* SYSCALL_DISPATCH_FILTER_BLOCK */

void enter(struct state *s) __attribute__((visibility("hidden")));

__asm__(".text\n"
        "enter: " SAVE
        "mov $7, %eax; xor %edx, %edx; xrstor64 192(%rdi)\n"
        "mov 160(%rdi), %es; mov 166(%rdi), %ds; mov 168(%rdi), %fs; mov 170(%rdi), %gs\n"
        "mov 144(%rdi), %rax; wrfsbase %rax\n"
        "mov 152(%rdi), %rax; wrgsbase %rax\n"
        "mov $0x7ffe0800, %esp\n"
        "mov 128(%rdi), %rax; mov %rax, (%rsp)\n"
        "movzwl 162(%rdi), %eax; mov %rax, 8(%rsp)\n"
        "mov 136(%rdi), %rax; mov %rax, 16(%rsp)\n"
        "mov 32(%rdi), %rax; mov %rax, 24(%rsp)\n"
        "movzwl 164(%rdi), %eax; mov %rax, 32(%rsp)\n"
        "mov (%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
        "mov 40(%rdi), %rbp; mov 48(%rdi), %rsi\n"
        "mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11\n"
        "mov 96(%rdi), %r12; mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
        "mov 56(%rdi), %rdi\n"
        "iretq\n");

static u16 selector(int i)
{
    u16 s = 0;
    switch (i) {
    case 0: __asm__("mov %%es, %0" : "=r"(s)); break;
    case 3: __asm__("mov %%ds, %0" : "=r"(s)); break;
    case 4: __asm__("mov %%fs, %0" : "=r"(s)); break;
    case 5: __asm__("mov %%gs, %0" : "=r"(s)); break;
    }
    return s;
}

__attribute__((used)) static void handle(int sig, siginfo_t *info, struct ucontext *uc)
{
    struct sigcontext *m = &uc->uc_mcontext;
    if (sig == SIGALRM) {
        int inside = m->rip >= (u64)__executable_start && m->rip < (u64)etext;
        if (!out || inside)
            return;
        if (++ticks_seen < header->ticks)
            return;
    } else if (!out) {
        die(3);
    }
    struct response *r = out;
    out = NULL;
    const u64 regs[16] = {m->rax, m->rcx, m->rdx, m->rbx, m->rsp, m->rbp, m->rsi, m->rdi,
                          m->r8, m->r9, m->r10, m->r11, m->r12, m->r13, m->r14, m->r15};
    for (int i = 0; i < 16; i++)
        r->state.gpr[i] = regs[i];
    r->state.rip = m->rip;
    r->state.rflags = m->eflags;
    __asm__ volatile("rdfsbase %0" : "=r"(r->state.fs_base));
    __asm__ volatile("rdgsbase %0" : "=r"(r->state.gs_base));
    for (int i = 0; i < 6; i++)
        r->state.selector[i] = selector(i);
    r->state.selector[1] = m->cs;
    r->state.selector[2] = m->ss;
    copy(r->state.xsave, (void *)m->fpstate, XSAVE_SIZE);
    r->status = sig == SIGALRM ? STATUS_TIMEOUT : STATUS_EVENT;
    r->signal = sig;
    r->vector = m->trapno;
    r->error = m->err;
    r->cr2 = m->cr2;
    leave(m);
    (void)info;
}

static void map_areas(void)
{
    long page = sys6(__NR_mmap, FRAME_PAGE, PAGE, 3, 0x100022, -1, 0); /* anonymous, private */
    if (page != FRAME_PAGE)
        die(4);
    for (u64 i = 0; i < header->n_areas; i++) {
        struct area *a = &header->areas[i];
        int prot = (a->prot & PROT_R ? 1 : 0) | (a->prot & PROT_W ? 2 : 0)
                   | (a->prot & PROT_X ? 4 : 0);
        map_shared(a->linear, a->size, prot, header->live_offset + a->offset);
    }
}

static void prepare_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGALRM};
    catch_signals(signals, sizeof signals / sizeof *signals, 0);
    /* A program's system calls are events, not calls. */
    if (sys6(__NR_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON,
             (long)__executable_start, etext - __executable_start, (long)&dispatch, 0))
        die(6);
}

static int same_page(const u64 *a, const u64 *b)
{
    for (int i = 0; i < PAGE / 8; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

/* Copy out the pages that changed, and make them as they were. */
static void collect(struct response *r, char *file, char *live)
{
    r->changed = 0;
    u8 *to = r->pages;
    for (u64 page = 0; page < header->image_size / PAGE; page++) {
        char *now = live + page * PAGE, *base = file + header->base_offset + page * PAGE;
        if (same_page((u64 *)now, (u64 *)base))
            continue;
        r->changed |= 1ul << page;
        copy(to, now, PAGE);
        to += PAGE;
        copy(now, base, PAGE);
    }
}

static void run_one(u64 i)
{
    char *file = (char *)header;
    char *live = file + header->live_offset;
    struct request *q =
        (void *)(file + header->request_offset + i * header->request_size);
    struct response *r =
        (void *)(file + header->response_offset + i * header->response_size);
    header->progress = i;
    /* SIGRETURN does not restore NT and ID: a program that the timer came into is run again. */
    for (int tries = 0; tries < 8; tries++) {
        u8 *p = q->patches;
        for (u32 k = 0; k < q->n_patches; k++) {
            u64 offset = ((u64 *)p)[0], size = ((u64 *)p)[1];
            copy(live + offset, p + 16, size);
            p += 16 + ((size + 7) & ~7ul);
        }
        ticks_seen = 0;
        r->status = STATUS_NOT_RUN;
        out = r;
        enter(&q->state);
        collect(r, file, live);
        if (!ticks_seen || r->status == STATUS_TIMEOUT)
            break;
    }
}

__attribute__((used, noreturn)) static void run(void)
{
    header = (void *)sys6(__NR_mmap, 0, 1 << 16, 3, 1, SHM_FD, 0);
    if ((u64)header > -4096ul)
        die(2);
    u64 size = header->file_size;
    header = (void *)sys6(__NR_mmap, 0, size, 3, 1, SHM_FD, 0);
    if ((u64)header > -4096ul)
        die(2);
    map_areas();
    set_descriptors(header->segments, header->n_segments);
    copy((char *)header + header->live_offset, (char *)header + header->base_offset,
         header->image_size);
    prepare_signals();
    char byte = 0;
    sys3(__NR_write, 1, &byte, 1);
    while (sys3(__NR_read, 0, &byte, 1) == 1) {
        struct __kernel_old_timeval us = {0, (long)header->tick_us};
        struct { struct __kernel_old_timeval every, first; } timer = {us, us}, none = {0};
        sys3(__NR_setitimer, 0, &timer, 0);
        for (u64 i = 0; i < header->count; i++)
            run_one(i);
        sys3(__NR_setitimer, 0, &none, 0);
        sys3(__NR_write, 1, &byte, 1);
    }
    die(0);
}
