/* Output, segments, and the tasks in which snippets run. */
#include "narrow.h"
#include <stdarg.h>

enum { COM1 = 0x3F8, LSR = COM1 + 5, LSR_THRE = 0x20, DEBUG_EXIT = 0xF4, HANDLERS = 33 };

struct handler {
    u32 words[26];
};
extern u8 handlers[], snippets_end[];
extern struct handler handler_tss[HANDLERS];

struct tss in, kernel_tss;
u32 vector, error, cr2, link;
static u32 checks, failures, code_base, code_start, code_mark, handler_stacks[HANDLERS][64];

static void out8(u16 port, u8 value)
{
    asm volatile("outb %0, %1" :: "a"(value), "Nd"(port));
}

static u8 in8(u16 port)
{
    u8 value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static char *put(char *out, char c)
{
    if (out) {
        *out = c;
        return out + 1;
    }
    while (!(in8(LSR) & LSR_THRE))
        ;
    out8(COM1, (u8)c);
    return out;
}

static char *put_number(char *out, u32 v, u32 base)
{
    char digits[12];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n)
        out = put(out, digits[--n]);
    return out;
}

static char *format_to(char *out, const char *f, va_list args)
{
    for (; *f; f++) {
        if (*f != '%')
            out = put(out, *f);
        else if (*++f == 's')
            for (const char *s = va_arg(args, const char *); *s; s++)
                out = put(out, *s);
        else
            out = put_number(out, va_arg(args, u32), *f == 'x' ? 16 : 10);
    }
    return out;
}

void print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    format_to(0, format, args);
    va_end(args);
}

const char *name(const char *format, ...)
{
    static char buffers[64][96];
    static u32 last;
    char *buffer = buffers[++last % 64];
    va_list args;
    va_start(args, format);
    *format_to(buffer, format, args) = 0;
    va_end(args);
    return buffer;
}

void check(const char *what, u32 got, u32 want)
{
    checks++;
    if (got == want) {
        print("ok %s\n", what);
        return;
    }
    failures++;
    print("FAIL %s got 0x%x want 0x%x\n", what, got, want);
}

static void fail_run(const char *what)
{
    checks++;
    failures++;
    print("FAIL %s vector %x error %x eip %x mark %x cs %x\n", what, vector, error, in.eip,
          offset_of(code_mark), in.cs);
}

void check_end(const char *what)
{
    if (vector != V_END)
        fail_run(what);
    else
        check(what, vector, V_END);
}

void check_fault(const char *what, u32 want, u32 want_error)
{
    if (vector != want || error != want_error || in.eip != offset_of(code_mark))
        fail_run(what);
    else
        check(what, vector, want);
}

u32 offset_of(u32 linear)
{
    return linear - code_base;
}

void set_segment(u32 selector, u32 base, u32 limit, u32 access)
{
    u32 *d = &gdt[(selector & 0xFFF8) / 4];
    d[0] = base << 16 | (limit & 0xFFFF);
    d[1] = (base & 0xFF000000) | (access & 0xF000) << 8 | (limit & 0xF0000) |
           (access & 0xFF) << 8 | (base >> 16 & 0xFF);
}

void set_gate(u32 *entry, u32 selector, u32 offset, u32 access)
{
    entry[0] = selector << 16 | (offset & 0xFFFF);
    entry[1] = (offset & 0xFFFF0000) | (access & 0xFF) << 8 | (access >> 16 & 0x1F);
}

u8 access_of(u32 selector)
{
    return gdt[(selector & 0xFFF8) / 4 + 1] >> 8 & 0xFF;
}

static void begin(struct code code, u32 base)
{
    u8 *bytes = (u8 *)&in;
    code_base = base;
    code_start = code.start;
    code_mark = code.mark;
    for (u32 i = 0; i < __builtin_offsetof(struct tss, redirection); i++)
        bytes[i] = 0;
    u32 count = sizeof in.io_map / 4;
    u8 *map = in.io_map;
    asm volatile("rep stosl" : "+D"(map), "+c"(count) : "a"(-1) : "memory");
    *map = 0xFF;
    for (u32 i = 0; i < sizeof in.redirection; i++)
        in.redirection[i] = 0;
    in.io_base = __builtin_offsetof(struct tss, io_map);
    in.cr3 = kernel_tss.cr3;
    in.esp0 = INNER;
    in.ss0 = KDATA;
    in.eflags = 2;
    in.eip = offset_of(code.start);
    vector = error = 0;
}

static void segments(u32 code, u32 data)
{
    in.cs = code;
    in.ds = in.es = in.fs = in.gs = in.ss = data;
}

void in_flat(int cpl, struct code code)
{
    begin(code, 0);
    segments(cpl ? UCODE : KCODE, cpl ? UDATA : KDATA);
    in.esp = DATA + STACK;
}

void in_16(int cpl, struct code code)
{
    begin(code, SNIPPETS);
    segments(cpl ? UCODE16 : KCODE16, cpl ? UDATA16 : KDATA16);
    in.esp = STACK;
}

void in_v86(int iopl, struct code code)
{
    begin(code, SNIPPETS);
    segments(LOW / 16, DATA_V86 / 16);
    in.eflags |= F_VM | (u32)iopl << 12;
    in.esp = STACK;
}

void run(void)
{
    set_segment(TSS_SNIPPET, (u32)&in, sizeof in - 1, TSS32);
    for (u32 i = 0; i < HANDLERS; i++) {
        u32 *words = handler_tss[i].words;
        words[7] = kernel_tss.cr3;
        words[8] = (u32)handlers + 16 * i;
        words[9] = 2;
        words[14] = (u32)handler_stacks[i + 1];
        words[18] = words[20] = words[21] = words[22] = words[23] = KDATA;
        words[19] = KCODE;
        set_segment(TSS_HANDLERS + 8 * i, (u32)words, 103, TSS32);
    }
    asm volatile("ljmp $0x20, $0\n1: clts" ::: "memory");
}

static void prepare(void)
{
    set_segment(TSS_KERNEL, (u32)&kernel_tss, 103, TSS32);
    set_segment(UCODE, 0, 0xFFFFF, XR | RING3 | FLAT);
    set_segment(UDATA, 0, 0xFFFFF, RW | RING3 | FLAT);
    set_segment(KCODE16, SNIPPETS, 0xFFFF, XR);
    set_segment(KDATA16, DATA, 0xFFFF, RW);
    set_segment(UCODE16, SNIPPETS, 0xFFFF, XR | RING3);
    set_segment(UDATA16, DATA, 0xFFFF, RW | RING3);
    for (u32 i = 0; i < HANDLERS; i++)
        set_gate(idt + 2 * (i < 32 ? i : V_END), TSS_HANDLERS + 8 * i, 0,
                 i < 32 ? TASK_GATE : TASK_GATE | RING3);
    for (u32 i = 0; i < (u32)snippets_end - SNIPPETS; i++)
        DATA8(LOW + i) = DATA8(SNIPPETS + i);
    asm volatile("ltr %w0" :: "r"(TSS_KERNEL));
}

void start(void)
{
    prepare();
    guest_main();
    print("done %u checks, %u failed\n", checks, failures);
    asm volatile("outl %0, %1" :: "a"(failures ? 1 : 0), "Nd"((u16)DEBUG_EXIT));
    for (;;)
        asm volatile("cli; hlt");
}
