/* Support library of the bare guest programs: output, checks, snippets run at a chosen privilege
   with every register given, and the exception recorder that ends them. */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long i64;

#define PACKED __attribute__((packed))
#define ALIGNED(n) __attribute__((aligned(n)))
#define NOINLINE __attribute__((noinline))
#define UDATA __attribute__((section(".user.data")))  /* initialised, reachable from ring 3 */
#define UBSS __attribute__((section(".ubss")))        /* uninitialised, reachable from ring 3 */

/* --- numbers of the architecture */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

enum {
    V_DE, V_DB, V_NMI, V_BP, V_OF, V_BR, V_UD, V_NM, V_DF, V_TS = 10, V_NP, V_SS, V_GP, V_PF,
    V_MF = 16, V_AC, V_MC, V_XM,
    V_END = 0x81   /* how a snippet says that it has run to its end */
};

enum {
    F_CF = 1, F_1 = 2, F_PF = 4, F_AF = 0x10, F_ZF = 0x40, F_SF = 0x80, F_TF = 0x100, F_IF = 0x200,
    F_DF = 0x400, F_OF = 0x800, F_IOPL = 0x3000, F_NT = 0x4000, F_RF = 0x10000, F_VM = 0x20000,
    F_AC = 0x40000, F_VIF = 0x80000, F_VIP = 0x100000, F_ID = 0x200000,
    F_ARITH = F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF
};

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

enum {
    CR0_PE = 1, CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_ET = 16, CR0_NE = 32, CR0_WP = 1 << 16,
    CR0_AM = 1 << 18, CR0_NW = 1 << 29, CR0_CD = 1 << 30
};
#define CR0_PG 0x80000000ul

enum {
    CR4_VME = 1, CR4_PVI = 2, CR4_TSD = 4, CR4_DE = 8, CR4_PSE = 16, CR4_PAE = 32, CR4_MCE = 64,
    CR4_PGE = 128, CR4_PCE = 256, CR4_OSFXSR = 512, CR4_OSXMMEXCPT = 1024, CR4_UMIP = 1 << 11,
    CR4_FSGSBASE = 1 << 16, CR4_PCIDE = 1 << 17, CR4_OSXSAVE = 1 << 18, CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21
};

enum {
    MSR_APIC_BASE = 0x1B, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
    MSR_PAT = 0x277, MSR_TSC = 0x10,
    MSR_EFER = (int)0xC0000080, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK,
    MSR_FS_BASE = (int)0xC0000100, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX
};
enum { EFER_SCE = 1, EFER_LME = 256, EFER_LMA = 1024, EFER_NXE = 2048 };

/* Page-table bits. */
#define P_P 1ul
#define P_W 2ul
#define P_U 4ul
#define P_PWT 8ul
#define P_PCD 16ul
#define P_A 32ul
#define P_D 64ul
#define P_PS 128ul
#define P_G 256ul
#define P_NX (1ul << 63)
#define P_ADDR 0x000FFFFFFFFFF000ul

/* Selectors of the library's GDT. The order suits SYSCALL/SYSRET and SYSENTER/SYSEXIT (STAR:
   kernel 0x08, user 0x1B); the free ones are for the programs. */
enum {
    KCODE = 0x08, KDATA = 0x10, UCODE32 = 0x1B, UDATA_SEL = 0x23, UCODE = 0x2B,
    TSS_SEL = 0x30, LDT_SEL = 0x40, FREE_SEL = 0x50, GDT_ENTRIES = 64
};

/* Guest physical memory that no program occupies. */
#define FREE_RAM 0x2000000ul
/* Linear addresses in which nothing is mapped at the start. */
#define WINDOW 0x10000000000ul
#define HIGH_WINDOW 0xFFFF900000000000ul
#define RAM_SIZE 0x8000000ul

/* --- start, output, checks (start.c, print.c) */

void guest_main(void);              /* each program's own */
void guest_exit(u32 code) __attribute__((noreturn));
void print(const char *format, ...); /* %s %c %d %u %x %lx %lu %p */
void put_char(char c);

void check(const char *name, u64 got, u64 want);
void check_ok(const char *name);
void check_failed(const char *name, const char *format, ...);
#define CHECK(name, got, want) check(name, (u64)(got), (u64)(want))
void skip(const char *name, const char *reason);
void format_name(char *out, const char *format, ...);
/* "name.cplN" and "name.what" in a buffer that the next call reuses. */
const char *at(const char *name, int cpl);
const char *with(const char *name, const char *what);
#define EACH_CPL(cpl) for (int cpl = 0; cpl <= 3; cpl += 3)

/* --- snippets and the recorder (trap.S, trap.c) */

struct cpu {
    u64 r[16];
    u64 rip, rflags, cs, ss;
};

/* The last exception, interrupt or end of a snippet. */
struct trap {
    struct cpu c;          /* the registers it interrupted, as saved by the processor and stub */
    u64 vector, error, cr2;
    u64 frame;             /* address at which the saved RIP stood */
    u64 entry_cs, entry_ss, entry_rflags;
    u64 count;             /* how many since reset_trap() */
};
extern struct trap trap;

/* Called at CPL 0 for each trap before the snippet is ended: return 1 to resume with trap.c. */
extern int (*trap_hook)(struct trap *t);

/* Run from `c` until a trap that no hook resumes. */
void run(const struct cpu *c);

/* A snippet: assembly placed where ring 3 can run it, closed by `int $0x81`. MARK before an
   instruction names the one expected to fault, AFTER the address expected after a trap. */
#define MARK "\n772:\n"
#define AFTER "\n773:\n"
#define CODE(body) ({                                                           \
    void *code_;                                                                \
    asm volatile(".pushsection .user, \"awx\", @progbits\n"                     \
                 ".balign 8\n.quad 772f, 773f, 774f\n"                          \
                 "771:\n" body "\n774: int $0x81\n772:\n773:\n"                 \
                 ".popsection");                                                \
    asm volatile("mov $771b, %0" : "=r"(code_));                                \
    code_; })

u64 code_mark(const void *code);    /* MARK, or the start */
u64 code_after(const void *code);   /* AFTER, or the end */
u64 code_end(const void *code);

/* Registers for a snippet at CPL 0 or 3: library stack, RFLAGS = 2, everything else 0. */
struct cpu at_cpl0(const void *code);
struct cpu at_cpl3(const void *code);
struct cpu at_cpl(int cpl, const void *code);

void run_code(int cpl, const void *code);
/* As at_cpl(), but with these RFLAGS. */
void run_flags(int cpl, const void *code, u64 rflags);
/* Run it with up to three registers: rax, rcx, rdx. */
void run_with(int cpl, const void *code, u64 rax, u64 rcx, u64 rdx);

/* One check each: the trap was `vector` with `error`, saved RIP at the mark (or given). */
void check_fault(const char *name, const void *code, u64 vector, u64 error);
void check_trap_at(const char *name, u64 rip, u64 vector, u64 error);
void check_end(const char *name, const void *code);     /* reached the closing int */
/* As check_fault for #PF, and CR2. */
void check_pf(const char *name, const void *code, u64 error, u64 cr2);

extern u8 user_stack[16384];
extern u8 kernel_stack[16384];      /* of snippets at CPL 0 */
extern u8 rsp0_stack[16384];        /* TSS.RSP0 */
#define USER_RSP ((u64)user_stack + sizeof user_stack - 256)
#define KERNEL_RSP ((u64)kernel_stack + sizeof kernel_stack - 256)
#define RSP0_TOP ((u64)rsp0_stack + sizeof rsp0_stack)

/* --- descriptors (cpu.c) */

struct tss {
    u32 reserved0;
    u64 rsp[3];
    u64 reserved1;
    u64 ist[7];                     /* ist[0] is IST1 */
    u64 reserved2;
    u16 reserved3, iomap;
    u8 io[8192 + 1];
} PACKED;
extern struct tss tss;
extern u64 gdt[GDT_ENTRIES];
extern u64 idt[256][2];

struct table_reg {
    u16 limit;
    u64 base;
} PACKED;

enum { GATE_INTERRUPT = 0xE, GATE_TRAP = 0xF, GATE_CALL = 0xC };

void load_gdt(void);
void set_segment(u16 selector, u32 base, u32 limit, u16 attributes); /* bytes 5-6: G D L AVL P DPL S type */
void set_system(u16 selector, u64 base, u32 limit, u16 attributes);  /* 16-byte descriptor */
void set_gate(u8 vector, u64 target, u16 selector, int type, int dpl, int ist);
void set_call_gate(u16 selector, u64 target, u16 target_cs, int dpl);
u64 stub_address(u8 vector);        /* the recorder's entry for a vector */
void default_gate(u8 vector);       /* recorder, interrupt gate, IST1; DPL 3 for 0x80 and up */
void reload_tss(u32 limit);         /* LTR anew with this limit */
void set_ldt(u64 base, u32 limit);

/* --- page tables (paging.c) */

enum { L_4K = 1, L_2M = 2, L_1G = 3, L_512G = 4 };

extern u64 boot_root;               /* the library's own tables */
u64 new_table(void);                /* a zeroed page */
u64 new_root(void);                 /* copy of boot_root's top level */
/* Entry for `linear` at `level`, tables made as needed with P|W|U. */
u64 *entry_at(u64 root, u64 linear, int level);
void map(u64 root, u64 linear, u64 physical, int level, u64 bits); /* and INVLPG */
void map4k(u64 linear, u64 physical, u64 bits);                    /* in the current root */
u64 current_root(void);

/* --- instructions (inline) */

static inline void out8(u16 port, u8 v) { asm volatile("outb %0, %1" :: "a"(v), "Nd"(port)); }
static inline u8 in8(u16 port) { u8 v; asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u64 read_cr0(void) { u64 v; asm volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline u64 read_cr2(void) { u64 v; asm volatile("mov %%cr2, %0" : "=r"(v)); return v; }
static inline u64 read_cr3(void) { u64 v; asm volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline u64 read_cr4(void) { u64 v; asm volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline u64 read_cr8(void) { u64 v; asm volatile("mov %%cr8, %0" : "=r"(v)); return v; }
static inline void write_cr0(u64 v) { asm volatile("mov %0, %%cr0" :: "r"(v) : "memory"); }
static inline void write_cr2(u64 v) { asm volatile("mov %0, %%cr2" :: "r"(v) : "memory"); }
static inline void write_cr3(u64 v) { asm volatile("mov %0, %%cr3" :: "r"(v) : "memory"); }
static inline void write_cr4(u64 v) { asm volatile("mov %0, %%cr4" :: "r"(v) : "memory"); }
static inline void write_cr8(u64 v) { asm volatile("mov %0, %%cr8" :: "r"(v) : "memory"); }
static inline u64 read_msr(u32 i)
{
    u32 lo, hi;
    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(i));
    return (u64)hi << 32 | lo;
}
static inline void write_msr(u32 i, u64 v)
{
    asm volatile("wrmsr" :: "c"(i), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline void invlpg(u64 linear) { asm volatile("invlpg (%0)" :: "r"(linear) : "memory"); }
static inline u64 rdtsc(void)
{
    u32 lo, hi;
    asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}
struct cpuid { u32 eax, ebx, ecx, edx; };
static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                 : "a"(leaf), "c"(subleaf));
    return r;
}
int is_intel(void);
int under_tcg(void);                /* for checks that would end QEMU rather than fail */

void *memset(void *to, int value, u64 count);
void *memcpy(void *to, const void *from, u64 count);
int memcmp(const void *a, const void *b, u64 count);

#endif
