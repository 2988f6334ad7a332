/* A repeated string instruction that writes over itself: a processor sees the new bytes before the
   next repetition. They are NOPs, so it goes on behind the instruction with RCX left over. */
#include "guest.h"

enum { STOSB = 0xAA, MOVSB = 0xA4 };
static const u64 place = FREE_RAM + 0x100000;
static u8 nops[8192] UBSS;

/* The instruction stands at `code`, and is written at `target`, from `start` bytes before it on. */
static u64 left_over(u64 code, u64 target, u8 opcode, u64 start, u64 count)
{
    u8 *at = (u8 *)target;
    memset(at - 2048, 0x90, 6144);
    at[0] = 0xF3;
    at[1] = opcode;
    at[3000] = 0xCD;                    /* int $0x81 */
    at[3001] = 0x81;
    struct cpu c = at_cpl0((void *)code);
    c.r[RAX] = 0x90;
    c.r[RSI] = (u64)nops;
    c.r[RDI] = target - start;
    c.r[RCX] = count;
    run(&c);
    return trap.c.r[RCX];
}

void guest_main(void)
{
    char name[32];
    memset(nops, 0x90, sizeof nops);
    CHECK("stosb.at-once", left_over(place, place, STOSB, 0, 12), 11);
    CHECK("movsb.at-once", left_over(place, place, MOVSB, 0, 12), 11);
    for (u64 start = 1; start <= 64; start *= 2) {
        format_name(name, "stosb.after-%lu", start);
        CHECK(name, left_over(place + start * 0x10000, place + start * 0x10000, STOSB, start, 256),
              255 - start);
    }
    for (int again = 0; again < 40; again++)
        CHECK("stosb.often", left_over(place, place, STOSB, 64, 256), 191);
    for (u64 page = 0; page < 3; page++)
        map4k(WINDOW + page * 4096, place + page * 4096, P_P | P_W);
    CHECK("stosb.by-an-alias", left_over(WINDOW + 4096, place + 4096, STOSB, 64, 256), 191);
}
