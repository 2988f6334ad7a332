/* A traced child that runs a snippet. */
#ifndef TRACEE_H
#define TRACEE_H
#include "selftest.h"
#include <sys/ptrace.h>
#include <sys/user.h>

typedef struct user_regs_struct regs_t;

/* A child that stands before the snippet's first instruction, with its registers. */
pid_t trace(const struct registers *c);
pid_t trace_code(const void *code);
/* Let it go on by a PTRACE_* request, with a signal or 0; the next stop's signal. */
int resume(pid_t child, int request, int number);
regs_t regs_of(pid_t child);
void set_regs(pid_t child, const regs_t *r);
/* Of the last stop. */
siginfo_t info_of(pid_t child);
/* Let it go on to its closing INT3. */
void finish(pid_t child, const void *code);
void drop(pid_t child);
/* fail() unless the child stopped by this signal at this place. */
void check_stop(const char *name, pid_t child, int got, int number, u64 rip);

#endif
