/* Addresses and numbers shared by the guest kernel's assembly and C. */
#ifndef RINGLET_LAYOUT_H
#define RINGLET_LAYOUT_H

#define KERNEL_BASE 0xffffffff80000000 /* guest physical 0, in the kernel's half */
#define RAM_MAPPED 0x8000000           /* bytes mapped at KERNEL_BASE */
#define FRAMES 0x4000000               /* guest physical pages for the nano areas */

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_BASE 0x20 /* SYSRET: SS = USER_BASE + 8, CS = USER_BASE + 16 */
#define USER_DATA 0x2b
#define USER_CODE 0x33
#define TASK 0x38

#define TIMER_VECTOR 32

#define SYSCALL_NULL 110 /* getppid: the shortest way in and out */

#endif
