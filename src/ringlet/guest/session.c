/* One connection: frames from the host, and the loop that waits for everything. */
#include "agent.h"

enum { INPUT = HEADER_SIZE + MAX_PAYLOAD + INPUT_WINDOW };

static const uint8_t HELLO_BEGINS[HEADER_SIZE + 8] = {
    0, 0, 0, 0, sizeof(struct hello), 0, 0, HELLO, 'R', 'i', 'n', 'g', 'l', 'e', 't', '\n'};

static uint8_t input[INPUT];
static size_t input_begin, input_end;
static int greeted; /* else bytes are skipped until the host greets */
static uint8_t session[8];
static const uint8_t NOBODY[8];

static void send_hello(const uint8_t *nonce)
{
    struct hello hello = {{0}, {0}, VERSION, VERSION};

    memcpy(hello.magic, HELLO_BEGINS + HEADER_SIZE, 8);
    memcpy(hello.nonce, nonce, 8);
    send_frame(0, HELLO, &hello, sizeof hello);
}

static void take_hello(const uint8_t *payload)
{
    struct hello hello;

    memcpy(&hello, payload, sizeof hello);
    if (greeted && !memcmp(session, hello.nonce, 8))
        return; /* the host greets until it is answered */
    drop_channels();
    memcpy(session, hello.nonce, 8);
    greeted = hello.lowest <= VERSION && VERSION <= hello.highest;
    send_hello(hello.nonce);
}

static void resize(const struct channel *channel, const uint8_t *payload)
{
    struct winsize size = {0, 0, 0, 0};

    memcpy(&size, payload, 4);
    if (channel->terminal && channel->output[0].fd >= 0)
        CALL(ioctl, channel->output[0].fd, TIOCSWINSZ, &size);
}

/* A negative error: the host does not keep to the protocol. */
static int take_frame(uint32_t id, enum kind kind, const uint8_t *payload, size_t size)
{
    struct channel *channel;
    uint32_t number = 0;

    if (kind == HELLO && size == sizeof(struct hello)
        && !memcmp(payload, HELLO_BEGINS + HEADER_SIZE, 8)) {
        take_hello(payload);
        return 0;
    }
    if (kind == OPEN) {
        open_channel(id, payload, size);
        return 0;
    }
    channel = id ? find_channel(id) : NULL;
    if (!channel)
        return id ? 0 : -EPROTO; /* it has ended, which the host will hear */
    if (size >= 4)
        memcpy(&number, payload, 4);
    switch (kind) {
    case DATA_IN:
        return take_input(channel, payload, size);
    case END_IN:
        end_input(channel);
        return 0;
    case END_OUT:
    case END_ERR:
        close_output(channel, kind == END_ERR);
        return 0;
    case CREDIT_OUT:
    case CREDIT_ERR:
        channel->output[kind == CREDIT_ERR].credit += number;
        return size == 4 ? 0 : -EPROTO;
    case SIGNAL:
        signal_channel(channel, (int)number);
        return size == 4 ? 0 : -EPROTO;
    case RESIZE:
        if (size == 4)
            resize(channel, payload);
        return size == 4 ? 0 : -EPROTO;
    default:
        return -EPROTO;
    }
}

static void skip_to_hello(void)
{
    size_t there;

    for (; input_begin < input_end; input_begin++) {
        there = input_end - input_begin;
        if (!memcmp(input + input_begin, HELLO_BEGINS,
                    there < sizeof HELLO_BEGINS ? there : sizeof HELLO_BEGINS))
            return;
    }
}

static void lose_step(void)
{
    drop_channels();
    greeted = 0;
    send_hello(NOBODY);
}

/* Take whole frames while there is room for replies; 1: there was none. */
static int take_frames(void)
{
    uint32_t header[2];
    size_t size;
    uint8_t *payload;

    while (output_room() >= ROOM_FOR_REPLIES) {
        if (!greeted)
            skip_to_hello();
        if (input_end - input_begin < HEADER_SIZE)
            break;
        memcpy(header, input + input_begin, HEADER_SIZE);
        size = header[1] & 0xffffff;
        if (size > MAX_PAYLOAD) {
            lose_step();
            continue;
        }
        if (input_end - input_begin < HEADER_SIZE + size)
            break;
        payload = input + input_begin + HEADER_SIZE;
        input_begin += HEADER_SIZE + size;
        if (take_frame(header[0], (enum kind)(header[1] >> 24), payload, size))
            lose_step();
    }
    if (input_begin == input_end)
        input_begin = input_end = 0;
    return output_room() < ROOM_FOR_REPLIES;
}

/* Negative: the connection is lost. */
static long read_input(int fd)
{
    long got;

    if (input_begin && INPUT - input_end < INPUT_WINDOW / 2) {
        memmove(input, input + input_begin, input_end - input_begin);
        input_end -= input_begin;
        input_begin = 0;
    }
    if (input_end == INPUT)
        return 0;
    got = CALL(read, fd, input + input_end, INPUT - input_end);
    if (got == -EAGAIN || got == -EINTR)
        return 0;
    if (got <= 0)
        return got ? got : -EPIPE;
    input_end += (size_t)got;
    return got;
}

/* --- waiting */

enum part { OF_INPUT, OF_OUTPUT, OF_ERRORS, OF_REPORT };
static struct pollfd waits[2 + 4 * MAX_CHANNELS];
static struct { struct channel *channel; enum part part; } owners[2 + 4 * MAX_CHANNELS];

static unsigned wait_for(unsigned count, struct channel *channel, enum part part, int fd,
                         short events)
{
    waits[count].fd = fd;
    waits[count].events = events;
    waits[count].revents = 0;
    owners[count].channel = channel;
    owners[count].part = part;
    return count + 1;
}

static unsigned list_channels(unsigned count)
{
    static unsigned first; /* each has its turn */
    struct channel *channel;
    unsigned i, which;
    int held;

    first++;
    for (i = 0; i < MAX_CHANNELS; i++) {
        channel = &channels[(first + i) % MAX_CHANNELS];
        if (!channel->id)
            continue;
        for (which = 0; which < 2; which++)
            if (channel->output[which].fd >= 0 && channel->output[which].credit)
                count = wait_for(count, channel, OF_OUTPUT + which, channel->output[which].fd,
                                 POLLIN);
        if (channel->report >= 0)
            count = wait_for(count, channel, OF_REPORT, channel->report, POLLIN);
        held = channel->waiting_at < channel->waiting_end;
        if (channel->input >= 0 && (held || !channel->terminal))
            count = wait_for(count, channel, OF_INPUT, channel->input, held ? POLLOUT : 0);
    }
    return count;
}

static int room_for_data(void)
{
    return output_room() >= HEADER_SIZE + LARGEST_READ + ROOM_FOR_REPLIES;
}

static void serve_channel(struct channel *channel, enum part part)
{
    if (!channel->id || output_room() < ROOM_FOR_REPLIES)
        return;
    if (part == OF_INPUT && channel->input >= 0)
        feed_input(channel);
    else if (part == OF_REPORT)
        advance(channel);
    else if (part != OF_INPUT && room_for_data() && channel->output[part - OF_OUTPUT].fd >= 0)
        read_output(channel, part - OF_OUTPUT);
}

void serve(int fd, int children)
{
    uint8_t signals[128];
    unsigned i, count;
    int stopped;

    output_reset(fd);
    input_begin = input_end = 0;
    greeted = 0;
    send_hello(NOBODY); /* the host, if it is there already, greets again */
    for (;;) {
        for (i = 0; i < MAX_CHANNELS; i++)
            if (channels[i].id && channels[i].exited && output_room() >= ROOM_FOR_REPLIES)
                advance(&channels[i]);
        stopped = take_frames();
        if (output_flush() < 0)
            break;
        if (stopped && !output_waits())
            continue;
        count = wait_for(0, NULL, 0, fd, (short)((output_waits() ? POLLOUT : 0)
                         | (output_room() >= ROOM_FOR_REPLIES ? POLLIN : 0)));
        count = wait_for(count, NULL, 0, children, POLLIN);
        if (room_for_data())
            count = list_channels(count);
        if (CALL(poll, waits, count, -1) < 0)
            continue;
        if (waits[1].revents)
            while (CALL(read, children, signals, sizeof signals) > 0)
                ;
        reap();
        if (waits[0].revents & ~POLLOUT && read_input(fd) < 0)
            break;
        for (i = 2; i < count; i++)
            if (waits[i].revents)
                serve_channel(owners[i].channel, owners[i].part);
    }
    drop_channels();
}
