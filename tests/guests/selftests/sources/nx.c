/* Memory that is not to be executed. */
#include "selftest.h"
#include <fcntl.h>
#include <pthread.h>

static const u8 returns[] = { 0xC3 };
static u8 in_data[64] = { 0xC3 };

static void call(void *place)
{
    void *code = CODE("call *%rdi");
    struct registers c = at(code);
    c.r[RDI] = (u64)place;
    run(&c);
}

static void check_refused(const char *name, void *place)
{
    call(place);
    check_pf(name, (u64)place, PF_P | PF_U | PF_I, (u64)place);
    same(name, (u64)caught.code, SEGV_ACCERR);
}

TEST(nx, stack)
{
    volatile u8 here[64];
    here[0] = 0xC3;
    check_refused("stack", (void *)here);
    work_stack[0] = 0xC3;
    check_refused("other stack", work_stack);
}

TEST(nx, heap_and_data)
{
    u8 *heap = malloc(64), *mapped = page(PROT_READ | PROT_WRITE);
    *heap = *mapped = 0xC3;
    check_refused("heap", heap);
    check_refused("mapping", mapped + 0);
    check_refused("data", in_data);
    check_refused("read-only data", (void *)returns);
    free(heap);
}

static void *on_thread(void *unused)
{
    volatile u8 here[64];
    (void)unused;
    here[0] = 0xC3;
    check_refused("thread's stack", (void *)here);
    return NULL;
}

TEST(nx, stack_of_a_thread)
{
    pthread_t thread;
    /* The snippet's handler serves the thread, on this one's behalf. */
    SAME(pthread_create(&thread, NULL, on_thread, NULL), 0);
    SAME(pthread_join(thread, NULL), 0);
}

TEST(nx, file)
{
    int file = (int)MUST(open("/tmp/selftest-code", O_RDWR | O_CREAT | O_TRUNC, 0600));
    u8 code[PAGE];
    memset(code, 0xC3, sizeof code);
    SAME(write(file, code, sizeof code), sizeof code);
    u8 *plain = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    u8 *executable = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    CHECK(plain != MAP_FAILED && executable != MAP_FAILED);
    SAME(plain[5], 0xC3);
    for (int i = 0; i < 3; i++) {
        check_refused("file", plain + 5);
        call(executable + 5);
        SAME(caught.number, SIGTRAP);
    }
    MUST(unlink("/tmp/selftest-code"));
}

/* Given and taken back: what was executed once must not be any more. */
TEST(nx, taken_back)
{
    u8 *p = page(PROT_READ | PROT_WRITE);
    *p = 0xC3;
    for (int i = 0; i < 300; i++) {
        check_refused("before", p);
        MUST(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
        call(p);
        SAME(caught.number, SIGTRAP);
        MUST(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
    }
}

TEST(nx, instruction_that_runs_into_it)
{
    u8 *p = pages(2, PROT_READ | PROT_WRITE);
    static const u8 code[] = { 0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8, 0xCC };
    for (u64 before = 1; before < 10; before++) {
        u8 *start = p + PAGE - before;
        MUST(mprotect(p, 2 * PAGE, PROT_READ | PROT_WRITE));
        memcpy(start, code, sizeof code);
        MUST(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
        run_bytes(start);
        check_pf("second page", (u64)start, PF_P | PF_U | PF_I, (u64)p + PAGE);
        MUST(mprotect(p, 2 * PAGE, PROT_READ | PROT_EXEC));
        run_bytes(start);
        SAME(caught.number, SIGTRAP);
        SAME(caught.c.r[RAX], 0x0807060504030201);
    }
}
