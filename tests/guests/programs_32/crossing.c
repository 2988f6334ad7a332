/* A 64-bit program that runs 32-bit and 16-bit code in its own process, with signals between.
   It prints what it has seen, which is the same on every x86-64 processor with Linux. */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { STACK = 0x10000, ROUNDS = 4000, THREADS = 4 };

unsigned call32(const void *code, unsigned argument, void *stack);
extern const char mix32[], system32[], fault32[], far16[], code16[], code16_end[];

asm(".pushsection .text\n"
    /* EDI has the 32-bit code, ESI its argument, RDX the end of a stack below 4 GiB. */
    "call32: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, -16(%rdx)\n"
    "lea -16(%rdx), %rsp\n"
    "mov %esi, %eax\n"
    "pushq $0x23; pushq $1f; lretq\n"
    ".code32\n"
    "1: mov $0x2b, %ecx; mov %ecx, %ds; mov %ecx, %es\n"
    "call *%edi\n"
    "ljmp $0x33, $2f\n"
    ".code64\n"
    "2: mov (%rsp), %rsp\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "ret\n"
    ".code32\n"
    /* Instructions that 64-bit mode does not have, an x87 sum, and a string operation. */
    "mix32: push %ebp; mov %esp, %ebp; pusha\n"
    "mov %eax, %ebx; and $0xff, %eax; aam; aad; add $0x19, %al; daa; aas\n"
    "inc %ebx; imul %ebx, %ebx; xor %eax, %ebx\n"
    "push %ebx; fildl (%esp); fld1; faddp; fistpl (%esp); pop %ecx\n"
    "sub $64, %esp; mov %esp, %edi; mov %ecx, %eax; mov $16, %ecx; cld; rep stosl\n"
    "mov 60(%esp), %eax; add $64, %esp\n"
    "push %cs; pop %edx; add %edx, %eax\n"
    "mov %eax, 28(%esp)\n"
    "popa; leave; ret\n"
    /* getpid by INT 80h. */
    "system32: mov $20, %eax; int $0x80; ret\n"
    "fault32: mov 4, %eax; ret\n"
    /* A far call to the segment of 16-bit code, entry 1 of the LDT. */
    "far16: mov %eax, %ecx; mov $0xf, %edx; push %edx; push $0; mov %ecx, %eax\n"
    "lcall *(%esp); add $8, %esp; ret\n"
    ".code16\n"
    "code16: push %bp; mov %sp, %bp; add $0x1234, %ax; adc $0, %ax; rol $1, %ax; xor $0x55aa, %ax; pop %bp; lretl\n"
    "code16_end:\n"
    ".code64\n"
    ".popsection\n");

static volatile sig_atomic_t alarms, alarms32;
static __thread sigjmp_buf back;

static void *low(size_t size, int rights) {
    void *place = mmap(NULL, size, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (place == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return place;
}

static void on_alarm(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    unsigned cs = ((ucontext_t *)context)->uc_mcontext.gregs[REG_CSGSFS] & 0xffff;
    alarms++;
    alarms32 += cs == 0x23;
}

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number;
    unsigned cs = ((ucontext_t *)context)->uc_mcontext.gregs[REG_CSGSFS] & 0xffff;
    printf("fault at %p in %x\n", info->si_addr, cs);
    siglongjmp(back, 1);
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {
        .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART,
    };
    sigaction(number, &action, NULL);
}

static void own_signal_stack(void) {
    stack_t stack = {.ss_sp = malloc(0x10000), .ss_size = 0x10000};
    sigaltstack(&stack, NULL);
}

static void *work(void *number) {
    own_signal_stack();
    char *stack = (char *)low(STACK, PROT_READ | PROT_WRITE) + STACK;
    unsigned sum = 0;
    for (unsigned i = 0; i < ROUNDS; i++)
        sum = sum * 31 + call32(mix32, i * 7919 + (unsigned)(long)number, stack);
    return (void *)(unsigned long)sum;
}

static void in_16_bits(char *stack) {
    char *code = low(0x1000, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(code, code16, code16_end - code16);
    struct user_desc segment = {
        .entry_number = 1, .base_addr = (unsigned)(unsigned long)code, .limit = 0xfff,
        .contents = MODIFY_LDT_CONTENTS_CODE,
    };
    if (syscall(SYS_modify_ldt, 1, &segment, sizeof segment)) {
        perror("modify_ldt");
        exit(1);
    }
    unsigned value = 1;
    for (int i = 0; i < ROUNDS; i++)
        value = call32(far16, value, stack);
    printf("16 bits: %x\n", value & 0xffff);
}

int main(void) {
    pthread_t threads[THREADS];
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    char *stack = (char *)low(STACK, PROT_READ | PROT_WRITE) + STACK;
    setvbuf(stdout, NULL, _IONBF, 0);
    own_signal_stack();
    handle(SIGALRM, on_alarm);
    handle(SIGSEGV, on_fault);
    printf("pid %s\n", call32(system32, 0, stack) == (unsigned)getpid() ? "is right" : "is wrong");
    if (!sigsetjmp(back, 1))
        call32(fault32, 0, stack);
    setitimer(ITIMER_REAL, &often, NULL);
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < THREADS; i++) {
        void *sum;
        pthread_join(threads[i], &sum);
        printf("32 bits: %lx\n", (unsigned long)sum);
    }
    in_16_bits(stack);
    for (long tries = 0; !alarms32 && tries < 10000000; tries++)
        call32(mix32, 1, stack);
    for (long tries = 0; alarms == alarms32 && tries < 10000000000; tries++)
        ;
    setitimer(ITIMER_REAL, &never, NULL);
    printf("signals in 64 bits %d, in 32 bits %d\n", alarms > alarms32, alarms32 > 0);
    return 0;
}
