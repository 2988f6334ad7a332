/* Support of the self-tests that a Linux guest runs on itself: verdicts, snippets that run with
   every register given, and the record of the signal that ends them. */
#ifndef SELFTEST_H
#define SELFTEST_H

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define NOINLINE __attribute__((noinline))
#define ALIGNED(n) __attribute__((aligned(n)))
#define COUNT(array) (sizeof(array) / sizeof *(array))
#define PAGE 4096ul

/* --- verdicts (main.c) */

/* Each test runs in a process of its own; one that returns is ok. Its verdict's name is
   "group.name"; the file list of tests in Python reads these lines. */
struct selftest {
    const char *name;
    void (*run)(void);
};
#define TEST(group, name)                                                                       \
    static void group##_##name(void);                                                           \
    static const struct selftest entry_##group##_##name                                         \
        __attribute__((used, section("selftests"), aligned(16))) = { #group "." #name,          \
                                                                     group##_##name };          \
    static void group##_##name(void)

void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void skip(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* fail() with both values unless they are equal; `what` names the case. */
void same(const char *what, u64 got, u64 want);
#define SAME(got, want) same(#got, (u64)(got), (u64)(want))
#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition))                                                                       \
            fail("line %d: %s", __LINE__, #condition);                                          \
    } while (0)
/* For calls that tell errors by -1. */
#define MUST(call) ({                                                                           \
    long result_ = (long)(call);                                                                \
    if (result_ == -1)                                                                          \
        fail("line %d: %s: %s", __LINE__, #call, strerror(errno));                              \
    result_; })

/* Wait for a child that ends by itself, with status 0 if all was well. */
void join(pid_t child);
/* The status waitpid() gave of a child. */
int status_of(pid_t child);
/* Run `body` in a child and return its wait status. */
int in_child(void (*body)(void));

/* --- the processor */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

enum {
    V_DE, V_DB, V_BP = 3, V_OF, V_BR, V_UD, V_NP = 11, V_SS, V_GP, V_PF, V_MF = 16, V_AC,
    V_XM = 19
};

enum {
    F_CF = 1, F_1 = 2, F_PF = 4, F_AF = 0x10, F_ZF = 0x40, F_SF = 0x80, F_TF = 0x100, F_IF = 0x200,
    F_DF = 0x400, F_OF = 0x800, F_IOPL = 0x3000, F_NT = 0x4000, F_RF = 0x10000, F_AC = 0x40000,
    F_ID = 0x200000,
    F_ARITH = F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF
};

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_I = 16 };

enum { USER_CS = 0x33, USER_SS = 0x2B };

/* An address that no process can have, and one that is not canonical. */
#define KERNEL_ADDRESS 0xFFFF888000000000ul
#define NON_CANONICAL 0x0000800000000000ul

struct cpuid {
    u32 eax, ebx, ecx, edx;
};
static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                 : "a"(leaf), "c"(subleaf));
    return r;
}
static inline u64 flags(void)
{
    u64 value;
    asm volatile("pushfq; popq %0" : "=r"(value) :: "memory");
    return value;
}
static inline long raw_syscall(long number, long a, long b, long c)
{
    long result;
    asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c)
                 : "rcx", "r11", "memory");
    return result;
}
int has_avx(void);
int has_fsgsbase(void);
/* Memory of one anonymous page, or of `count`. */
void *page(int protection);
void *pages(u64 count, int protection);

/* --- snippets (snippet.c, enter.S) */

struct registers {
    u64 r[16];
    u64 rip, rflags;
};

enum { FP_SIZE = 512 + 64 + 256 };  /* legacy area, header, upper halves of YMM */

/* The last signal that a snippet made: what its handler was told. */
struct caught {
    int number, code;           /* si_signo, si_code */
    u64 address;                /* si_addr */
    u64 trapno, error, cr2;
    struct registers c;
    u16 cs, ss;
    u64 fs_base;
    u64 handler_flags;          /* in the handler itself */
    u64 count;                  /* signals since run() */
    u8 fp[FP_SIZE] ALIGNED(64); /* the state in the frame, as by XSAVE */
};
extern struct caught caught;

/* Called for each signal before the snippet is ended: return 1 to go on with the frame as it is. */
extern int (*on_signal)(struct caught *c, ucontext_t *frame);

/* A snippet: assembly closed by INT3. MARK before an instruction names the one expected to fault,
   AFTER the address expected after a trap. */
#define MARK "\n772:\n"
#define AFTER "\n773:\n"
#define CODE(body) ({                                                                           \
    void *code_;                                                                                \
    asm volatile(".pushsection .snippets, \"ax\", @progbits\n"                                  \
                 ".balign 8\n.quad 772f, 773f, 774f\n"                                          \
                 "771:\n" body "\n774: int3\n772:\n773:\n"                                      \
                 ".popsection");                                                                \
    asm volatile("mov $771b, %0" : "=r"(code_));                                                \
    code_; })
/* A list of labels of the snippet, such as STEPS(name, "11f, 12f"), which ends with 0. */
#define STEPS(name, labels)                                                                     \
    ".pushsection .rodata\n.balign 8\n.globl " #name "\n" #name ": .quad " labels ", 0\n"       \
    ".popsection\n"
u64 code_mark(const void *code);    /* MARK, or the end */
u64 code_after(const void *code);
u64 code_end(const void *code);

/* A stack for the snippet, arithmetic flags clear, everything else 0. */
struct registers at(const void *code);
/* Run until a signal that on_signal does not resume. */
void run(const struct registers *c);
void run_code(const void *code);
/* Run code outside a snippet, such as bytes in memory; it need not end. */
void run_bytes(const void *bytes);
/* The highest address of a snippet's stack. */
extern u8 work_stack[65536];
#define WORK_RSP ((u64)work_stack + sizeof work_stack - 256)

/* The snippet came to its end. */
void check_end(const char *name, const void *code);
/* The last signal: from the instruction at MARK, by this exception. */
void check_fault(const char *name, const void *code, int number, u64 trapno, u64 error);
void check_fault_at(const char *name, u64 rip, int number, u64 trapno, u64 error);
/* A page fault: SIGSEGV with its address. */
void check_pf(const char *name, u64 rip, u64 error, u64 cr2);

/* --- vector and x87 state (fp.c) */

/* An image for FP_RESTORE in which every register differs, by `seed`; rounding is upwards. */
void fill_fp(u8 *image, u8 seed);
/* fail() unless the registers and control words of two images agree. */
void check_fp(const char *name, const u8 *got, const u8 *want);
/* At a snippet's start: load the image at RDI; RAX is FP_MASK and RDX 0. */
#define FP_RESTORE "xrstor (%rdi);"
u64 fp_mask(void);
/* Give every vector and x87 register another value. */
void clobber_fp(void);
/* Load an image, wait so many ticks in a loop of its own, store the state. */
void fp_hold(const u8 *image, u8 *after, u64 ticks, u64 mask);

/* The program anew: `selftests --exec MODE` (exec.c). */
int exec_mode(int count, char **arguments);

#endif
