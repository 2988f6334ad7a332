/* The encoder of operand.h (SDM 2A 2.1, 2.2). */
#include "operand.h"

static u8 buffer[0x10000] UDATA;
static u32 used;

static void emit(u8 b)
{
    buffer[used++] = b;
}

static void emit32(i32 v)
{
    for (int i = 0; i < 4; i++)
        emit((u8)((u32)v >> (8 * i)));
}

void *operand_code(const struct operand *o, enum kind kind, int size, int reg)
{
    if (used > sizeof buffer - 64)
        used = 0;
    void *start = &buffer[used];
    static const u8 opcodes[] = { 0x8B, 0x89, 0x01 };
    int base = o->base, index = o->index;
    if (o->prefix)
        emit((u8)o->prefix);
    if (size == 2)
        emit(0x66);
    emit((u8)(0x40 | (size == 8) << 3 | (reg >> 3 & 1) << 2 | (index >= 0 ? index >> 3 & 1 : 0) << 1
              | (base >= 0 ? base >> 3 & 1 : 0)));
    emit((u8)(opcodes[kind] - (size == 1)));
    int disp8 = o->displacement >= -128 && o->displacement < 128;
    int mod = base < 0 ? 0 : o->displacement == 0 && (base & 7) != RBP ? 0 : disp8 ? 1 : 2;
    if (index >= 0 || base < 0 || (base & 7) == RSP) {
        emit((u8)(mod << 6 | (reg & 7) << 3 | 4));
        emit((u8)(o->scale << 6 | (index >= 0 ? index & 7 : 4) << 3 | (base >= 0 ? base & 7 : 5)));
    } else {
        emit((u8)(mod << 6 | (reg & 7) << 3 | (base & 7)));
    }
    if (base < 0 || mod == 2)
        emit32(o->displacement);
    else if (mod == 1)
        emit((u8)o->displacement);
    emit(0xCD);
    emit(V_END);
    return start;
}

u64 operand_address(const struct operand *o, const struct cpu *c)
{
    u64 a = (u64)(i64)o->displacement;
    if (o->base >= 0)
        a += c->r[o->base];
    if (o->index >= 0)
        a += c->r[o->index] << o->scale;
    if (o->prefix == 0x67)
        a &= 0xFFFFFFFF;
    if (o->prefix == 0x64)
        a += read_msr(MSR_FS_BASE);
    if (o->prefix == 0x65)
        a += read_msr(MSR_GS_BASE);
    return a;
}
