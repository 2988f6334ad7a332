/* Users and groups by name or number, from /etc/passwd and /etc/group. */
#include "agent.h"

#include <linux/mman.h>

enum { LARGEST = 1 << 20, MOST_GROUPS = 256 };

static char *load(const char *path)
{
    char *text = pages(LARGEST);

    if (text)
        read_file(path, text, LARGEST);
    return text;
}

/* Cut the line at `text` into `fields` at its colons; returns the next line, or NULL. */
static char *cut(char *text, char **fields, unsigned count)
{
    unsigned at = 0;

    if (!*text)
        return NULL;
    while (at < count)
        fields[at++] = "";
    fields[0] = text;
    for (at = 1; *text && *text != '\n'; text++)
        if (*text == ':' && at < count) {
            *text = 0;
            fields[at++] = text + 1;
        }
    if (*text)
        *text++ = 0;
    return text;
}

static int is(const char *field, const char *text, size_t length)
{
    return strlen(field) == length && !memcmp(field, text, length);
}

static void copy(char *to, size_t size, const char *from)
{
    to[0] = 0;
    append(to, size, from);
}

/* Fill `user` from the line whose name, or number, is `text`. */
static int look_up_user(const char *text, size_t length, struct user *user)
{
    int64_t uid, gid, number = parse_number(text, length);
    char *fields[7], *next = load("/etc/passwd");

    while (next && (next = cut(next, fields, 7))) {
        uid = parse_number(fields[2], strlen(fields[2]));
        gid = parse_number(fields[3], strlen(fields[3]));
        if (uid < 0 || gid < 0 || !(is(fields[0], text, length) || uid == number))
            continue;
        user->uid = (uint32_t)uid;
        user->gid = (uint32_t)gid;
        copy(user->name, sizeof user->name, fields[0]);
        copy(user->home, sizeof user->home, fields[5]);
        copy(user->shell, sizeof user->shell, fields[6]);
        return 0;
    }
    if (number < 0)
        return -ENOENT;
    user->uid = (uint32_t)number;
    user->gid = 0;
    copy(user->home, sizeof user->home, number ? "/" : "/root");
    copy(user->shell, sizeof user->shell, "/bin/sh");
    copy(user->name, sizeof user->name, number ? "" : "root");
    return 0;
}

static int look_up_group(const char *text, uint32_t *gid)
{
    int64_t number = parse_number(text, strlen(text));
    char *fields[4], *next = number < 0 ? load("/etc/group") : NULL;

    while (next && (next = cut(next, fields, 4)))
        if (same(fields[0], text))
            number = parse_number(fields[2], strlen(fields[2]));
    *gid = (uint32_t)number;
    return number < 0 ? -ENOENT : 0;
}

/* "USER" or "USER:GROUP"; NULL: who the agent is. */
int find_user(const char *text, struct user *user)
{
    char number[16] = "";
    size_t length = 0;
    int error;

    if (!text) {
        append_number(number, sizeof number, (uint64_t)CALL(getuid, 0));
        return look_up_user(number, strlen(number), user);
    }
    while (text[length] && text[length] != ':')
        length++;
    error = look_up_user(text, length, user);
    return !error && text[length] ? look_up_group(text + length + 1, &user->gid) : error;
}

static int has_member(const char *members, const char *name)
{
    size_t length;

    for (; *members; members += length + (members[length] == ',')) {
        for (length = 0; members[length] && members[length] != ','; length++)
            ;
        if (*name && is(name, members, length))
            return 1;
    }
    return 0;
}

int become_user(const struct user *user)
{
    uint32_t groups[MOST_GROUPS];
    unsigned count = 0;
    char *fields[4], *next = load("/etc/group");
    int64_t gid;
    long error = 0;

    while (next && (next = cut(next, fields, 4)) && count < MOST_GROUPS) {
        gid = parse_number(fields[2], strlen(fields[2]));
        if (gid >= 0 && has_member(fields[3], user->name))
            groups[count++] = (uint32_t)gid;
    }
    /* Who is this user already may say so. */
    if (!CALL(getuid, 0) || CALL(getuid, 0) != user->uid)
        error = CALL(setgroups, count, groups);
    if (!error && CALL(getgid, 0) != user->gid)
        error = CALL(setgid, user->gid);
    if (!error)
        error = CALL(setuid, user->uid);
    return (int)error;
}
