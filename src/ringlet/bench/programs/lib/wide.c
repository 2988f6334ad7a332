/* What gcc calls in 32-bit code for integers of 64 bits; libgcc of that width may not be there. */
#ifdef __i386__
#include <stdint.h>

uint64_t __udivdi3(uint64_t dividend, uint64_t divisor);
uint64_t __umoddi3(uint64_t dividend, uint64_t divisor);
uint64_t __udivmoddi4(uint64_t dividend, uint64_t divisor, uint64_t *remainder);
int __ctzdi2(uint64_t value);

uint64_t __udivmoddi4(uint64_t dividend, uint64_t divisor, uint64_t *remainder)
{
    uint64_t quotient = 0, rest = 0;
    if (divisor >> 32 == 0) {
        uint32_t by = (uint32_t)divisor, high = (uint32_t)(dividend >> 32), low;
        uint32_t upper = high / by, left = high % by;
        __asm__("divl %4" : "=a"(low), "=d"(left) : "0"((uint32_t)dividend), "1"(left), "r"(by));
        *remainder = left;
        return (uint64_t)upper << 32 | low;
    }
    for (int bit = 63; bit >= 0; bit--) {
        rest = rest << 1 | (dividend >> bit & 1);
        if (rest >= divisor) {
            rest -= divisor;
            quotient |= (uint64_t)1 << bit;
        }
    }
    *remainder = rest;
    return quotient;
}

uint64_t __udivdi3(uint64_t dividend, uint64_t divisor)
{
    uint64_t remainder;
    return __udivmoddi4(dividend, divisor, &remainder);
}

uint64_t __umoddi3(uint64_t dividend, uint64_t divisor)
{
    uint64_t remainder;
    __udivmoddi4(dividend, divisor, &remainder);
    return remainder;
}

int __ctzdi2(uint64_t value)
{
    return (uint32_t)value ? __builtin_ctz((uint32_t)value)
                           : 32 + __builtin_ctz((uint32_t)(value >> 32));
}
#endif
