/* The guest as a whole: what it is, its clocks, its end. */
#include "agent.h"

#include <linux/reboot.h>

struct names_of_system { char system[65], node[65], release[65], version[65], machine[65],
                         domain[65]; };

static void add(char *text, size_t size, const char *key, const char *value)
{
    append(text, size, key);
    append(text, size, "=");
    append(text, size, value);
    append(text, size, "\n");
}

static void add_number(char *text, size_t size, const char *key, uint64_t value)
{
    char number[24] = "";

    append_number(number, sizeof number, value);
    add(text, size, key, number);
}

void machine_time(uint64_t times[2])
{
    struct __kernel_timespec now = {0, 0}, since = {0, 0};

    CALL(clock_gettime, CLOCK_REALTIME, &now);
    CALL(clock_gettime, CLOCK_BOOTTIME, &since);
    times[0] = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    times[1] = (uint64_t)since.tv_sec * 1000000000 + (uint64_t)since.tv_nsec;
}

size_t machine_info(char *text, size_t size)
{
    static struct names_of_system names;
    uint64_t times[2];
    char boot[64];

    CALL(uname, &names);
    text[0] = 0;
    add(text, size, "system", names.system);
    add(text, size, "hostname", names.node);
    add(text, size, "release", names.release);
    add(text, size, "version", names.version);
    add(text, size, "machine", names.machine);
    machine_time(times);
    add_number(text, size, "boot_time_ns", times[0] - times[1]);
    add_number(text, size, "uptime_ns", times[1]);
    add_number(text, size, "agent_pid", (uint64_t)CALL(getpid, 0));
    add_number(text, size, "agent_uid", (uint64_t)CALL(getuid, 0));
    if (read_file("/proc/sys/kernel/random/boot_id", boot, 37) > 0)
        add(text, size, "boot_id", boot);
    return strlen(text);
}

/* --- the end */

static const char *last_part(const char *path)
{
    const char *last = path;

    for (; *path; path++)
        if (*path == '/')
            last = path + 1;
    return last;
}

static void end_at_once(uint32_t mode)
{
    static const uint32_t commands[] = {
        LINUX_REBOOT_CMD_POWER_OFF, LINUX_REBOOT_CMD_RESTART, LINUX_REBOOT_CMD_HALT};

    CALL(sync, 0);
    CALL(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, commands[mode], 0);
}

/* Process 1 ends the machine if it is an init that knows how; a script does not. */
static void end_in_order(uint32_t mode)
{
    static const char *const programs[] = {"/sbin/poweroff", "/sbin/reboot", "/sbin/halt"};
    static const int systemd_signals[] = {34 + 4, 34 + 5, 34 + 3}; /* SIGRTMIN + n */
    char *const arguments[] = {(char *)(uintptr_t)programs[mode], NULL};
    char first[PATH_MAX];

    if (!CALL(access, "/run/systemd/system", 0)) {
        CALL(kill, 1, systemd_signals[mode]);
        return;
    }
    if (read_file("/proc/1/cmdline", first, sizeof first) > 0 && same(last_part(first), "init"))
        CALL(execve, programs[mode], arguments, environment);
    end_at_once(mode);
}

/* The answer leaves before the machine ends. */
int machine_power(uint32_t mode, int forced)
{
    long pid;

    if (mode > P_HALT)
        return -EINVAL;
    if (CALL(getuid, 0))
        return -EPERM;
    pid = CALL(clone, SIGCHLD, 0, 0, 0, 0);
    if (pid)
        return pid < 0 ? (int)pid : 0;
    CALL(setsid, 0);
    sleep_milliseconds(50);
    if (forced)
        end_at_once(mode);
    else
        end_in_order(mode);
    leave(0);
}
