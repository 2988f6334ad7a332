/* An instruction whose page the tables have replaced since it was fetched, without INVLPG: a
   processor may perform what it has fetched or what is there now (SDM 3A 4.10.2), and goes on. */
#include "guest.h"

enum { DEVICE = 0xF0000000 };
static const u64 page = WINDOW, operand = WINDOW + 0x10000;

static void replaced_by(const char *name, const char *bytes, int size)
{
    static const u8 load[] = { 0x8B, 0x07, 0xC3 };   /* mov (%rdi), %eax; ret */
    u8 *was = (u8 *)FREE_RAM, *is = (u8 *)FREE_RAM + 4096;
    u32 value;
    memset(was, 0x90, 4096);
    memset(is, 0x90, 4096);
    memcpy(was, load, sizeof load);
    memcpy(is, bytes, size);
    is[2] = 0xC3;
    map4k(page, (u64)was, P_P | P_W);
    map4k(operand, FREE_RAM + 0x5000, P_P | P_W);
    map4k(operand + 4096, DEVICE, P_P | P_W);
    asm volatile("call *%1" : "=a"(value) : "r"(page), "D"(operand) : "memory", "rbx", "rcx", "rdx");
    *entry_at(current_root(), page, L_4K) = (u64)is | P_P | P_W | P_A;
    asm volatile("call *%1" : "=a"(value) : "r"(page), "D"(operand + 4096)
                 : "memory", "rbx", "rcx", "rdx");
    CHECK(name, *(volatile u8 *)(page + 2), 0xC3);
    invlpg(page);
}

void guest_main(void)
{
    replaced_by("cpuid", "\x0F\xA2", 2);
    replaced_by("mov-from-seg", "\x8C\xD8", 2);
    replaced_by("store", "\x88\x07", 2);
    replaced_by("nothing", "\x66\x90", 2);
}
