/* Selectors of the 32-bit kernel's GDT. */
#ifndef RINGLET_KERNEL32_H
#define RINGLET_KERNEL32_H

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE 0x1b
#define USER_DATA 0x23
#define TASK 0x28
#define REAL_CODE 0x30 /* the 16-bit code of real.S, where it is in real mode */
#define REAL_DATA 0x38

#endif
