/* The x87 opcode register (FOP) is that of the guest's instruction as its bytes are: the low three
   bits of the first and all of the second (SDM 1 8.1.9).  A processor may keep it only for
   exceptions that are not masked, as they are here. */
#include "guest.h"

enum { FOP_FXSAVE = 6, FOP_ENVIRONMENT = 18 };
static u8 area[512] UDATA ALIGNED(64);
static u64 zero UDATA = 0;

#define U16(p, at) (*(u16 *)((p) + (at)))

/* 1 divided by 0, and the state saved in both forms.  RCX: the operand, R8: the area. */
#define DIVIDE(instruction)                                                              \
    CODE("movw $0x37B, -16(%rsp); fninit; fldcw -16(%rsp); fldz; fld1;" MARK instruction \
         "; fxsave64 (%r8); mov 6(%r8), %ax; fnstenv (%r8); fnclex; fninit")

static void test_opcodes(void)
{
    const struct { const char *name; void *code; u64 opcode; } codes[] = {
        { "fop.base", DIVIDE("fdivl (%rcx)"), 0x431 },
        { "fop.displacement8", DIVIDE("fdivl 0x10(%rcx)"), 0x471 },
        { "fop.displacement32", DIVIDE("fdivl 0x1000(%rcx)"), 0x4B1 },
        { "fop.index", DIVIDE("fdivl (%rcx,%rbx,8)"), 0x434 },
        { "fop.high-register", DIVIDE("fdivl (%r9)"), 0x431 },
        { "fop.stack", DIVIDE("mov %rcx, %rsp; .byte 0xDC, 0x34, 0x24"), 0x434 },
        { "fop.segment", DIVIDE("fdivl %ss:(%rcx)"), 0x431 },
        { "fop.short", DIVIDE("fdivs (%rcx)"), 0x031 },
        { "fop.integer", DIVIDE("fidivl (%rcx)"), 0x231 },
        { "fop.registers", DIVIDE("fdiv %st(1), %st"), 0x0F1 },
    };
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        EACH_CPL(cpl) {
            memset(area, 0xEE, sizeof area);
            struct cpu c = at_cpl(cpl, codes[i].code);
            c.r[RCX] = (u64)&zero - (i == 1 ? 0x10 : i == 2 ? 0x1000 : 0);
            c.r[R8] = (u64)area;
            c.r[R9] = (u64)&zero;
            run(&c);
            check_end(at(codes[i].name, cpl), codes[i].code);
            CHECK(at(with(codes[i].name, "fxsave"), cpl), trap.c.r[RAX] & 0xFFFF, codes[i].opcode);
            CHECK(at(with(codes[i].name, "fnstenv"), cpl), U16(area, FOP_ENVIRONMENT),
                  codes[i].opcode);
        }
    }
}

/* It waits for the handler of the exception, which the next x87 instruction raises. */
static void test_exception(void)
{
    void *code = CODE("movw $0x37B, -16(%rsp); fninit; fldcw -16(%rsp); fld1; fdivl (%rcx); cpuid;"
                      MARK "fwait");
    u64 cr0 = read_cr0();
    write_cr0(cr0 | CR0_NE);
    EACH_CPL(cpl) {
        run_with(cpl, code, 0, (u64)&zero, 0);
        check_fault(at("fop.mf", cpl), code, V_MF, 0);
        asm volatile("fxsave64 (%0)" :: "r"(area) : "memory");
        CHECK(at("fop.mf.opcode", cpl), U16(area, FOP_FXSAVE), 0x431);
        asm volatile("fninit");
    }
    write_cr0(cr0);
}

static void test_restored(void)
{
    static u8 image[512] ALIGNED(64);
    asm volatile("fninit; fxsave64 (%0)" :: "r"(image) : "memory");
    U16(image, 2) = 0x8084;                 /* divided by zero, and pending */
    U16(image, 0) = 0x37B;
    U16(image, FOP_FXSAVE) = 0x123;
    asm volatile("fxrstor64 (%0); fxsave64 (%1); fnclex; fninit"
                 :: "r"(image), "r"(area) : "memory");
    CHECK("fop.fxrstor.opcode", U16(area, FOP_FXSAVE), 0x123);
}

void guest_main(void)
{
    test_opcodes();
    test_exception();
    test_restored();
}
