/* Instructions of every kind over a page boundary, split at each byte: two frames far apart, so that
   the bytes are next to each other only in linear memory. */
#include "guest.h"

static const u64 first = WINDOW + 0x20000000, second = first + 0x1000;
static const u64 first_frame = FREE_RAM + 0x7000, second_frame = FREE_RAM + 0x2000;

struct sample {
    const char *name;
    u8 length;
    u8 bytes[12];
    u8 privileged;
    u8 taken;       /* goes to its own end by a register or the stack */
};

static const struct sample samples[] = {
    { "mov-imm64", 10, { 0x48, 0xB9, 1, 2, 3, 4, 5, 6, 7, 8 }, 0, 0 },
    { "add-mem", 4, { 0x48, 0x03, 0x46, 0x08 }, 0, 0 },
    { "rip-relative", 7, { 0x48, 0x8D, 0x0D, 0, 0, 0, 0 }, 0, 0 },
    { "vex", 5, { 0xC5, 0xF8, 0x10, 0x46, 0x00 }, 0, 0 },
    { "sgdt", 4, { 0x0F, 0x01, 0x04, 0x24 }, 0, 0 }, { "pushfw", 2, { 0x66, 0x9C }, 0, 0 },
    { "cpuid", 2, { 0x0F, 0xA2 }, 0, 0 }, { "str", 3, { 0x0F, 0x00, 0xC9 }, 0, 0 },
    { "mov-from-ss", 2, { 0x8C, 0xD1 }, 0, 0 }, { "lar", 4, { 0x48, 0x0F, 0x02, 0xC9 }, 0, 0 },
    { "rdtsc", 2, { 0x0F, 0x31 }, 0, 0 }, { "rep-movs", 3, { 0xF3, 0x48, 0xA5 }, 0, 0 },
    { "stos", 2, { 0x48, 0xAB }, 0, 0 }, { "enter", 4, { 0xC8, 0x10, 0, 0 }, 0, 0 },
    { "jmp-rel32", 5, { 0xE9, 0, 0, 0, 0 }, 0, 0 }, { "jmp-rel8", 2, { 0xEB, 0 }, 0, 0 },
    { "jz-rel32", 6, { 0x0F, 0x84, 0, 0, 0, 0 }, 0, 0 }, { "jnz-rel8", 2, { 0x75, 0 }, 0, 0 },
    { "call", 5, { 0xE8, 0, 0, 0, 0 }, 0, 0 }, { "loop", 2, { 0xE2, 0 }, 0, 0 },
    { "jmp-rdx", 2, { 0xFF, 0xE2 }, 0, 1 }, { "call-rdx", 2, { 0xFF, 0xD2 }, 0, 1 },
    { "jmp-r11", 3, { 0x41, 0xFF, 0xE3 }, 0, 1 }, { "ret-imm", 3, { 0xC2, 8, 0 }, 0, 1 },
    { "push-imm32", 5, { 0x68, 1, 2, 3, 4 }, 0, 0 }, { "push-mem", 3, { 0xFF, 0x76, 0x08 }, 0, 0 },
    { "lock-inc", 4, { 0xF0, 0x48, 0xFF, 0x06 }, 0, 0 }, { "xlat", 2, { 0x3E, 0xD7 }, 0, 0 },
    { "x87", 2, { 0xD9, 0xE8 }, 0, 0 }, { "fxsave", 3, { 0x0F, 0xAE, 0x07 }, 0, 0 },
    { "moffs", 10, { 0x48, 0xA1, 0, 0, 0x80, 0, 0, 0, 0, 0 }, 0, 0 },
    { "mov-from-cr0", 3, { 0x0F, 0x20, 0xC1 }, 1, 0 }, { "in-imm", 2, { 0xE4, 0xEE }, 1, 0 },
    { "lidt", 4, { 0x0F, 0x01, 0x5E, 0x20 }, 1, 0 }, { "clts", 2, { 0x0F, 0x06 }, 1, 0 },
    { "invlpg", 3, { 0x0F, 0x01, 0x3E }, 1, 0 }, { "wbinvd", 2, { 0x0F, 0x09 }, 1, 0 },
    { "mov-to-cr8", 4, { 0x44, 0x0F, 0x22, 0xC3 }, 1, 0 },
};

static void put(u64 linear, u8 byte)
{
    *(u8 *)((linear < second ? first_frame : second_frame) + (linear & 0xFFF)) = byte;
}

static void sample_check(const struct sample *s, u32 split, int cpl)
{
    u64 start = second - split, end = start + s->length;
    char name[64];
    memset((void *)(first_frame + 0xFE0), 0x90, 0x20);
    memset((void *)second_frame, 0x90, 0x20);
    for (u32 i = 0; i < s->length; i++)
        put(start + i, s->bytes[i]);
    put(end, 0xCD);
    put(end + 1, V_END);
    struct cpu c = at_cpl(cpl, (void *)(start - 2));        /* from two NOPs before */
    c.r[RCX] = 1;
    c.r[RDX] = c.r[R11] = end;
    c.r[RSP] -= 512;
    c.r[RSI] = (u64)user_stack + 1024;
    c.r[RDI] = c.r[RBX] = (u64)user_stack + 2048;
    c.r[RBX] = 0;
    if (s->bytes[0] == 0x3E)
        c.r[RBX] = c.r[RDI];
    if (s->bytes[0] == 0xC2)
        *(u64 *)c.r[RSP] = end;
    struct table_reg r = { sizeof idt - 1, (u64)idt };
    memcpy((void *)(c.r[RSI] + 0x20), &r, sizeof r);
    run(&c);
    format_name(name, "split.%s.%u", s->name, split);
    if (s->privileged && cpl)
        check_trap_at(at(name, cpl), start, V_GP, 0);
    else
        check_trap_at(at(name, cpl), end + 2, V_END, 0);
}

void guest_main(void)
{
    map4k(first, first_frame, P_P | P_W | P_U);
    map4k(second, second_frame, P_P | P_W | P_U);
    EACH_CPL(cpl)
        for (u64 i = 0; i < sizeof samples / sizeof *samples; i++)
            for (u32 split = 1; split < samples[i].length; split++)
                sample_check(&samples[i], split, cpl);
    /* The second page changes under the instruction. */
    EACH_CPL(cpl) {
        sample_check(&samples[0], 3, cpl);
        CHECK(at("split.value", cpl), trap.c.r[RCX], 0x0807060504030201);
        map4k(second, FREE_RAM + 0x9000, P_P | P_W | P_U);
        memcpy((void *)(FREE_RAM + 0x9000), (void *)second_frame, 64);
        *(u8 *)(FREE_RAM + 0x9000) = 0x99;
        run_code(cpl, (void *)(second - 3));
        CHECK(at("split.second-page-remapped", cpl), trap.c.r[RCX], 0x0807060504039901);
        map4k(second, second_frame, P_P | P_W | P_U);
        run_code(cpl, (void *)(second - 3));
        CHECK(at("split.second-page-back", cpl), trap.c.r[RCX], 0x0807060504030201);
    }
}
