/* Snippets made at run time: one instruction with any memory operand. */
#ifndef OPERAND_H
#define OPERAND_H
#include "guest.h"

enum kind { LOAD, STORE, ADD };

struct operand {
    int base, index, scale;     /* register numbers, -1: none; scale is a shift */
    i32 displacement;
    int prefix;                 /* 64h, 65h, 67h or 0 */
};

/* MOV from, MOV to or ADD to the operand, with `reg`, in `size` bytes; then the snippet's end.
   The bytes stand where ring 3 can run them, until the space is used anew. */
void *operand_code(const struct operand *o, enum kind kind, int size, int reg);

/* Its linear address for these registers and the FS and GS bases in force. */
u64 operand_address(const struct operand *o, const struct cpu *c);

#endif
