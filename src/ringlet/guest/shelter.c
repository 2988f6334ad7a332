/* What the agent does to outlive a shortage of the guest's memory.

   The kernel's killer is told to leave the agent alone, but not its children.  systemd ends all
   processes of a unit of which one was killed for memory.  The agent is older than systemd, which
   finds it in its own unit, init.scope; so it moves to a group of its own, with its children. */
#include "agent.h"

int wants_shelter;
static int sheltered, moved;

static long write_file(const char *path, const char *text)
{
    long error, fd = CALL(open, path, O_WRONLY | O_CLOEXEC, 0);

    if (fd < 0)
        return fd;
    error = write_all((int)fd, text, strlen(text));
    CALL(close, fd);
    return error;
}

static int in_scope_of_init(void)
{
    static const char scope[] = "0::/init.scope\n";
    char groups[4096];
    const char *line;

    if (read_file("/proc/self/cgroup", groups, sizeof groups) <= 0)
        return 0;
    for (line = groups; *line; line++)
        if ((line == groups || line[-1] == '\n') && starts(line, scope))
            return 1;
    return 0;
}

void take_shelter(void)
{
    if (!wants_shelter)
        return;
    if (!sheltered)
        sheltered = write_file("/proc/self/oom_score_adj", "-1000") > 0;
    if (!moved && in_scope_of_init()) {
        CALL(mkdir, "/sys/fs/cgroup/ringlet", 0755);
        moved = write_file("/sys/fs/cgroup/ringlet/cgroup.procs", "0") > 0;
    }
}

void leave_shelter(void)
{
    if (sheltered)
        write_file("/proc/self/oom_score_adj", "0");
}
