/* GDT, TSS and IDT. Every vector leads to the recorder on IST1, so a snippet's own stack pointer
   may be anything. */
#include "guest.h"

u64 gdt[GDT_ENTRIES] ALIGNED(16);
u64 idt[256][2] ALIGNED(16);
struct tss tss ALIGNED(16);
u8 user_stack[16384] UBSS ALIGNED(4096);
u8 kernel_stack[16384] ALIGNED(4096);
u8 rsp0_stack[16384] ALIGNED(4096);
static u8 ist_stacks[7][8192] ALIGNED(4096);

void descriptors_start(void);
extern u8 trap_stubs[];

u64 stub_address(u8 vector)
{
    return (u64)trap_stubs + 16ul * vector;
}

void set_segment(u16 selector, u32 base, u32 limit, u16 attributes)
{
    gdt[selector / 8] = (limit & 0xFFFF) | (u64)(base & 0xFFFFFF) << 16
        | (u64)(attributes & 0xF0FF) << 40 | (u64)(limit >> 16 & 0xF) << 48
        | (u64)(base >> 24) << 56;
}

void set_system(u16 selector, u64 base, u32 limit, u16 attributes)
{
    set_segment(selector, (u32)base, limit, attributes);
    gdt[selector / 8 + 1] = base >> 32;
}

void set_gate(u8 vector, u64 target, u16 selector, int type, int dpl, int ist)
{
    idt[vector][0] = (target & 0xFFFF) | (u64)selector << 16 | (u64)ist << 32
        | (u64)(0x80 | dpl << 5 | type) << 40 | (target >> 16 & 0xFFFF) << 48;
    idt[vector][1] = target >> 32;
}

void set_call_gate(u16 selector, u64 target, u16 target_cs, int dpl)
{
    gdt[selector / 8] = (target & 0xFFFF) | (u64)target_cs << 16
        | (u64)(0x80 | dpl << 5 | GATE_CALL) << 40 | (target >> 16 & 0xFFFF) << 48;
    gdt[selector / 8 + 1] = target >> 32;
}

void default_gate(u8 vector)
{
    set_gate(vector, stub_address(vector), KCODE, GATE_INTERRUPT, vector >= 0x80 ? 3 : 0, 1);
}

void load_gdt(void)
{
    struct table_reg r = { sizeof gdt - 1, (u64)gdt };
    asm volatile("lgdt %0" :: "m"(r));
}

void reload_tss(u32 limit)
{
    set_system(TSS_SEL, (u64)&tss, limit, 0x0089);
    asm volatile("ltr %w0" :: "r"(TSS_SEL));
}

void set_ldt(u64 base, u32 limit)
{
    set_system(LDT_SEL, base, limit, 0x0082);
    asm volatile("lldt %w0" :: "r"(LDT_SEL));
}

void descriptors_start(void)
{
    set_segment(KCODE, 0, 0xFFFFF, 0xA09B);
    set_segment(KDATA, 0, 0xFFFFF, 0xC093);
    set_segment(UCODE32, 0, 0xFFFFF, 0xC0FB);
    set_segment(UDATA_SEL, 0, 0xFFFFF, 0xC0F3);
    set_segment(UCODE, 0, 0xFFFFF, 0xA0FB);
    load_gdt();
    asm volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:\n"
                 "mov %1, %%ds; mov %1, %%es; mov %1, %%ss\n"
                 "xor %%eax, %%eax; mov %%eax, %%fs; mov %%eax, %%gs"
                 :: "i"(KCODE), "r"(KDATA) : "rax", "memory");

    tss.rsp[0] = RSP0_TOP;
    for (int i = 0; i < 7; i++)
        tss.ist[i] = (u64)ist_stacks[i] + sizeof ist_stacks[i];
    tss.iomap = sizeof tss;
    reload_tss(103);
    asm volatile("lldt %w0" :: "r"(0));

    for (int i = 0; i < 256; i++)
        default_gate((u8)i);
    struct table_reg r = { sizeof idt - 1, (u64)idt };
    asm volatile("lidt %0" :: "m"(r));
}
