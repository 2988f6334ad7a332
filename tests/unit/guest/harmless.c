/* In place of children that run programs and change files: children that copy their input to both
   outputs, and answers without a meaning.  Any request may be sent to an agent that is built so. */
#include "agent.h"

static int pipe_of(int *mine, int *its, int agent_reads)
{
    int both[2];
    long error = CALL(pipe2, both, O_CLOEXEC);

    *mine = both[!agent_reads];
    *its = both[agent_reads];
    if (!error)
        CALL(fcntl, *mine, F_SETFL, O_NONBLOCK);
    return (int)error;
}

static void copy(int from, int to, int errors)
{
    char data[1000];
    long got;

    CALL(setsid, 0);
    while ((got = CALL(read, from, data, sizeof data)) > 0)
        if (write_all(to, data, (size_t)got) < 0 || write_all(errors, data, (size_t)got / 2) < 0)
            break;
    leave(0);
}

int spawn(struct channel *channel, const struct wanted *wanted, enum stage *stage)
{
    int from, to, errors, fd;
    long pid;

    *stage = S_START;
    if (wanted->request.operation > OP_SYNC)
        return -ENOSYS;
    if (pipe_of(&channel->input, &from, 0) || pipe_of(&channel->output[0].fd, &to, 1)
        || pipe_of(&channel->output[1].fd, &errors, 1))
        return -EMFILE;
    pid = CALL(clone, SIGCHLD, 0, 0, 0, 0);
    if (!pid) {
        for (fd = 3; fd < 2000; fd++)
            if (fd != from && fd != to && fd != errors)
                CALL(close, fd);
        copy(from, to, errors);
    }
    CALL(close, from);
    CALL(close, to);
    CALL(close, errors);
    channel->pid = (int)pid;
    return pid < 0 ? (int)pid : 0;
}

size_t machine_info(char *text, size_t size)
{
    text[0] = 0;
    append(text, size, "harmless=1\n");
    return strlen(text);
}

void machine_time(uint64_t times[2])
{
    times[0] = times[1] = 1;
}

int machine_power(uint32_t mode, int forced)
{
    return mode > P_HALT || forced ? -EINVAL : 0;
}
