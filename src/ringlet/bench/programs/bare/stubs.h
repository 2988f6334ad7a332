/* Exceptions that end the run: VECTORS stubs of 16 bytes, which push the vector. */
    .balign 16
    .globl exception_stubs
exception_stubs:
    vector = 0
    .rept VECTORS
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
    push $0
    .endif
    push $vector
    jmp exception
    vector = vector + 1
    .endr
