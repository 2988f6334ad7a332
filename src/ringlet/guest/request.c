/* The fields of an OPEN frame, as strings. */
#include "agent.h"

/* In place: a word (tag << 24 | length) and its bytes become a tag, the bytes and a zero. */
int parse_request(const uint8_t *payload, size_t size, struct wanted *wanted)
{
    uint8_t *to;
    const uint8_t *from = payload + sizeof wanted->request, *end = payload + size;
    uint32_t word, i;

    if (size < sizeof wanted->request)
        return -EINVAL;
    memcpy(&wanted->request, payload, sizeof wanted->request);
    to = (uint8_t *)(uintptr_t)from;
    wanted->fields = (const char *)to;
    while (from < end) {
        if (end - from < 4)
            return -EINVAL;
        memcpy(&word, from, 4);
        from += 4;
        if ((word & 0xffffff) > (size_t)(end - from))
            return -EINVAL;
        *to++ = (uint8_t)(word >> 24);
        for (i = 0; i < (word & 0xffffff); i++) {
            if (!*from)
                return -EINVAL;
            *to++ = *from++;
        }
        *to++ = 0;
    }
    wanted->size = (size_t)((const char *)to - wanted->fields);
    return 0;
}

const char *next_field(const struct wanted *wanted, enum tag tag, const char *after)
{
    const char *at = after ? after + strlen(after) + 1 : wanted->fields;

    for (; at < wanted->fields + wanted->size; at += strlen(at) + 1)
        if (*at++ == (char)tag)
            return at;
    return NULL;
}

const char *field(const struct wanted *wanted, enum tag tag)
{
    return next_field(wanted, tag, NULL);
}

size_t count_fields(const struct wanted *wanted, enum tag tag)
{
    const char *at = NULL;
    size_t count = 0;

    while ((at = next_field(wanted, tag, at)))
        count++;
    return count;
}
