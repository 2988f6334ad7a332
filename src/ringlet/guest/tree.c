/* Trees as one stream: a record for each file, its content in chunks, a directory's files and then
   a record of zeros.  A chunk is a word, its length, and that many bytes; an empty one is the
   end. */
#include "agent.h"

enum { FLAG_NOFOLLOW = 0x100, BUFFER = 131072, DEEPEST = 400 };

static char buffer[BUFFER];
static size_t at, end;
static int named; /* the file of the error */

/* --- from the guest */

static int flush(void)
{
    long error = write_all(1, buffer, end);

    end = 0;
    return error < 0 ? (int)error : 0;
}

static int put(const void *data, size_t size)
{
    int error = 0;

    if (BUFFER - end < size)
        error = flush();
    memcpy(buffer + end, data, size);
    end += size;
    return error;
}

static int put_content(int fd)
{
    uint32_t length;
    long got = 0;
    int error = 0;

    do {
        if (BUFFER - end < 8192)
            error = flush();
        if (error)
            return error;
        got = CALL(read, fd, buffer + end + 4, BUFFER - end - 4);
        if (got == -EINTR)
            continue;
        if (got < 0)
            return (int)got;
        length = (uint32_t)got;
        memcpy(buffer + end, &length, 4);
        end += 4 + length;
    } while (got);
    return 0;
}

static int pack(int directory, const char *name, int depth)
{
    static char record[ENTRY_SIZE + 2 * PATH_MAX];
    struct entry entry;
    struct names names = {.fd = -1};
    const char *inner;
    long length = make_entry(directory, name, 0, record);
    int error, kind, plain;

    if (length == -ENOENT && depth)
        return 0; /* removed meanwhile */
    name_in_report(name);
    if (length < 0)
        return (int)length;
    memcpy(&entry, record, sizeof entry);
    kind = entry.mode & S_IFMT;
    plain = kind == S_IFREG;
    if (plain || kind == S_IFDIR) {
        if (depth > DEEPEST)
            return -ENAMETOOLONG;
        names.fd = (int)CALL(openat, directory, name,
                             O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC
                             | (plain ? 0 : O_DIRECTORY), 0);
        if (names.fd < 0)
            return names.fd == -ENOENT && depth ? 0 : names.fd;
    }
    error = put(record, (size_t)length);
    if (!error && plain)
        error = put_content(names.fd);
    if (kind == S_IFDIR) {
        while (!error && (inner = next_name(&names)))
            error = pack(names.fd, inner, depth + 1);
        if (!error && names.end < 0)
            error = (int)names.end;
        memset(&entry, 0, sizeof entry);
        if (!error)
            error = put(&entry, sizeof entry);
    }
    if (names.fd >= 0)
        CALL(close, names.fd);
    return error;
}

int copy_out(const struct wanted *wanted)
{
    int error = pack(AT_FDCWD_, field(wanted, T_PATH), 0);

    return error ? error : flush();
}

/* --- to the guest */

/* At least `size` bytes at buffer + at, or an error: the host has ended too early. */
static int want(size_t size)
{
    long got;

    if (size > BUFFER)
        return -EINVAL;
    if (at == end)
        at = end = 0;
    if (BUFFER - at < size) {
        memmove(buffer, buffer + at, end - at);
        end -= at;
        at = 0;
    }
    while (end - at < size) {
        got = CALL(read, 0, buffer + end, BUFFER - end);
        if (got == -EINTR)
            continue;
        if (got <= 0)
            return got ? (int)got : -EPIPE;
        end += (size_t)got;
    }
    return 0;
}

static int take_content(int fd)
{
    uint32_t length;
    size_t part;
    long error;

    for (;;) {
        if ((error = want(4)))
            return (int)error;
        memcpy(&length, buffer + at, 4);
        at += 4;
        if (!length)
            return 0;
        for (; length; length -= (uint32_t)part, at += part) {
            if (at == end && (error = want(1)))
                return (int)error;
            part = end - at < length ? end - at : length;
            if (fd >= 0 && (error = write_all(fd, buffer + at, part)) < 0)
                return (int)error;
        }
    }
}

struct place { int directory; const char *name; int root; const struct request *request; };

static int set_owner(const struct place *place)
{
    if (!(place->request->flags & F_OWNER))
        return 0;
    return (int)CALL(fchownat, place->directory, place->name, place->request->uid,
                     place->request->gid, FLAG_NOFOLLOW);
}

static int set_time(const struct place *place, const struct entry *entry)
{
    struct __kernel_timespec times[2] = {{entry->seconds, entry->nanoseconds},
                                         {entry->seconds, entry->nanoseconds}};

    return (int)CALL(utimensat, place->directory, place->name, times, FLAG_NOFOLLOW);
}

static int take_file(const struct place *place, const struct entry *entry)
{
    long error, fd = CALL(openat, place->directory, place->name,
                          O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return (int)fd;
    error = take_content((int)fd);
    if (!error)
        error = set_owner(place);
    if (!error)
        error = CALL(fchmod, fd, entry->mode & 07777);
    CALL(close, fd);
    return (int)error;
}

static int unpack(int directory, const char *name, int root, const struct request *request,
                  int depth);

static int take_directory(const struct place *place, const struct entry *entry, int depth)
{
    long error = CALL(mkdirat, place->directory, place->name, 0700);
    int fd;

    if (error && error != -EEXIST)
        return (int)error;
    if (depth > DEEPEST)
        return -ENAMETOOLONG;
    fd = (int)CALL(openat, place->directory, place->name,
                   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    do
        error = unpack(fd, NULL, place->root < 0 ? fd : place->root, place->request, depth + 1);
    while (!error);
    if (error == 1) /* the end of the directory */
        error = set_owner(place);
    if (!error)
        error = CALL(fchmod, fd, entry->mode & 07777);
    CALL(close, fd);
    return (int)error;
}

static int take_entry(const struct place *place, const struct entry *entry, const char *target,
                      int depth)
{
    uint32_t kind = entry->mode & S_IFMT;
    long error = 0;

    if (kind != S_IFDIR)
        error = CALL(unlinkat, place->directory, place->name, 0);
    if (error && error != -ENOENT)
        return (int)error;
    if (kind == S_IFREG && entry->target_length)
        return place->root < 0 ? -EINVAL
            : (int)CALL(linkat, place->root, target, place->directory, place->name, 0);
    switch (kind) {
    case S_IFREG:
        error = take_file(place, entry);
        break;
    case S_IFDIR:
        error = take_directory(place, entry, depth);
        break;
    case S_IFLNK:
        error = CALL(symlinkat, target, place->directory, place->name);
        if (!error)
            error = set_owner(place);
        break;
    case S_IFIFO:
        error = CALL(mknodat, place->directory, place->name, entry->mode & (S_IFMT | 07777), 0);
        if (!error)
            error = set_owner(place);
        break;
    default:
        return -EINVAL;
    }
    return error ? (int)error : set_time(place, entry);
}

/* One record, with all that belongs to it; 1: it ends a directory.  `name`: in place of its own. */
static int unpack(int directory, const char *name, int root, const struct request *request,
                  int depth)
{
    struct entry entry;
    char own[NAME_MAX + 1], target[PATH_MAX];
    struct place place = {directory, name ? name : own, root, request};
    size_t i;
    int error = want(ENTRY_SIZE);

    if (error)
        return error;
    memcpy(&entry, buffer + at, sizeof entry);
    at += ENTRY_SIZE;
    if (!entry.mode)
        return 1;
    if (entry.name_length >= sizeof own || entry.target_length >= sizeof target
        || (error = want((size_t)entry.name_length + entry.target_length)))
        return error ? error : -ENAMETOOLONG;
    memcpy(own, buffer + at, entry.name_length);
    own[entry.name_length] = 0;
    at += entry.name_length;
    memcpy(target, buffer + at, entry.target_length);
    target[entry.target_length] = 0;
    at += entry.target_length;
    for (i = 0; i < entry.name_length; i++)
        if (own[i] == '/')
            return -EINVAL;
    if (!own[0] || same(own, ".") || same(own, ".."))
        return -EINVAL;
    error = take_entry(&place, &entry, target, depth);
    if (error < 0 && !named)
        name_in_report(place.name);
    named |= error < 0;
    return error;
}

/* The last part of `path`, which is cut before it. */
static char *split(char *path)
{
    size_t length = strlen(path);

    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
    while (length && path[length - 1] != '/')
        length--;
    return path + length;
}

/* Into the directory T_PATH, or as T_PATH if there is no such directory. */
int copy_in(const struct wanted *wanted)
{
    char path[PATH_MAX] = "", parent[PATH_MAX] = "";
    char *name = NULL;
    int error;
    long fd = CALL(open, field(wanted, T_PATH), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd < 0) {
        if (!append(path, sizeof path, field(wanted, T_PATH)))
            return -ENAMETOOLONG;
        name = split(path);
        memcpy(parent, path, (size_t)(name - path));
        if (parent[0] && wanted->request.flags & F_RECURSIVE
            && (error = make_directories(parent, 0777)))
            return error;
        fd = CALL(open, parent[0] ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    }
    if (fd < 0)
        return (int)fd;
    error = unpack((int)fd, name, -1, &wanted->request, 0);
    return error == 1 ? -EINVAL : error;
}
