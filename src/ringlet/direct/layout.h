/* What a direct process and its virtual processor agree on: addresses, and memory that both map.

   The direct process can write all of this memory while it runs guest code.  The virtual processor
   reads it only while the kernel holds that process in its hand-over call, and trusts nothing in
   it. */
#ifndef RINGLET_DIRECT_LAYOUT_H
#define RINGLET_DIRECT_LAYOUT_H

#include <stdint.h>

/* Linear addresses that guest code cannot have for itself: a page of code, a page of commands, and
   the stack on which the kernel leaves the state of the guest. */
#define DIRECT_STUB 0x31d1d0000000
#define DIRECT_CONTROL (DIRECT_STUB + 0x1000)
#define DIRECT_STACK (DIRECT_STUB + 0x2000)
#define DIRECT_STACK_SIZE 0xf000
#define DIRECT_SHARED_SIZE (0x1000 + DIRECT_STACK_SIZE)
#define DIRECT_END (DIRECT_STUB + 0x1000 + DIRECT_SHARED_SIZE)
#define DIRECT_TOP 0x7ffffffff000              /* of addresses that a process can have */

/* File descriptors of the direct process. */
#define DIRECT_RAM 3                           /* and above: the files of guest RAM */
#define DIRECT_RAM_FILES 8
#define DIRECT_SOCKET 12                       /* takes the listener to the virtual processor */

/* A system call that the direct process makes for the virtual processor. */
struct direct_command {
    uint64_t number;                           /* DIRECT_AGAIN: hand over once more */
    uint64_t arguments[6];
    int64_t result;
};
#define DIRECT_AGAIN (-2)
#define DIRECT_COMMANDS 60

struct direct_control {
    uint32_t signal;                           /* that brought the process here */
    uint32_t failed;                           /* a command did not succeed */
    uint64_t fs_base, gs_base;                 /* of the guest */
    uint64_t frame;                            /* where the kernel left its state */
    uint64_t selectors;                        /* DS, ES, FS and GS, 16 bits each */
    uint64_t flags;                            /* NT and ID, which no frame restores */
    uint64_t pad[10];
    struct { uint64_t length; uint32_t level, type; int32_t fd, pad; } rights;
    struct { void *base; uint64_t length; } vector;
    struct { void *name; uint64_t name_length; void *vector; uint64_t count;
             void *control; uint64_t control_length; int32_t flags, pad; } message;
    uint64_t pad2[1];
    struct direct_command commands[DIRECT_COMMANDS];
};
_Static_assert(sizeof(struct direct_control) <= 4096, "one page");

/* What the zygote is asked for, with the files: control, socket, RAM. */
struct direct_request {
    uint32_t ram_files;
    uint32_t cpuid_faults;                     /* where the host can make it */
};

#endif
