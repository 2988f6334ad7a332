/* Ports and the serial line of the bare machine, for the kernels of both widths. */
#ifndef RINGLET_PORTS_H
#define RINGLET_PORTS_H

#include <stdint.h>

enum { UART = 0x3f8, PORT_EXIT = 0xf4 };

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* serial.c */
void serial(char c);
void serial_text(const char *text);
void serial_hex(uint64_t value);
void serial_write(const char *text, long length);
/* Shows an exception that the kernel does not expect, and ends the run. */
_Noreturn void panic(uint64_t vector, uint64_t error, uint64_t ip);
/* Ends the run: the machine's exit status is 2 * status + 1. */
_Noreturn void stop(uint8_t status);

#endif
