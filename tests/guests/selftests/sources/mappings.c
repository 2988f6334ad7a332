/* Address spaces with very many mappings, large pages, and pages that a file no longer has. */
#include "selftest.h"
#include <sys/syscall.h>
#include <sys/time.h>

enum { HUGE = 2 << 20 };

static int memory_file(u64 size)
{
    int file = (int)MUST(raw_syscall(SYS_memfd_create, (long)"memory", 0, 0));
    MUST(ftruncate(file, (off_t)size));
    return file;
}

static void map_at(u8 *place, int protection, int flags, int file)
{
    if (mmap(place, PAGE, protection, flags | MAP_FIXED, file, 0) != place)
        fail("mmap: %s", strerror(errno));
}

/* One page at twenty thousand addresses, in two processes. */
TEST(mappings, one_page_at_many_places)
{
    enum { PLACES = 20000 };
    int file = memory_file(PAGE);
    u8 *area = pages(2 * PLACES, PROT_NONE);
    for (u64 i = 0; i < PLACES; i++)
        map_at(area + 2 * i * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    volatile u64 *counter = (u64 *)area;
    for (u64 i = 0; i < PLACES; i++)
        ++*(u64 *)(area + 2 * i * PAGE);
    SAME(*counter, PLACES);
    pid_t child = (pid_t)MUST(fork());
    if (!child) {
        for (u64 i = PLACES; i-- > 0;)
            ++*(u64 *)(area + 2 * i * PAGE);
        _exit(0);
    }
    join(child);
    SAME(*counter, 2 * PLACES);
    for (u64 i = 0; i < PLACES; i += 7)
        SAME(*(u64 *)(area + 2 * i * PAGE), 2 * PLACES);
}

/* Pages of its own, every third of an area, with other rights in turn. */
TEST(mappings, scattered_pages)
{
    enum { PAGES = 8000 };
    u8 *area = pages(3 * PAGES, PROT_NONE);
    for (u64 i = 0; i < PAGES; i++)
        MUST(mprotect(area + 3 * i * PAGE, PAGE, PROT_READ | PROT_WRITE));
    for (u64 i = 0; i < PAGES; i++)
        *(u64 *)(area + 3 * i * PAGE + 8 * (i % 512)) = i * i;
    for (u64 i = 0; i < PAGES; i += 2)
        MUST(mprotect(area + 3 * i * PAGE, PAGE, PROT_READ));
    for (u64 i = 0; i < PAGES; i++)
        SAME(*(u64 *)(area + 3 * i * PAGE + 8 * (i % 512)), i * i);
    void *store = CODE(MARK "movb $1, (%rdi)");
    for (u64 i = 0; i < 64; i++) {
        struct registers c = at(store);
        c.r[RDI] = (u64)area + 3 * i * PAGE;
        run(&c);
        SAME(caught.number, i % 2 ? SIGTRAP : SIGSEGV);
        c.r[RDI] += PAGE;
        run(&c);
        SAME(caught.number, SIGSEGV);
    }
}

/* One page of code at many addresses; it changes, and is changed at all of them. */
TEST(mappings, code_at_many_places)
{
    enum { PLACES = 2000 };
    int file = memory_file(PAGE);
    u8 *area = pages(2 * PLACES, PROT_NONE);
    u8 *writable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(writable != MAP_FAILED);
    for (u64 i = 0; i < PLACES; i++)
        map_at(area + 2 * i * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file);
    for (u32 round = 1; round < 4; round++) {
        u8 code[] = { 0x8D, 0x05, 0, 0, 0, 0, 0xB8, (u8)round, 0, 0, 0, 0xC3 };
        memcpy(writable + 16, code, sizeof code);
        for (u64 i = 0; i < PLACES; i++) {
            u64 got;
            asm volatile("call *%1" : "=a"(got) : "r"(area + 2 * i * PAGE + 16) : "memory", "rcx");
            SAME(got, round);
        }
    }
}

static u8 *huge_area(void)
{
    u8 *area = pages(8 * HUGE / PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    area = (u8 *)(((u64)area + HUGE - 1) & ~(u64)(HUGE - 1));
    madvise(area, 4ul * HUGE, MADV_HUGEPAGE);
    for (u64 i = 0; i < 4ul * HUGE / PAGE; i++)
        *(u64 *)(area + i * PAGE) = i;
    return area;
}

static int stored(u8 *place)
{
    void *store = CODE("movb $0x33, 64(%rdi)");
    struct registers c = at(store);
    c.r[RDI] = (u64)place;
    run(&c);
    return caught.number == SIGTRAP;
}

/* A small page of a large one loses its rights, its contents, its place. */
TEST(mappings, large_pages_split)
{
    u8 *area = huge_area();
    u8 *middle = area + HUGE + 77 * PAGE;
    MUST(mprotect(middle, PAGE, PROT_READ));
    SAME(stored(middle), 0);
    SAME(stored(middle - PAGE), 1);
    SAME(stored(middle + PAGE), 1);
    MUST(mprotect(middle, PAGE, PROT_READ | PROT_WRITE));
    SAME(stored(middle), 1);
    MUST(madvise(middle, PAGE, MADV_DONTNEED));
    SAME(*(u64 *)middle, 0);
    SAME(middle[64], 0);
    SAME(*(u64 *)(middle + PAGE), 512 + 78);
    SAME(middle[PAGE + 64], 0x33);
    u8 *other = page(PROT_NONE);
    SAME((u64)mremap(middle + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other), (u64)other);
    SAME(*(u64 *)other, 512 + 78);
    SAME(stored(middle + PAGE), 0);
    for (u64 i = 0; i < 4ul * HUGE / PAGE; i++)
        if (i != 512 + 77 && i != 512 + 78)
            SAME(*(u64 *)(area + i * PAGE), i);
}

TEST(mappings, large_pages_of_a_child)
{
    u8 *area = huge_area();
    for (u64 round = 0; round < 4; round++) {
        pid_t child = (pid_t)MUST(fork());
        if (!child) {
            for (u64 i = 0; i < 4ul * HUGE / PAGE; i += 3) {
                same("inherited", *(u64 *)(area + i * PAGE), i);
                *(u64 *)(area + i * PAGE) = ~i;
            }
            for (u64 i = 0; i < 4ul * HUGE / PAGE; i++)
                same("the child's", *(u64 *)(area + i * PAGE), i % 3 ? i : ~i);
            _exit(0);
        }
        join(child);
        for (u64 i = 0; i < 4ul * HUGE / PAGE; i++)
            SAME(*(u64 *)(area + i * PAGE), i);
    }
}

TEST(mappings, code_in_large_pages)
{
    u8 *area = huge_area();
    for (u32 i = 0; i < 2000; i++) {
        u8 *code = area + (u64)i * 4093;
        u8 bytes[] = { 0xB8, (u8)i, (u8)(i >> 8), 0, 0, 0xC3 };
        u64 got;
        memcpy(code, bytes, sizeof bytes);
        asm volatile("call *%1" : "=a"(got) : "r"(code) : "memory", "rcx");
        SAME(got, i);
    }
}

/* A mapping longer than its file, and a file that is cut off while it is mapped. */
TEST(mappings, beyond_the_file)
{
    int file = memory_file(2 * PAGE);
    u8 *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(p != MAP_FAILED);
    void *load = CODE(MARK "mov (%rdi), %rax");
    struct registers c = at(load);
    for (int i = 0; i < 50; i++) {
        MUST(ftruncate(file, 2 * PAGE));
        p[PAGE] = 7;
        c.r[RDI] = (u64)p + 2 * PAGE;
        run(&c);
        check_fault("beyond", load, SIGBUS, V_PF, PF_U);
        SAME(caught.code, BUS_ADRERR);
        SAME(caught.address, (u64)p + 2 * PAGE);
        MUST(ftruncate(file, PAGE));
        c.r[RDI] = (u64)p + PAGE;
        run(&c);
        check_fault("cut off", load, SIGBUS, V_PF, PF_U);
        MUST(ftruncate(file, 2 * PAGE));
        run(&c);
        check_end("again", load);
        SAME(caught.c.r[RAX], 0);
    }
}

static volatile int interrupted;

static void on_alarm(int number)
{
    (void)number;
    interrupted++;
}

/* Long string instructions that a timer interrupts again and again. */
TEST(mappings, interrupted_strings)
{
    enum { SIZE = 32 << 20 };
    struct itimerval often = { { 0, 1000 }, { 0, 1000 } }, never = { 0 };
    u8 *area = pages(SIZE / PAGE, PROT_READ | PROT_WRITE);
    void *fill = CODE("rep stosq"), *move = CODE("std; rep movsb; cld");
    signal(SIGALRM, on_alarm);
    MUST(setitimer(ITIMER_REAL, &often, NULL));
    for (u64 i = 1; i < 6; i++) {
        struct registers c = at(fill);
        c.r[RAX] = 0x0101010101010101 * i;
        c.r[RDI] = (u64)area;
        c.r[RCX] = SIZE / 8;
        run(&c);
        check_end("stos", fill);
        SAME(caught.c.r[RDI], (u64)area + SIZE);
        area[SIZE / 2] = (u8)(0x80 + i);
        c = at(move);
        c.r[RSI] = (u64)area + SIZE - 3;
        c.r[RDI] = (u64)area + SIZE - 1;
        c.r[RCX] = 1 << 20;
        run(&c);
        check_end("movs", move);
        SAME(caught.c.r[RCX], 0);
        SAME(caught.c.r[RDI], (u64)area + SIZE - 1 - (1 << 20));
        for (u64 k = 0; k < SIZE; k += 509)
            SAME(area[k], k == SIZE / 2 ? 0x80 + i : i);
    }
    MUST(setitimer(ITIMER_REAL, &never, NULL));
    CHECK(interrupted > 0);
}
