/* A fault whose delivery faults, and so does the double fault's: the processor shuts down
   (SDM 3A, 6.15, interrupt 8). */
#include "guest.h"

void guest_main(void)
{
    struct table_reg none = { 0, 0 };
    print("about to triple fault\n");
    asm volatile("lidt %0; ud2" :: "m"(none));
    print("still running\n");
}
