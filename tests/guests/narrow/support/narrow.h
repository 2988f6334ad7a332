/* Support of the conformance programs for 16- and 32-bit code: a *snippet* is a task.  Its TSS has
   every register it begins with, in any mode; each exception and INT 81h, its end, is a task gate,
   so that the processor itself saves what the snippet left, whatever its stack is. */
#ifndef NARROW_H
#define NARROW_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;

enum {
    V_DE, V_DB, V_NMI, V_BP, V_OF, V_BR, V_UD, V_NM, V_DF, V_TS = 10, V_NP, V_SS, V_GP, V_PF,
    V_MF = 16, V_AC, V_END = 0x81
};
enum {
    F_CF = 1, F_PF = 4, F_AF = 0x10, F_ZF = 0x40, F_SF = 0x80, F_TF = 0x100, F_IF = 0x200,
    F_DF = 0x400, F_OF = 0x800, F_IOPL = 0x3000, F_NT = 0x4000, F_RF = 0x10000, F_VM = 0x20000,
    F_AC = 0x40000, F_VIF = 0x80000, F_VIP = 0x100000, F_ID = 0x200000
};
enum { CR0_PE = 1, CR0_TS = 8, CR0_AM = 1 << 18, CR4_VME = 1, CR4_PVI = 2, CR4_DE = 8 };
#define CR0_PG 0x80000000u

/* Access bytes; the flags D/B and G are bits 14 and 15 (SDM 3A figure 3-8). */
enum {
    RO = 0x91, RW = 0x93, RO_DOWN = 0x95, RW_DOWN = 0x97, XO = 0x99, XR = 0x9B, XO_CONF = 0x9D,
    XR_CONF = 0x9F, RING1 = 0x20, RING2 = 0x40, RING3 = 0x60, PRESENT = 0x80, BIG = 0x4000,
    PAGES = 0x8000, FLAT = BIG | PAGES,
    TSS16 = 0x81, LDT = 0x82, CALL16 = 0x84, TASK_GATE = 0x85, INT16 = 0x86, TRAP16 = 0x87,
    TSS32 = 0x89, CALL32 = 0x8C, INT32 = 0x8E, TRAP32 = 0x8F
};

/* Selectors.  16-bit segments begin at SNIPPETS and at DATA; the programs' are from FREE on. */
enum {
    KCODE = 0x08, KDATA = 0x10, TSS_KERNEL = 0x18, TSS_SNIPPET = 0x20, UCODE = 0x2B, UDATA = 0x33,
    KCODE16 = 0x38, KDATA16 = 0x40, UCODE16 = 0x4B, UDATA16 = 0x53, LDT_SEL = 0x58, FREE = 0x60,
    TSS_HANDLERS = 0x400, GDT_ENTRIES = 0x100
};

#define SNIPPETS 0x200000u      /* where snippets are linked; their copy at LOW is v86 code */
#define LOW 0x20000u
#define DATA 0x220000u          /* 256 KiB for the snippets */
#define DATA_SIZE 0x40000u
#define STACK 0x8000u           /* ESP of a 16-bit snippet; flat ones have DATA + this */
#define INNER (DATA + 0x38000u) /* the stack of ring 0 for interrupts and calls from outer rings */

struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    u32 eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    u16 trap, io_base;
    u8 redirection[32], io_map[0x2000 + 1];
};

struct code {
    u32 start, mark;
};

/* A snippet; MARK is where a fault is expected (its start, without), `int $0x81` ends it. */
#define MARK "\n78: "
#define CODE(bits, text)                                                                      \
    ({                                                                                        \
        struct code code_;                                                                    \
        asm volatile(".pushsection .snippets, \"awx\"\n.code" #bits "\n78:\n77: " text        \
                     "\nint $0x81\n.code32\n.popsection");                                    \
        asm volatile("movl $77b, %0\nmovl $78b, %1" : "=rm"(code_.start), "=rm"(code_.mark)); \
        code_;                                                                                \
    })
#define CODE16(text) CODE(16, text)
#define CODE32(text) CODE(32, text)

extern struct tss in, kernel_tss;   /* the snippet's TSS, before and after it has run */
extern u32 vector, error, cr2, link;    /* how it ended; 0x100 + vector: it did not even begin */
extern u32 gdt[GDT_ENTRIES * 2], idt[512];

void print(const char *format, ...);
const char *name(const char *format, ...);  /* the last 64 remain */
void check(const char *name, u32 got, u32 want);
void guest_main(void);

void set_segment(u32 selector, u32 base, u32 limit, u32 access);
void set_gate(u32 *entry, u32 selector, u32 offset, u32 access);    /* parameters: bits 16-20 */
u8 access_of(u32 selector);

void in_flat(int cpl, struct code code);    /* set `in` up: 32-bit code in flat segments */
void in_16(int cpl, struct code code);      /* 16-bit segments at SNIPPETS and DATA */
void in_v86(int iopl, struct code code);    /* paragraphs LOW / 16, and DATA_V86 / 16 */
#define DATA_V86 0x40000u
void run(void);
void check_end(const char *name);           /* it ran to its end */
void check_fault(const char *name, u32 vector, u32 error);  /* at MARK */
u32 offset_of(u32 linear);                  /* of the snippet's code, in its code segment */

#define DATA8(at) (*(volatile u8 *)(at))
#define DATA16(at) (*(volatile u16 *)(at))
#define DATA32(at) (*(volatile u32 *)(at))
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

#endif
