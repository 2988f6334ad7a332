/* Paging of 32-bit and PAE tables: two levels, pages of 4 KiB, 4 MiB and 2 MiB, PSE-36, the rights,
   the error codes, accessed and dirty bits, and reserved bits in PDPTEs (SDM 3A 4.3-4.7). */
#include "narrow.h"

enum {
    P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, CR4_PSE = 0x10, CR4_PAE = 0x20,
    CR4_PGE = 0x80, CR0_WP = 1 << 16
};
enum { E_P = 1, E_W = 2, E_U = 4, E_RSVD = 8, E_I = 16 };

#define AREA 0x400000u          /* the linear addresses of the test: 4 to 8 MiB */
#define FRAME 0x300000u         /* the frame that they show */

static u32 directory[1024] __attribute__((aligned(4096)));
static u32 table[1024] __attribute__((aligned(4096)));
static u32 pdpt[8] __attribute__((aligned(32)));
static u32 wide_directory[1024] __attribute__((aligned(4096)));
static u32 wide_table[1024] __attribute__((aligned(4096)));
static u32 cr0_wp;

static void paging_on(u32 cr3, u32 cr4)
{
    kernel_tss.cr3 = cr3;
    asm volatile("mov %0, %%cr4\nmov %1, %%cr3" :: "r"(cr4), "r"(cr3));
    asm volatile("mov %%cr0, %%eax\nand $~0x10000, %%eax\nor %0, %%eax\nmov %%eax, %%cr0"
                 :: "r"(CR0_PG | cr0_wp) : "eax");
}

static void paging_off(void)
{
    asm volatile("mov %%cr0, %%eax\nand $0x7FFEFFFF, %%eax\nmov %%eax, %%cr0\nmov %0, %%cr4"
                 :: "r"(0) : "eax");
    kernel_tss.cr3 = 0;
}

static void expect_pf(const char *what, u32 want, u32 address)
{
    check_fault(what, V_PF, want);
    check(name("%s.cr2", what), cr2, address);
}

static struct code reads, writes, jumps;

/* Each pair of rights in the directory and in the table. */
static void rights(void)
{
    for (u32 i = 0; i < 16; i++) {
        u32 pde = P | (i & 3) << 1, pte = P | (i >> 2) << 1, both = pde & pte;
        directory[AREA >> 22] = (u32)table | pde;
        table[0] = FRAME | pte;
        for (int cpl = 0; cpl <= 3; cpl += 3)
            for (u32 write = 0; write < 2; write++)
                for (cr0_wp = 0; cr0_wp <= CR0_WP; cr0_wp += CR0_WP) {
                    const char *what = name("rights.%u.%u.%s.cpl%u.wp%u", i & 3, i >> 2,
                                            write ? "write" : "read", cpl, cr0_wp != 0);
                    int bad = cpl ? !(both & U) || (write && !(both & W))
                                  : write && cr0_wp && !(both & W);
                    paging_on((u32)directory, CR4_PSE);
                    in_flat(cpl, write ? writes : reads);
                    in.ebx = AREA + 0x123;
                    run();
                    paging_off();
                    if (bad)
                        expect_pf(what, E_P | (write ? E_W : 0) | (cpl ? E_U : 0), AREA + 0x123);
                    else
                        check_end(what);
                }
    }
    cr0_wp = 0;
}

static void access_at(struct code code, int cpl, u32 address)
{
    paging_on((u32)directory, CR4_PSE);
    in_flat(cpl, code);
    in.ebx = address;
    run();
    paging_off();
}

static void absent(void)
{
    directory[AREA >> 22] = (u32)table | P | W | U;
    table[0] = FRAME | W | U;
    access_at(reads, 0, AREA + 4);
    expect_pf("absent.read.cpl0", 0, AREA + 4);
    access_at(writes, 3, AREA + 4);
    expect_pf("absent.write.cpl3", E_W | E_U, AREA + 4);
    access_at(jumps, 3, AREA + 4);
    check("absent.fetch", vector << 16 | error, V_PF << 16 | E_U);  /* I/D needs NX */
    check("absent.fetch.eip", in.eip, AREA + 4);
    directory[AREA >> 22] = 0;
    access_at(reads, 3, AREA + 0x3FFFFE);
    expect_pf("absent.directory", E_U, AREA + 0x3FFFFE);
    directory[AREA >> 22] = (u32)table | P | W | U;
    table[0] = FRAME | P | W | U;
    table[1] = 0;
    access_at(reads, 3, AREA + 0xFFE);          /* across the page's end */
    expect_pf("crossing", E_U, AREA + 0x1000);
    table[1] = (FRAME + 0x1000) | P | U;
    DATA32(FRAME + 0xFFE) = 0x11223344;
    access_at(reads, 3, AREA + 0xFFE);
    check_end("crossing.present");
    check("crossing.value", in.eax, 0x11223344);
    access_at(writes, 3, AREA + 0xFFE);
    expect_pf("crossing.write", E_P | E_W | E_U, AREA + 0x1000);
    check("crossing.write.nothing", DATA32(FRAME + 0xFFE), 0x11223344);
}

static void accessed(void)
{
    directory[AREA >> 22] = (u32)table | P | W | U;
    table[0] = FRAME | P | W | U;
    access_at(reads, 3, AREA);
    check("accessed.pde", directory[AREA >> 22] & (A | D), A);
    check("accessed.pte", table[0] & (A | D), A);
    access_at(writes, 3, AREA);
    check("dirty.pte", table[0] & (A | D), A | D);
    directory[AREA >> 22] = P | W | U | PS | 0x400000;
    access_at(reads, 3, AREA);
    check("accessed.4m", directory[AREA >> 22] & (A | D), A);
    access_at(writes, 3, AREA + 0x200000);
    check("dirty.4m", directory[AREA >> 22] & (A | D), A | D);
}

static void large(void)
{
    DATA32(0x400000 + 0x345678) = 0xCAFEF00D;
    directory[AREA >> 22] = P | W | U | PS | 0x400000;
    access_at(reads, 3, AREA + 0x345678);
    check_end("4m.read");
    check("4m.value", in.eax, 0xCAFEF00D);
    directory[AREA >> 22] = P | W | U | PS | 0x400000 | 1 << 21;    /* bits 21 and 20 to 13 */
    access_at(reads, 3, AREA + 4);
    expect_pf("4m.reserved", E_P | E_U | E_RSVD, AREA + 4);
    directory[AREA >> 22] = P | W | U | PS | 0x400000 | 1 << 13;    /* PSE-36: 4 GiB higher */
    access_at(reads, 3, AREA + 0x345678);
    check_end("pse36.read");
    check("pse36.elsewhere", in.eax == 0xCAFEF00D, 0);
    /* Without CR4.PSE, PS is ignored, and the entry points to a table. */
    directory[AREA >> 22] = (u32)table | P | W | U | PS;
    table[0] = FRAME | P | W | U;
    DATA32(FRAME) = 0x5050;
    u32 low = directory[0];
    static u32 low_table[1024] __attribute__((aligned(4096)));
    for (u32 i = 0; i < 1024; i++)
        low_table[i] = i << 12 | P | W | U;
    directory[0] = (u32)low_table | P | W | U;
    paging_on((u32)directory, 0);
    in_flat(3, reads);
    in.ebx = AREA;
    run();
    paging_off();
    directory[0] = low;
    check_end("no-pse");
    check("no-pse.value", in.eax, 0x5050);
}

static void invlpg(void)
{
    struct code code = CODE32("mov (%ebx), %eax\nmov %edx, (%ecx)\ninvlpg (%ebx)\n"
                              "mov (%ebx), %esi");
    directory[AREA >> 22] = (u32)table | P | W | U;
    table[0] = FRAME | P | W | U;
    DATA32(FRAME) = 1;
    DATA32(FRAME + 0x1000) = 2;
    paging_on((u32)directory, CR4_PSE);
    in_flat(0, code);
    in.ebx = AREA;
    in.ecx = (u32)table;
    in.edx = (FRAME + 0x1000) | P | W | U;
    run();
    paging_off();
    check_end("invlpg");
    check("invlpg.before", in.eax, 1);
    check("invlpg.after", in.esi, 2);
}

static void pae(void)
{
    pdpt[0] = (u32)wide_directory | P;
    wide_directory[0] = P | W | U | PS;                     /* 0 to 2 MiB */
    wide_directory[2] = P | W | U | PS | 0x200000;
    wide_directory[4] = (u32)wide_table | P | W | U;        /* 4 MiB */
    wide_directory[6] = P | W | U | PS | 0x200000;          /* 6 MiB */
    wide_table[0] = FRAME | P | U;
    DATA32(FRAME + 8) = 0xBEEF;
    paging_on((u32)pdpt, CR4_PAE);
    in_flat(3, reads);
    in.ebx = AREA + 8;
    run();
    check_end("pae.read");
    check("pae.value", in.eax, 0xBEEF);
    in_flat(3, writes);
    in.ebx = AREA + 8;
    run();
    expect_pf("pae.write", E_P | E_W | E_U, AREA + 8);
    in_flat(3, reads);
    in.ebx = 0x600000 + (FRAME - 0x200000) + 8;
    run();
    check_end("pae.2m");
    check("pae.2m.value", in.eax, 0xBEEF);
    in_flat(3, reads);
    in.ebx = 0x40000000;                                    /* PDPTE 1 is not present */
    run();
    expect_pf("pae.pdpte", E_U, 0x40000000);
    wide_table[3] = 0x80000000;                             /* XD without EFER.NXE, and */
    wide_table[2] = FRAME | P | U;
    in_flat(3, reads);
    in.ebx = AREA + 0x1000;
    run();
    expect_pf("pae.nx-reserved", E_P | E_U | E_RSVD, AREA + 0x1000);
    wide_table[5] = 1 << 20;                                /* bit 52 */
    wide_table[4] = FRAME | P | U;
    in_flat(3, reads);
    in.ebx = AREA + 0x2000;
    run();
    expect_pf("pae.reserved", E_P | E_U | E_RSVD, AREA + 0x2000);
    struct code load = CODE32(MARK "mov %eax, %cr3");
    static const u32 bits[] = { 2, 4, 0x20, 0x40, 0x80, 0x100 };
    static u32 other[8] __attribute__((aligned(32)));
    other[0] = pdpt[0];
    for (u32 i = 0; i < COUNT(bits); i++) {                 /* PDPTE 3, which nothing uses */
        other[6] = P | bits[i];
        in_flat(0, load);
        in.eax = (u32)other;
        run();
        check_fault(name("pae.pdpte-reserved.%x", bits[i]), V_GP, 0);
    }
    other[6] = 0xFFFFFFFE;                                   /* not present: all is ignored */
    other[7] = 0xFFFFFFFF;
    in_flat(0, load);
    in.eax = (u32)other;
    run();
    check_end("pae.pdpte-absent");
    other[6] = P;
    other[7] = 0x80000000;
    in_flat(0, load);
    in.eax = (u32)other;
    run();
    check_fault("pae.pdpte-reserved.63", V_GP, 0);
    paging_off();
}

void guest_main(void)
{
    reads = CODE32(MARK "movl (%ebx), %eax");
    writes = CODE32(MARK "movl %eax, (%ebx)");
    jumps = CODE32("jmp *%ebx");
    directory[0] = P | W | U | PS;
    rights();
    absent();
    accessed();
    large();
    invlpg();
    pae();
}
