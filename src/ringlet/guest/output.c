/* Frames to the host.  While they wait, nothing more is read from the processes. */
#include "agent.h"

enum { CAPACITY = 8 * (LARGEST_READ + HEADER_SIZE) + 2 * ROOM_FOR_REPLIES };

static uint8_t buffer[CAPACITY];
static size_t begin, end;
static int host;

void output_reset(int fd)
{
    host = fd;
    begin = end = 0;
}

size_t output_room(void)
{
    return CAPACITY - end;
}

int output_waits(void)
{
    return begin < end;
}

int output_flush(void)
{
    long put;

    while (begin < end) {
        put = CALL(write, host, buffer + begin, end - begin);
        if (put == -EINTR)
            continue;
        if (put == -EAGAIN)
            return 0;
        if (put <= 0)
            return put ? (int)put : -EPIPE;
        begin += (size_t)put;
    }
    begin = end = 0;
    return 0;
}

/* Where the payload of the next frame goes; there is room for it. */
uint8_t *frame_begin(void)
{
    return buffer + end + HEADER_SIZE;
}

void frame_end(uint32_t channel, enum kind kind, size_t size)
{
    uint32_t header[2] = {channel, (uint32_t)kind << 24 | (uint32_t)size};

    memcpy(buffer + end, header, HEADER_SIZE);
    end += HEADER_SIZE + size;
}

void send_frame(uint32_t channel, enum kind kind, const void *payload, size_t size)
{
    memcpy(frame_begin(), payload, size);
    frame_end(channel, kind, size);
}
