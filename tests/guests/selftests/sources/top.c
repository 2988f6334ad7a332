/* The last bytes that a program can have: the page before the one that Linux keeps free. */
#include "selftest.h"

#define TOP 0x7FFFFFFFF000ul

static u8 *last_page(void)
{
    u8 *p = mmap((void *)(TOP - PAGE), PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == MAP_FAILED && errno == EEXIST)
        skip("something else is there");
    if (p != (u8 *)(TOP - PAGE))
        fail("mmap: %s", strerror(errno));
    return p;
}

TEST(top, mapping_beyond)
{
    void *p = mmap((void *)TOP, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(p == MAP_FAILED && errno == ENOMEM);
}

TEST(top, data)
{
    last_page();
    void *byte = CODE(MARK "mov (%rdi), %al"), *word = CODE(MARK "mov (%rdi), %rax"),
         *store = CODE(MARK "mov %al, (%rdi)"), *string = CODE(MARK "rep stosb");
    struct registers c = at(byte);
    *(u8 *)(TOP - 1) = 0x42;
    c.r[RDI] = TOP - 1;
    run(&c);
    check_end("last byte", byte);
    SAME(caught.c.r[RAX], 0x42);
    c = at(store);
    c.r[RAX] = 0x43;
    c.r[RDI] = TOP - 1;
    run(&c);
    check_end("last byte", store);
    SAME(*(u8 *)(TOP - 1), 0x43);
    c.r[RDI] = TOP;
    run(&c);
    check_fault("beyond", store, SIGSEGV, V_PF, PF_P | PF_U | PF_W);
    SAME(caught.cr2, TOP);
    for (u64 before = 1; before < 8; before++) {
        c = at(word);
        c.r[RDI] = TOP - before;
        run(&c);
        check_fault("across", word, SIGSEGV, V_PF, PF_P | PF_U);
        SAME(caught.cr2, TOP);
    }
    c.r[RDI] = 0x7FFFFFFFFFFF;
    run(&c);
    check_fault("across the canonical boundary", word, SIGSEGV, V_GP, 0);
    c = at(string);
    c.r[RDI] = TOP - 5;
    c.r[RCX] = 10;
    run(&c);
    check_fault("string", string, SIGSEGV, V_PF, PF_P | PF_U | PF_W);
    SAME(caught.c.r[RCX], 5);
    SAME(caught.c.r[RDI], TOP);
}

TEST(top, code)
{
    u8 *p = last_page();
    void *call = CODE("call *%rdi");
    struct registers c = at(call);
    p[PAGE - 1] = 0xC3;
    c.r[RDI] = TOP - 1;
    run(&c);
    check_end("return in the last byte", call);
    p[PAGE - 1] = 0x90;
    run_bytes(p + PAGE - 1);
    check_fault_at("nop", TOP, SIGSEGV, V_PF, PF_P | PF_U | PF_I);
    p[PAGE - 1] = 0xB8;
    run_bytes(p + PAGE - 1);
    check_fault_at("mov imm", TOP - 1, SIGSEGV, V_PF, PF_P | PF_U | PF_I);
    SAME(caught.cr2, TOP);
    p[PAGE - 2] = 0xEB;                                 /* jmp over the end */
    p[PAGE - 1] = 0x10;
    run_bytes(p + PAGE - 2);
    check_fault_at("jmp", TOP + 16, SIGSEGV, V_PF, PF_P | PF_U | PF_I);
    p[PAGE - 1] = 0xCC;
    run_bytes(p + PAGE - 1);
    check_fault_at("int3", TOP, SIGTRAP, V_BP, 0);
}

/* The address after this SYSCALL is one to which SYSRET must not be asked to go without care. */
TEST(top, system_call)
{
    u8 *p = last_page();
    p[PAGE - 2] = 0x0F;
    p[PAGE - 1] = 0x05;
    struct registers c = at(p + PAGE - 2);
    c.r[RAX] = 39;
    run(&c);
    check_fault_at("syscall", TOP, SIGSEGV, V_PF, PF_P | PF_U | PF_I);
    SAME(caught.c.r[RAX], getpid());
    SAME(caught.c.r[RCX], TOP);
}

TEST(top, stack)
{
    last_page();
    void *code = CODE("push %rax; pop %rbx; call 1f; jmp 2f; 1: ret; 2: mov %rsp, %rcx;" MARK "pop %rdx");
    struct registers c = at(code);
    c.r[RSP] = TOP;
    c.r[RAX] = 0x1234;
    run(&c);
    check_fault("pop", code, SIGSEGV, V_PF, PF_P | PF_U);
    SAME(caught.c.r[RBX], 0x1234);
    SAME(caught.c.r[RSP], TOP);
}
