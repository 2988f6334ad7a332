/* The serial line, and the end of the run. */
#include "ports.h"

enum { UART_STATUS = 0x3fd, UART_EMPTY = 0x20 };

void serial(char c)
{
    while (!(inb(UART_STATUS) & UART_EMPTY))
        ;
    outb(UART, (uint8_t)c);
}

void serial_text(const char *text)
{
    while (*text)
        serial(*text++);
}

void serial_hex(uint64_t value)
{
    for (int shift = 60; shift >= 0; shift -= 4) {
        unsigned digit = value >> shift & 15;
        serial((char)(digit < 10 ? '0' + digit : 'a' + digit - 10));
    }
}

void serial_write(const char *text, long length)
{
    for (long i = 0; i < length; i++)
        serial(text[i]);
}

_Noreturn void panic(uint64_t vector, uint64_t error, uint64_t ip)
{
    unsigned long cr2;
    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    serial_text("panic: vector ");
    serial_hex(vector);
    serial_text(" error ");
    serial_hex(error);
    serial_text(" rip ");
    serial_hex(ip);
    serial_text(" cr2 ");
    serial_hex(cr2);
    serial('\n');
    stop(2);
}

_Noreturn void stop(uint8_t status)
{
    outb(PORT_EXIT, status);
    for (;;)
        __asm__ volatile("cli; hlt");
}
