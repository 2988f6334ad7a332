/* Channels: operations that are carried out, each by a child process with streams. */
#include "agent.h"

#include <linux/mman.h>

struct channel channels[MAX_CHANNELS];

struct channel *find_channel(uint32_t id)
{
    unsigned i;

    for (i = 0; i < MAX_CHANNELS; i++)
        if (channels[i].id == id)
            return &channels[i];
    return NULL;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        CALL(close, *fd);
    *fd = -1;
}

static void forget(struct channel *channel)
{
    close_fd(&channel->input);
    close_fd(&channel->report);
    close_fd(&channel->output[0].fd);
    close_fd(&channel->output[1].fd);
    if (channel->waiting)
        CALL(munmap, channel->waiting, INPUT_WINDOW);
    memset(channel, 0, sizeof *channel);
}

static void send_error(uint32_t id, int error, enum stage stage, const char *text)
{
    uint8_t *to = frame_begin();
    uint32_t words[2] = {(uint32_t)error, (uint32_t)stage};
    size_t length = strlen(text);

    memcpy(to, words, sizeof words);
    memcpy(to + sizeof words, text, length);
    frame_end(id, ERROR, sizeof words + length);
}

/* What needs no process. */
static int answer(uint32_t id, const struct wanted *wanted)
{
    uint64_t times[2];
    int error;

    switch (wanted->request.operation) {
    case OP_INFO:
        frame_end(id, RESULT, machine_info((char *)frame_begin(), ROOM_FOR_REPLIES / 2));
        return 1;
    case OP_TIME:
        machine_time(times);
        send_frame(id, RESULT, times, sizeof times);
        return 1;
    case OP_POWER:
        error = machine_power(wanted->request.mode, wanted->request.flags & F_RECURSIVE);
        if (error)
            send_error(id, -error, S_OPERATION, "");
        else
            send_frame(id, RESULT, "", 0);
        return 1;
    }
    return 0;
}

/* The host's mistakes get an answer; the payload is changed. */
void open_channel(uint32_t id, const uint8_t *payload, size_t size)
{
    struct wanted wanted;
    struct channel *channel;
    enum stage stage = S_OPERATION;
    int error = parse_request(payload, size, &wanted);

    if (!id || find_channel(id))
        return; /* it has its answer, or gets it */
    if (!error && answer(id, &wanted))
        return;
    channel = find_channel(0);
    if (!error && !channel) {
        error = -EUSERS;
        stage = S_START;
    }
    if (!error) {
        channel->id = id;
        channel->operation = wanted.request.operation;
        channel->input = channel->report = channel->output[0].fd = channel->output[1].fd = -1;
        channel->output[0].credit = channel->output[1].credit = wanted.request.window;
        channel->output[0].left = channel->output[1].left = -1;
        error = spawn(channel, &wanted, &stage);
        if (error)
            forget(channel);
    }
    if (error)
        send_error(id, -error, stage, "");
}

/* --- input of the process */

static void input_is_closed(struct channel *channel)
{
    if (channel->input < 0)
        return;
    close_fd(&channel->input);
    send_frame(channel->id, END_IN, "", 0);
}

/* Write what the process takes; the number of bytes, which is `size` if it reads no more. */
static size_t write_input(struct channel *channel, const uint8_t *data, size_t size)
{
    uint32_t consumed;
    size_t done = 0;
    long put;

    while (done < size && channel->input >= 0) {
        put = CALL(write, channel->input, data + done, size - done);
        if (put == -EAGAIN)
            break;
        if (put == -EINTR)
            continue;
        if (put < 0)
            input_is_closed(channel);
        else
            done += (size_t)put;
    }
    if (channel->input < 0)
        return size;
    channel->consumed += done;
    if (channel->consumed >= INPUT_WINDOW / 4) {
        consumed = (uint32_t)channel->consumed;
        send_frame(channel->id, CREDIT_IN, &consumed, sizeof consumed);
        channel->consumed = 0;
    }
    return done;
}

/* A terminal has no end of its input, but a character that programs read as one. */
static void close_input(struct channel *channel)
{
    struct termios settings;

    if (channel->terminal && !CALL(ioctl, channel->input, TCGETS, &settings)
        && settings.c_lflag & ICANON)
        CALL(write, channel->input, &settings.c_cc[VEOF], 1);
    close_fd(&channel->input);
}

int take_input(struct channel *channel, const uint8_t *data, size_t size)
{
    size_t done = 0, held = channel->waiting_end - channel->waiting_at;

    if (channel->input < 0 || channel->input_ends)
        return 0;
    if (!held)
        done = write_input(channel, data, size);
    if (done == size)
        return 0;
    if (held + size - done > INPUT_WINDOW)
        return -EPROTO; /* more than its credit */
    if (!channel->waiting)
        channel->waiting = pages(INPUT_WINDOW);
    if (!channel->waiting)
        return -ENOMEM;
    if (channel->waiting_end + size - done > INPUT_WINDOW) {
        memmove(channel->waiting, channel->waiting + channel->waiting_at, held);
        channel->waiting_at = 0;
        channel->waiting_end = held;
    }
    memcpy(channel->waiting + channel->waiting_end, data + done, size - done);
    channel->waiting_end += size - done;
    return 0;
}

/* The process can read, or reads no more. */
void feed_input(struct channel *channel)
{
    size_t held = channel->waiting_end - channel->waiting_at;

    if (!held) {
        input_is_closed(channel);
        return;
    }
    channel->waiting_at += write_input(channel, channel->waiting + channel->waiting_at, held);
    if (channel->waiting_at < channel->waiting_end)
        return;
    channel->waiting_at = channel->waiting_end = 0;
    if (channel->input_ends)
        close_input(channel);
}

void end_input(struct channel *channel)
{
    channel->input_ends = 1;
    if (channel->waiting_at == channel->waiting_end && channel->input >= 0)
        close_input(channel);
}

/* --- output of the process */

static void output_ends(struct channel *channel, int which)
{
    if (channel->output[which].fd < 0)
        return;
    close_fd(&channel->output[which].fd);
    send_frame(channel->id, which ? END_ERR : END_OUT, "", 0);
}

void close_output(struct channel *channel, int which)
{
    output_ends(channel, which);
}

void read_output(struct channel *channel, int which)
{
    struct stream *stream = &channel->output[which];
    size_t most = LARGEST_READ;
    long got;

    if (stream->credit < most)
        most = stream->credit;
    if (stream->left >= 0 && (uint64_t)stream->left < most)
        most = (size_t)stream->left;
    got = most ? CALL(read, stream->fd, frame_begin(), most) : 0;
    if (got == -EINTR || got == -EAGAIN)
        return;
    if (got <= 0) { /* a terminal's end is an error */
        output_ends(channel, which);
        return;
    }
    frame_end(channel->id, which ? DATA_ERR : DATA_OUT, (size_t)got);
    stream->credit -= (uint64_t)got;
    if (stream->left >= 0 && !(stream->left -= got))
        output_ends(channel, which);
}

/* The process has ended.  What it has written is sent; what others write later is not. */
static void limit_output(struct channel *channel, int which)
{
    struct stream *stream = &channel->output[which];
    struct pollfd more = {stream->fd, POLLIN, 0};
    int bytes = 0;

    if (stream->fd < 0)
        return;
    if (channel->terminal) { /* others may write as it is read, so it has a bound, and an end */
        if (stream->left < 0)
            stream->left = LARGEST_READ;
        if (CALL(poll, &more, 1, 0) == 0)
            output_ends(channel, which);
    } else if (stream->left < 0) {
        CALL(ioctl, stream->fd, FIONREAD, &bytes);
        stream->left = bytes;
        if (!bytes)
            output_ends(channel, which);
    }
}

/* --- begin and end */

static void send_started(struct channel *channel)
{
    uint32_t pid = (uint32_t)channel->pid;

    if (!channel->started && channel->operation == OP_EXEC)
        send_frame(channel->id, STARTED, &pid, sizeof pid);
    channel->started = 1;
}

/* Send what is new about a process.  There is room for replies. */
void advance(struct channel *channel)
{
    struct failure failure;
    int32_t code;
    long got = -EAGAIN;

    if (channel->report >= 0) {
        got = CALL(read, channel->report, &failure, sizeof failure);
        if (got == (long)sizeof failure) {
            if (!channel->exited)
                CALL(kill, channel->pid, SIGKILL);
            failure.text[MAX_TEXT - 1] = 0;
            send_error(channel->id, failure.error, (enum stage)failure.stage, failure.text);
            forget(channel);
            return;
        }
        if (got != -EAGAIN && got != -EINTR) {
            close_fd(&channel->report);
            send_started(channel);
        }
    }
    if (!channel->exited)
        return;
    send_started(channel);
    code = channel->status & 127 ? -(channel->status & 127) : channel->status >> 8 & 255;
    if (!channel->told)
        send_frame(channel->id, EXIT, &code, sizeof code);
    channel->told = 1;
    limit_output(channel, 0);
    limit_output(channel, 1);
    if (channel->output[0].fd >= 0 || channel->output[1].fd >= 0)
        return;
    send_frame(channel->id, CLOSED, "", 0);
    forget(channel);
}

/* The whole group: every process that it started and that made no group of its own. */
void signal_channel(const struct channel *channel, int number)
{
    if (channel->exited || number < 1 || number > 64)
        return;
    if (CALL(kill, -channel->pid, number) == -ESRCH)
        CALL(kill, channel->pid, number); /* it has no group yet */
}

void reap(void)
{
    int status;
    long pid;
    unsigned i;

    while ((pid = CALL(wait4, -1, &status, WNOHANG_, 0)) > 0)
        for (i = 0; i < MAX_CHANNELS; i++)
            if (channels[i].id && !channels[i].exited && channels[i].pid == pid) {
                channels[i].exited = 1;
                channels[i].status = status;
            }
}

/* The connection is lost, which is to processes as if a terminal was. */
void drop_channels(void)
{
    unsigned i;

    for (i = 0; i < MAX_CHANNELS; i++)
        if (channels[i].id) {
            signal_channel(&channels[i], channels[i].operation == OP_EXEC ? SIGHUP : SIGTERM);
            signal_channel(&channels[i], SIGCONT);
            forget(&channels[i]);
        }
}
