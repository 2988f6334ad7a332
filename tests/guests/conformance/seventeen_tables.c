/* SGDT, SIDT, SLDT, STR and SMSW do not trap at CPL 3 (without UMIP): they must show the guest's
   own tables, selectors and CR0 at both privileges. */
#include "guest.h"

enum { TABLE_LIMIT = 0x1D7, OTHER_TSS = FREE_SEL };

static u8 store[64] UDATA;

/* The tables are moved to an odd address with an odd limit, so that no other value fits. */
static void store_table(const char *name, void *code, u64 base, u16 limit)
{
    EACH_CPL(cpl) {
        memset(store, 0xEE, sizeof store);
        run_with(cpl, code, (u64)store + 3, 0, 0);
        check_end(at(name, cpl), code);
        CHECK(at(with(name, "limit"), cpl), *(u16 *)(store + 3), limit);
        CHECK(at(with(name, "base"), cpl), *(u64 *)(store + 5), base);
        CHECK(at(with(name, "bytes-before"), cpl), store[2], 0xEE);
        CHECK(at(with(name, "bytes-after"), cpl), store[13], 0xEE);
    }
}

static void test_tables(void)
{
    u64 base = FREE_RAM + 0x12344;
    memcpy((void *)base, gdt, sizeof gdt);
    struct table_reg r = { TABLE_LIMIT, base };
    asm volatile("lgdt %0" :: "m"(r));
    store_table("sgdt", CODE("sgdt (%rax)"), base, TABLE_LIMIT);
    load_gdt();

    base = FREE_RAM + 0x20008;
    memcpy((void *)base, idt, sizeof idt);
    r = (struct table_reg) { sizeof idt - 2 - 16, base };
    asm volatile("lidt %0" :: "m"(r));
    store_table("sidt", CODE("sidt (%rax)"), base, sizeof idt - 2 - 16);
    store_table("sidt.addr32", CODE("sidt (%eax)"), base, sizeof idt - 2 - 16);
    r = (struct table_reg) { sizeof idt - 1, (u64)idt };
    asm volatile("lidt %0" :: "m"(r));
}

static void test_page_cross(void)
{
    u64 page = WINDOW;
    u8 *real = (u8 *)FREE_RAM;
    void *code = CODE("sgdt (%rax)");
    map4k(page, FREE_RAM, P_P | P_W | P_U);
    memset(real, 0x55, 4096);
    EACH_CPL(cpl) {
        u64 user = cpl ? PF_U : 0;
        run_with(cpl, code, page + 4096 - 4, 0, 0);
        check_pf(at("sgdt.page-crossing", cpl), code, PF_W | user, page + 4096);
        run_with(cpl, code, 0x8000000000000000, 0, 0);
        check_fault(at("sgdt.non-canonical", cpl), code, V_GP, 0);
        run_with(cpl, CODE("sgdt (%rax)"), page + 4096 - 10, 0, 0);
        CHECK(at("sgdt.page-end", cpl), trap.vector, V_END);
    }
}

/* Register forms: 16 bits keep the rest, 32 and 64 bits zero-extend; memory takes 16 bits. */
static void store_selector(const char *name, void *r16, void *r32, void *r64, void *m16, u16 want)
{
    EACH_CPL(cpl) {
        u64 garbage = 0x1122334455667788;
        run_with(cpl, r16, garbage, 0, 0);
        CHECK(at(with(name, "r16"), cpl), trap.c.r[RAX], (garbage & ~0xFFFFul) | want);
        run_with(cpl, r32, garbage, 0, 0);
        CHECK(at(with(name, "r32"), cpl), trap.c.r[RAX], want);
        run_with(cpl, r64, garbage, 0, 0);
        CHECK(at(with(name, "r64"), cpl), trap.c.r[RAX], want);
        memset(store, 0xEE, sizeof store);
        run_with(cpl, m16, (u64)store + 1, 0, 0);
        check_end(at(with(name, "m16"), cpl), m16);
        CHECK(at(with(name, "m16-value"), cpl), *(u32 *)store, 0xEE0000EEu | (u32)want << 8);
    }
}

static void test_selectors(void)
{
    void *sldt16 = CODE("sldt %ax"), *sldt32 = CODE("sldt %eax"), *sldt64 = CODE("sldt %rax");
    void *sldtm = CODE("sldt (%rax)");
    store_selector("sldt.null", sldt16, sldt32, sldt64, sldtm, 0);
    set_ldt(FREE_RAM, 0xFFF);
    store_selector("sldt.loaded", sldt16, sldt32, sldt64, sldtm, LDT_SEL);
    asm volatile("lldt %w0" :: "r"(0));

    void *str16 = CODE("str %ax"), *str32 = CODE("str %eax"), *str64 = CODE("str %rax");
    void *strm = CODE("str (%rax)");
    store_selector("str.first", str16, str32, str64, strm, TSS_SEL);
    set_system(OTHER_TSS, (u64)&tss, 103, 0x0089);
    asm volatile("ltr %w0" :: "r"(OTHER_TSS));
    store_selector("str.second", str16, str32, str64, strm, OTHER_TSS);
    CHECK("ltr.busy", gdt[OTHER_TSS / 8] >> 40 & 0xFF, 0x8B);
    reload_tss(103);
}

static void test_smsw(void)
{
    u64 saved = read_cr0();
    u64 images[] = { saved, saved | CR0_TS, saved | CR0_EM, saved & ~(u64)CR0_MP,
                     saved & ~(u64)CR0_WP, saved | CR0_AM };
    const char *names[] = { "plain", "ts", "em", "no-mp", "no-wp", "am" };
    void *m16 = CODE("smsw (%rax)"), *r16 = CODE("smsw %ax");
    void *r32 = CODE("smsw %eax"), *r64 = CODE("smsw %rax");
    for (int i = 0; i < 6; i++) {
        write_cr0(images[i]);
        EACH_CPL(cpl) {
            char name[64];
            format_name(name, "smsw.%s", names[i]);
            run_with(cpl, r64, ~0ul, 0, 0);
            CHECK(at(with(name, "r64"), cpl), trap.c.r[RAX], images[i]);
            run_with(cpl, r32, ~0ul, 0, 0);
            CHECK(at(with(name, "r32"), cpl), trap.c.r[RAX], images[i]);
            run_with(cpl, r16, ~0ul, 0, 0);
            CHECK(at(with(name, "r16"), cpl), trap.c.r[RAX], ~0xFFFFul | (images[i] & 0xFFFF));
            memset(store, 0xEE, sizeof store);
            run_with(cpl, m16, (u64)store, 0, 0);
            CHECK(at(with(name, "m16"), cpl), *(u32 *)store, 0xEEEE0000u | (images[i] & 0xFFFF));
        }
    }
    write_cr0(saved);
}

void guest_main(void)
{
    test_tables();
    test_page_cross();
    test_selectors();
    test_smsw();
}
