/* The parts of the driver, which runs the rows of `ringlet bench programs`. */
#ifndef RINGLET_DRIVER_H
#define RINGLET_DRIVER_H

#include <asm/unistd.h>

#include "rt.h"

/* One row: /bench/rows/NAME.sh with its size, and a port of the host if there is one to use. */
struct row {
    char name[32];
    char size[16];
    char port[8];
};

/* Whether this is a guest's init. */
extern int is_guest;

static inline long call(long number, long a, long b, long c)
{
    return rt_syscall(number, a, b, c);
}

static inline long call4(long number, long a, long b, long c, long d)
{
    return rt_syscall6(number, a, b, c, d, 0, 0);
}

/* start.c: ends the driver with a message if `result` is an error. */
long check(const char *what, long result);
/* Ends the driver; a guest's init turns the machine off once the console has sent everything. */
_Noreturn void leave(int status);

/* world.c: mounts what programs expect below the root, which natively is a Debian tree.  With the
 * directory `work`, which may be NULL, the caller's network remains. */
void enter_namespaces(long user, long group, const char *work);
void enter_tree(const char *tree, const char *bench, const char *work);
void enter_guest(void);
void empty_tmp(void);

/* run.c: runs a row and prints its lines. */
void run_row(const struct row *row, long limit, int counting);
/* Starts a function of the row's script; returns the process, which waits for a byte in *go. */
long start_row(const struct row *row, const char *function, int traced, int *go);

/* count.c: returns the number of system calls of a process and its descendants. */
long count_calls(long process, int go, int *status);
void trap_calls(void);

#endif
