/* The support library itself: a snippet in each mode, and a fault. */
#include "narrow.h"

void guest_main(void)
{
    struct code add32 = CODE32("lea (%ecx, %eax), %edx");
    struct code add16 = CODE16("mov %ax, %dx\nadd %cx, %dx");
    struct code bad32 = CODE32("nop" MARK "ud2");
    struct code bad16 = CODE16("nop" MARK "ud2");
    for (int cpl = 0; cpl <= 3; cpl += 3) {
        in_flat(cpl, add32);
        in.eax = 40;
        in.ecx = 2;
        run();
        check_end(name("hello.32.cpl%u", cpl));
        check(name("hello.32.result.cpl%u", cpl), in.edx, 42);
        check(name("hello.32.cs.cpl%u", cpl), in.cs, cpl ? UCODE : KCODE);
        in_16(cpl, add16);
        in.eax = 0x1FFFF;
        in.ecx = 3;
        run();
        check_end(name("hello.16.cpl%u", cpl));
        check(name("hello.16.result.cpl%u", cpl), in.edx, 2);
        in_flat(cpl, bad32);
        run();
        check_fault(name("hello.ud.32.cpl%u", cpl), V_UD, 0);
        check(name("hello.ud.rf.cpl%u", cpl), in.eflags & F_RF, F_RF);
        in_16(cpl, bad16);
        run();
        check_fault(name("hello.ud.16.cpl%u", cpl), V_UD, 0);
    }
    in_v86(0, add16);
    in.eax = 0x1FFFF;
    in.ecx = 3;
    run();
    check("hello.v86", vector << 16 | error, V_GP << 16);     /* INT 81h at IOPL 0 */
    check("hello.v86.result", in.edx, 2);
    in_v86(3, add16);
    run();
    check_end("hello.v86.iopl3");
    in_v86(0, bad16);
    run();
    check_fault("hello.ud.v86", V_UD, 0);
}
