/* System calls of the bare guest's kernel for the nano program, beyond Linux's own numbers. */
#ifndef RINGLET_NANO_H
#define RINGLET_NANO_H

/* System calls that measure return ticks; A is the first argument. */
enum {
    NANO_IN = 1000,     /* read the UART's scratch register A times */
    NANO_OUT,           /* write the scratch register A times */
    NANO_CR8,           /* load CR8 A times */
    NANO_APIC_READ,     /* read the local APIC's TPR A times, in memory */
    NANO_APIC_WRITE,    /* write it A times */
    NANO_DEVICE_READ,   /* read the I/O APIC's index register A times */
    NANO_DEVICE_WRITE,  /* write it A times */
    NANO_PTE,           /* A times: change a PTE, INVLPG, read through it */
    NANO_SPACE,         /* load CR3 with address space A: 0, or 1 and 2 with their own pages */
    NANO_FAULT_RESET,   /* make the pages at FAULT_AREA not present */
    NANO_DIVIDE,        /* from now on #DE skips A bytes; 0: #DE ends the run */
    NANO_TIMER,         /* interrupt every A ticks of the TSC; 0: never.  Returns the counter's address */
};

/* Linear addresses. */
#define FAULT_AREA 0x40000000ul
#define PTE_AREA 0x40200000ul
#define CODE_AREA 0x40400000ul
#define COUNT_AREA 0x40600000ul
#define APIC_AREA 0x40800000ul
#define DEVICE_AREA 0x40801000ul
#define SPACE_AREA 0x80000000ul

enum { FAULT_PAGES = 512, SPACE_PAGES = 500, PAGE = 4096 };

#endif
