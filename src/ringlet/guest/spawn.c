/* Makes the child of a channel, with its pipes or its terminal. */
#include "agent.h"

enum { PIPE_SIZE = 262144, MINE = 0, ITS = 1 };

struct ends { int input[2], output[2], errors[2], report[2]; };

static void close_pair(int *pair)
{
    if (pair[0] >= 0)
        CALL(close, pair[0]);
    if (pair[1] >= 0)
        CALL(close, pair[1]);
}

static void close_ends(struct ends *ends)
{
    close_pair(ends->input);
    close_pair(ends->output);
    close_pair(ends->errors);
    close_pair(ends->report);
}

/* `pair`: the agent's end, which does not block, and the child's. */
static int make_pipe(int *pair, int agent_reads)
{
    int both[2];
    long error = CALL(pipe2, both, O_CLOEXEC);

    if (error)
        return (int)error;
    pair[MINE] = both[agent_reads ? 0 : 1];
    pair[ITS] = both[agent_reads ? 1 : 0];
    CALL(fcntl, both[0], F_SETPIPE_SZ, PIPE_SIZE); /* a smaller one is as good */
    CALL(fcntl, pair[MINE], F_SETFL, (agent_reads ? O_RDONLY : O_WRONLY) | O_NONBLOCK);
    return 0;
}

/* The master is for input and output; the child gets the other side. */
static int make_terminal(struct ends *ends, const struct request *request)
{
    struct winsize size = {request->rows, request->columns, 0, 0};
    char path[32] = "/dev/pts/";
    unsigned number;
    int unlocked = 0;
    long fd = CALL(open, "/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0);

    if (fd < 0)
        return (int)fd;
    ends->output[MINE] = (int)fd;
    if ((fd = CALL(ioctl, fd, TIOCSPTLCK, &unlocked)) < 0
        || (fd = CALL(ioctl, ends->output[MINE], TIOCGPTN, &number)) < 0
        || (fd = CALL(fcntl, ends->output[MINE], F_DUPFD_CLOEXEC, 0)) < 0)
        return (int)fd;
    ends->input[MINE] = (int)fd;
    append_number(path, sizeof path, number);
    fd = CALL(open, path, O_RDWR | O_NOCTTY | O_CLOEXEC, 0);
    if (fd < 0)
        return (int)fd;
    ends->output[ITS] = (int)fd;
    if (size.ws_row || size.ws_col)
        CALL(ioctl, fd, TIOCSWINSZ, &size);
    return 0;
}

static int make_ends(struct ends *ends, const struct request *request, enum stage *stage)
{
    int error = make_pipe(ends->report, 1);

    if (error)
        return error;
    if (request->flags & F_TERMINAL) {
        *stage = S_TERMINAL;
        return make_terminal(ends, request);
    }
    if (!(request->flags & F_NO_INPUT) && (error = make_pipe(ends->input, 0)))
        return error;
    if ((error = make_pipe(ends->output, 1)))
        return error;
    return request->operation == OP_EXEC && !(request->flags & F_MERGE)
        ? make_pipe(ends->errors, 1) : 0;
}

/* --- in the child; an error is told by `report` */

static void take_place(long from, int to, int report)
{
    long error;

    if (from < 0)
        fail(report, (int)-from, S_START, "");
    error = CALL(dup3, from, to, 0);
    if (error < 0)
        fail(report, (int)-error, S_START, "");
}

static void take_streams(const struct ends *ends, const struct request *request, int report)
{
    int terminal = ends->output[ITS];

    if (request->flags & F_TERMINAL) {
        CALL(ioctl, terminal, TIOCSCTTY, 0);
        take_place(terminal, 0, report);
    } else {
        take_place(ends->input[ITS] >= 0 ? ends->input[ITS]
                   : CALL(open, "/dev/null", O_RDONLY | O_CLOEXEC, 0), 0, report);
    }
    take_place(ends->output[ITS], 1, report);
    if (ends->errors[ITS] >= 0)
        take_place(ends->errors[ITS], 2, report);
    else if (request->operation == OP_EXEC)
        take_place(ends->output[ITS], 2, report);
}

static void reset_signals(void)
{
    struct { uint64_t handler, flags, restorer, mask; } action = {0, 0, 0, 0};
    int number;

    for (number = 1; number <= 64; number++)
        CALL(rt_sigaction, number, &action, 0, 8);
    CALL(rt_sigprocmask, SIG_SETMASK, &given_mask, 0, 8);
    CALL(prlimit64, 0, RLIMIT_NOFILE, &given_files, 0);
}

/* What runs no program keeps 0 to 2 and the report, which is 3 then. */
static void close_others(int report)
{
    int fd;

    if (report != 3)
        CALL(dup3, report, 3, O_CLOEXEC);
    if (CALL(close_range, 4, ~0u, 0) == -ENOSYS)
        for (fd = 4; fd < 4 * MAX_CHANNELS + 64; fd++)
            CALL(close, fd);
}

static void child(const struct ends *ends, const struct wanted *wanted)
    __attribute__((noreturn));
static void child(const struct ends *ends, const struct wanted *wanted)
{
    int error, report = ends->report[ITS];
    long above;

    /* The streams' places may be taken by descriptors that are needed. */
    if (report < 3 && (above = CALL(fcntl, report, F_DUPFD_CLOEXEC, 3)) >= 0)
        report = (int)above;
    CALL(setsid, 0);
    leave_shelter();
    reset_signals();
    take_streams(ends, &wanted->request, report);
    if (wanted->request.operation == OP_EXEC)
        become_program(wanted, report);
    close_others(report);
    error = file_operation(wanted);
    if (error)
        fail(3, -error, S_OPERATION, report_text);
    leave(0);
}

static void keep(struct channel *channel, struct ends *ends, long pid)
{
    channel->pid = (int)pid;
    channel->input = ends->input[MINE];
    channel->output[0].fd = ends->output[MINE];
    channel->output[1].fd = ends->errors[MINE];
    channel->report = ends->report[MINE];
    ends->input[MINE] = ends->output[MINE] = ends->errors[MINE] = ends->report[MINE] = -1;
}

int spawn(struct channel *channel, const struct wanted *wanted, enum stage *stage)
{
    struct ends ends = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    long pid;
    int error;

    if (wanted->request.operation < OP_EXEC || wanted->request.operation > OP_SYNC)
        return -ENOSYS;
    *stage = S_START;
    error = make_ends(&ends, &wanted->request, stage);
    if (!error) {
        *stage = S_START;
        take_shelter();
        pid = CALL(clone, SIGCHLD, 0, 0, 0, 0);
        if (!pid)
            child(&ends, wanted);
        if (pid < 0)
            error = (int)pid;
        else
            keep(channel, &ends, pid);
        channel->terminal = wanted->request.flags & F_TERMINAL;
    }
    close_ends(&ends);
    return error;
}
