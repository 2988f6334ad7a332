/* Operations on single files and directories, each in a child of its own: 0 is standard input,
   1 standard output.  An error is returned as a negative number. */
#include "agent.h"

enum { FLAG_NOFOLLOW = 0x100, FLAG_REMOVEDIR = 0x200, BUFFER = 131072, RETRIES = 100 };

char report_text[MAX_TEXT];
static char buffer[BUFFER];

void name_in_report(const char *name)
{
    report_text[0] = 0;
    append(report_text, sizeof report_text, name);
}

void entry_of(struct entry *entry, const struct stat *stat)
{
    memset(entry, 0, sizeof *entry);
    entry->mode = stat->st_mode;
    entry->uid = stat->st_uid;
    entry->gid = stat->st_gid;
    entry->links = (uint32_t)stat->st_nlink;
    entry->size = (uint64_t)stat->st_size;
    entry->seconds = (int64_t)stat->st_mtime;
    entry->nanoseconds = (uint32_t)stat->st_mtime_nsec;
    entry->inode = stat->st_ino;
    entry->device = stat->st_dev;
    entry->special = stat->st_rdev;
}

/* The record of a file with its name and target, at most ENTRY_SIZE + 2 * PATH_MAX bytes. */
long make_entry(int directory, const char *name, int follow, char *record)
{
    struct stat stat;
    struct entry entry;
    size_t length = strlen(name);
    long got = CALL(newfstatat, directory, name, &stat, follow ? 0 : FLAG_NOFOLLOW);

    if (got < 0)
        return got;
    if (length >= PATH_MAX)
        return -ENAMETOOLONG;
    entry_of(&entry, &stat);
    entry.name_length = (uint16_t)length;
    memcpy(record + ENTRY_SIZE, name, length);
    if ((entry.mode & S_IFMT) == S_IFLNK) {
        got = CALL(readlinkat, directory, name, record + ENTRY_SIZE + length, PATH_MAX);
        if (got < 0)
            return got;
        entry.target_length = (uint16_t)got;
    }
    memcpy(record, &entry, sizeof entry);
    return (long)(ENTRY_SIZE + length + entry.target_length);
}

/* --- reading */

static int copy(int from, int to, uint64_t *copied)
{
    long got;

    while ((got = CALL(read, from, buffer, sizeof buffer))) {
        if (got == -EINTR)
            continue;
        if (got < 0)
            return (int)got;
        *copied += (uint64_t)got;
        if ((got = write_all(to, buffer, (size_t)got)) < 0)
            return (int)got;
    }
    return 0;
}

static int read_operation(const char *path)
{
    uint64_t copied = 0;
    long fd = CALL(open, path, O_RDONLY | O_CLOEXEC, 0);

    return fd < 0 ? (int)fd : copy((int)fd, 1, &copied);
}

static int stat_operation(const char *path, int follow)
{
    long length = make_entry(AT_FDCWD_, path, follow, buffer);

    if (length >= 0)
        length = write_all(1, buffer, (size_t)length);
    return length < 0 ? (int)length : 0;
}

static int list_operation(const char *path)
{
    static struct names names;
    const char *name;
    long length, used = 0, fd = CALL(open, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd < 0)
        return (int)fd;
    names.fd = (int)fd;
    while ((name = next_name(&names))) {
        length = make_entry(names.fd, name, 0, buffer + used);
        if (length == -ENOENT)
            continue; /* removed meanwhile */
        if (length < 0)
            return (int)length;
        used += length;
        if (used > BUFFER - ENTRY_SIZE - 2 * PATH_MAX) {
            if ((length = write_all(1, buffer, (size_t)used)) < 0)
                return (int)length;
            used = 0;
        }
    }
    if (names.end < 0)
        return (int)names.end;
    length = write_all(1, buffer, (size_t)used);
    return length < 0 ? (int)length : 0;
}

/* --- writing */

/* What is written takes the name only when it is whole. */
static int write_beside(char *path, int have_old, const struct stat *old,
                        const struct request *request, int *made)
{
    struct { uint64_t handler, flags, restorer, mask; } ignored = {1, 0, 0, 0};
    char beside[PATH_MAX] = "";
    uint64_t copied = 0;
    uint32_t mode = have_old ? old->st_mode & 07777 : 0644;
    long fd, error;

    if (!append(beside, sizeof beside, path) || !append(beside, sizeof beside, ".ringlet-")
        || !append_number(beside, sizeof beside, (uint64_t)CALL(getpid, 0)))
        return -ENAMETOOLONG;
    /* Who gives up closes the input, so that what is not whole is removed again. */
    CALL(rt_sigaction, SIGTERM, &ignored, 0, 8);
    fd = CALL(open, beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    *made = fd >= 0;
    if (fd < 0)
        return (int)fd; /* perhaps it can be written in place */
    error = copy(0, (int)fd, &copied);
    if (!error && copied != request->size)
        error = -EPIPE; /* the host went away */
    if (!error && request->flags & F_OWNER)
        error = CALL(fchown, fd, request->uid, request->gid);
    else if (!error && have_old)
        CALL(fchown, fd, old->st_uid, old->st_gid); /* who may not keeps the content at least */
    if (!error)
        error = CALL(fchmod, fd, request->flags & F_MODE ? request->mode & 07777 : mode);
    CALL(close, fd);
    if (!error)
        error = CALL(rename, beside, path);
    if (error)
        CALL(unlink, beside);
    return (int)error;
}

static int write_into(const char *path, const struct request *request)
{
    uint64_t copied = 0;
    long error, fd = CALL(open, path, O_WRONLY | O_TRUNC | O_CLOEXEC, 0);

    if (fd < 0)
        return (int)fd;
    error = copy(0, (int)fd, &copied);
    if (!error && request->flags & F_OWNER)
        error = CALL(fchown, fd, request->uid, request->gid);
    if (!error && request->flags & F_MODE)
        error = CALL(fchmod, fd, request->mode & 07777);
    return (int)error;
}

/* Where links lead, as far as /proc tells. */
static void follow_links(const char *path, char *real)
{
    char link[40] = "/proc/self/fd/";
    long got, fd = CALL(open, path, O_PATH | O_CLOEXEC, 0);

    real[0] = 0;
    if (fd >= 0) {
        append_number(link, sizeof link, (uint64_t)fd);
        got = CALL(readlink, link, real, PATH_MAX - 1);
        real[got < 0 ? 0 : got] = 0;
        CALL(close, fd);
    }
    if (!real[0])
        append(real, PATH_MAX, path);
}

static int write_operation(const char *path, const struct request *request)
{
    char real[PATH_MAX];
    struct stat old;
    int error, made = 0, have_old = !CALL(stat, path, &old);

    if (have_old && (old.st_mode & S_IFMT) != S_IFREG)
        return write_into(path, request);
    follow_links(path, real);
    error = write_beside(real, have_old, &old, request, &made);
    /* /proc and /sys have files to write, and a directory may be closed. */
    return error && !made && have_old ? write_into(path, request) : error;
}

int make_directories(char *path, uint32_t mode)
{
    struct stat stat;
    long error = 0;
    char *at, was;

    for (at = path + 1; !error; at++) {
        if (*at && *at != '/')
            continue;
        was = *at;
        *at = 0;
        error = CALL(mkdir, path, was ? 0777 : mode);
        if (error == -EEXIST || error == -EROFS || error == -EACCES)
            error = CALL(stat, path, &stat) ? error
                : (stat.st_mode & S_IFMT) == S_IFDIR ? 0 : -ENOTDIR;
        *at = was;
        if (!was)
            break;
    }
    return (int)error;
}

static int mkdir_operation(const char *path, const struct request *request)
{
    char text[PATH_MAX] = "";
    uint32_t mode = request->flags & F_MODE ? request->mode & 07777 : 0777;
    long error;

    if (!append(text, sizeof text, path) || !path[0])
        return -ENOENT;
    error = request->flags & F_RECURSIVE ? make_directories(text, mode) : CALL(mkdir, path, mode);
    if (!error && request->flags & F_MODE)
        error = CALL(chmod, path, mode);
    if (!error && request->flags & F_OWNER)
        error = CALL(chown, path, request->uid, request->gid);
    return (int)error;
}

/* --- removing */

static int remove_level(int directory, const char *name, int depth)
{
    struct names names = {.at = 0, .end = 0};
    const char *inner;
    long error = CALL(unlinkat, directory, name, 0);
    int tries;

    if (error != -EISDIR && error != -EPERM)
        return (int)error;
    error = depth > 400 ? -ENAMETOOLONG
        : CALL(openat, directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (error < 0)
        return (int)error;
    names.fd = (int)error;
    error = -ENOTEMPTY;
    for (tries = 0; tries < RETRIES && error == -ENOTEMPTY; tries++) {
        CALL(lseek, names.fd, 0, 0);
        names.at = names.end = 0;
        error = 0;
        while (!error && (inner = next_name(&names)))
            error = remove_level(names.fd, inner, depth + 1);
        if (!error || error == -ENOENT)
            error = CALL(unlinkat, directory, name, FLAG_REMOVEDIR);
    }
    CALL(close, names.fd);
    return (int)error;
}

int remove_tree(int directory, const char *name)
{
    return remove_level(directory, name, 0);
}

static int remove_operation(const char *path, int recursive)
{
    long error;

    if (recursive)
        return remove_tree(AT_FDCWD_, path);
    error = CALL(unlink, path);
    return (int)(error == -EISDIR ? CALL(rmdir, path) : error);
}

int file_operation(const struct wanted *wanted)
{
    const struct request *request = &wanted->request;
    const char *path = field(wanted, T_PATH), *target = field(wanted, T_TARGET);

    if (request->operation == OP_SYNC)
        return (int)CALL(sync, 0);
    if (!path)
        return -EINVAL;
    name_in_report(path);
    switch (request->operation) {
    case OP_READ:
        return read_operation(path);
    case OP_WRITE:
        return write_operation(path, request);
    case OP_STAT:
        return stat_operation(path, request->flags & F_FOLLOW);
    case OP_LIST:
        return list_operation(path);
    case OP_MKDIR:
        return mkdir_operation(path, request);
    case OP_REMOVE:
        return remove_operation(path, request->flags & F_RECURSIVE);
    case OP_RENAME:
        return target ? (int)CALL(rename, path, target) : -EINVAL;
    case OP_SYMLINK:
        return target ? (int)CALL(symlink, target, path) : -EINVAL;
    case OP_COPY_IN:
        return copy_in(wanted);
    case OP_COPY_OUT:
        return copy_out(wanted);
    }
    return -ENOSYS;
}
