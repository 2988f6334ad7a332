/* Rights that change while data and code are in use. */
#include "selftest.h"

static void touch(u8 *p, int write)
{
    void *load = CODE(MARK "mov (%rdi), %al"), *store = CODE(MARK "mov %al, (%rdi)");
    void *code = write ? store : load;
    struct registers c = at(code);
    c.r[RDI] = (u64)p;
    c.r[RAX] = 0x5A;
    run(&c);
    if (caught.number != SIGTRAP) {
        SAME(caught.c.rip, code_mark(code));
        SAME(caught.cr2, (u64)p);
    }
}

/* A page of data goes through its rights again and again; each access is as the last call said. */
TEST(mprotect, data)
{
    u8 *p = page(PROT_READ | PROT_WRITE);
    for (int i = 0; i < 200; i++) {
        touch(p + i, 1);
        SAME(caught.number, SIGTRAP);
        MUST(mprotect(p, PAGE, PROT_READ));
        touch(p + i, 1);
        SAME(caught.number, SIGSEGV);
        SAME(caught.error, PF_P | PF_U | PF_W);
        touch(p + i, 0);
        SAME(caught.number, SIGTRAP);
        SAME(caught.c.r[RAX] & 0xFF, 0x5A);
        MUST(mprotect(p, PAGE, PROT_NONE));
        touch(p + i, 0);
        SAME(caught.error, PF_U);
        touch(p + i, 1);
        SAME(caught.error, PF_U | PF_W);
        MUST(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
    }
    for (int i = 0; i < 200; i++)
        SAME(p[i], 0x5A);
}

/* A large area of which single pages change their rights. */
TEST(mprotect, scattered)
{
    enum { PAGES = 600 };
    u8 *p = pages(PAGES, PROT_READ | PROT_WRITE);
    memset(p, 1, PAGES * PAGE);
    for (int i = 0; i < PAGES; i += 7)
        MUST(mprotect(p + (u64)i * PAGE, PAGE, i % 2 ? PROT_READ : PROT_NONE));
    for (int i = 0; i < PAGES; i++) {
        touch(p + (u64)i * PAGE, 1);
        SAME(caught.number, i % 7 ? SIGTRAP : SIGSEGV);
        if (i % 7 == 0)
            SAME(caught.error, i % 2 ? PF_P | PF_U | PF_W : PF_U | PF_W);
    }
}

static void put_code(u8 *p, u32 value)
{
    p[0] = 0xB8;                    /* mov $value, %eax */
    memcpy(p + 1, &value, 4);
    p[5] = 0xCC;
}

static void check_code(const u8 *p, u32 value)
{
    run_bytes(p);
    SAME(caught.number, SIGTRAP);
    SAME(caught.c.r[RAX], value);
}

/* Write, make executable, run, make writable: as a just-in-time compiler does. */
TEST(mprotect, code)
{
    u8 *p = page(PROT_READ | PROT_WRITE);
    for (u32 i = 0; i < 300; i++) {
        put_code(p, i);
        MUST(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
        check_code(p, i);
        touch(p, 1);
        SAME(caught.number, SIGSEGV);
        SAME(caught.error, PF_P | PF_U | PF_W);
        check_code(p, i);
        MUST(mprotect(p, PAGE, PROT_NONE));
        run_bytes(p);
        check_pf("no rights", (u64)p, PF_U | PF_I, (u64)p);
        touch(p, 0);
        SAME(caught.error, PF_U);
        MUST(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
        run_bytes(p);
        check_pf("no execution", (u64)p, PF_P | PF_U | PF_I, (u64)p);
    }
}

TEST(mprotect, code_only)
{
    u8 *p = page(PROT_READ | PROT_WRITE);
    put_code(p, 77);
    MUST(mprotect(p, PAGE, PROT_EXEC));
    check_code(p, 77);
}

/* Other code at the same address, by unmapping, moving and discarding. */
TEST(mprotect, mapped_anew)
{
    u8 *p = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    for (u32 i = 0; i < 100; i++) {
        put_code(p, i);
        check_code(p, i);
        MUST(munmap(p, PAGE));
        run_bytes(p);
        check_pf("unmapped", (u64)p, PF_U | PF_I, (u64)p);
        void *again = mmap(p, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        SAME((u64)again, (u64)p);
        put_code(p, ~i);
        check_code(p, ~i);
    }
}

TEST(mprotect, moved)
{
    u8 *p = page(PROT_READ | PROT_WRITE | PROT_EXEC), *q = page(PROT_NONE);
    for (u32 i = 0; i < 100; i++) {
        put_code(p, i);
        check_code(p, i);
        SAME((u64)mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q), (u64)q);
        check_code(q, i);
        run_bytes(p);
        check_pf("old place", (u64)p, PF_U | PF_I, (u64)p);
        u8 *other = p;
        p = q;
        q = other;
    }
}

TEST(mprotect, discarded)
{
    u8 *p = page(PROT_READ | PROT_WRITE | PROT_EXEC);
    for (u32 i = 0; i < 50; i++) {
        put_code(p, i);
        check_code(p, i);
        MUST(madvise(p, PAGE, MADV_DONTNEED));
        /* Zeros are add %al, (%rax). */
        struct registers c = at(p);
        c.r[RAX] = 0x10;
        run(&c);
        check_pf("zeros", (u64)p, PF_U | PF_W, 0x10);
    }
}
