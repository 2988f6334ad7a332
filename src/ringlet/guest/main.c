/* The agent of a guest: carries out the host's requests, which come by one stream.

   agent PATH        a character device, as /dev/virtio-ports/org.ringlet.agent; it may appear later
   agent vsock:PORT  the host's port
   agent fd:NUMBER   an open descriptor; the agent ends with the connection

   It needs no library and no other program.  docs/agent.md describes the protocol. */
#include "agent.h"


enum { AF_VSOCK = 40, SOCK_STREAM = 1, SOCK_CLOEXEC = 02000000, HOST = 2, PAUSE = 100 };

uint64_t given_mask;
struct rlimit64 given_files;

static int usage(void)
{
    static const char text[] = "usage: agent PATH | vsock:PORT | fd:NUMBER\n";

    write_all(2, text, sizeof text - 1);
    return 2;
}

static long connect_vsock(uint32_t port)
{
    struct { uint16_t family, zero; uint32_t port, id; uint8_t flags, rest[3]; }
        address = {AF_VSOCK, 0, port, HOST, 0, {0, 0, 0}};
    long error, fd = CALL(socket, AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return fd;
    error = CALL(connect, fd, &address, sizeof address);
    if (!error)
        return fd;
    CALL(close, fd);
    return error;
}

/* A port of virtio-console by its name, where no udev makes links: by what /sys knows. */
static long open_named_port(const char *name)
{
    static const char class[] = "/sys/class/virtio-ports";
    static struct names ports;
    char path[PATH_MAX], found[128];
    const char *port;
    long fd = CALL(open, class, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd < 0)
        return fd;
    ports.fd = (int)fd;
    ports.at = ports.end = 0;
    fd = -ENOENT;
    while (fd < 0 && (port = next_name(&ports))) {
        path[0] = found[0] = 0;
        append(path, sizeof path, class);
        append(path, sizeof path, "/");
        append(path, sizeof path, port);
        append(path, sizeof path, "/name");
        if (read_file(path, found, sizeof found) <= 0)
            continue;
        found[strlen(found) - 1] = 0; /* a newline */
        path[0] = 0;
        append(path, sizeof path, "/dev/");
        append(path, sizeof path, port);
        if (same(found, name))
            fd = CALL(open, path, O_RDWR | O_NOCTTY | O_CLOEXEC, 0);
    }
    CALL(close, ports.fd);
    return fd;
}

static long open_device(const char *path)
{
    static const char links[] = "/dev/virtio-ports/";
    long fd = CALL(open, path, O_RDWR | O_NOCTTY | O_CLOEXEC, 0);

    return fd == -ENOENT && starts(path, links) ? open_named_port(path + sizeof links - 1) : fd;
}

/* A serial port passes bytes unchanged. */
static void make_raw(long fd)
{
    struct termios settings;

    if (CALL(ioctl, fd, TCGETS, &settings))
        return;
    settings.c_iflag = 0;
    settings.c_oflag = 0;
    settings.c_lflag = 0;
    settings.c_cflag = (settings.c_cflag & CBAUD) | CS8 | CREAD | CLOCAL | CRTSCTS;
    settings.c_cc[VMIN] = 1;
    settings.c_cc[VTIME] = 0;
    CALL(ioctl, fd, TCSETS, &settings);
}

static long open_stream(const char *place, int64_t number)
{
    long fd;

    if (starts(place, "fd:"))
        fd = number;
    else if (starts(place, "vsock:"))
        fd = connect_vsock((uint32_t)number);
    else
        fd = open_device(place);
    if (fd < 0)
        return fd;
    make_raw(fd);
    CALL(fcntl, fd, F_SETFD, FD_CLOEXEC);
    CALL(fcntl, fd, F_SETFL, CALL(fcntl, fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

/* Descriptors 0 to 2 are open, so that none that is opened later gets such a number. */
static void open_standard(void)
{
    long fd;

    do
        fd = CALL(open, "/dev/null", O_RDWR, 0);
    while (fd >= 0 && fd < 3);
    if (fd >= 3)
        CALL(close, fd);
}

/* Children end by a descriptor; a write to a closed pipe is an error; many files; where paths begin
   and what files are allowed do not depend on who starts the agent. */
static long prepare(void)
{
    struct { uint64_t handler, flags, restorer, mask; } ignored = {1, 0, 0, 0};
    uint64_t mask = 1ull << (SIGCHLD - 1);
    struct rlimit64 files;

    open_standard();
    CALL(chdir, "/");
    CALL(umask, 022);
    CALL(rt_sigprocmask, SIG_BLOCK, &mask, &given_mask, 8);
    CALL(rt_sigaction, SIGPIPE, &ignored, 0, 8);
    CALL(rt_sigaction, SIGHUP, &ignored, 0, 8);
    CALL(prlimit64, 0, RLIMIT_NOFILE, 0, &given_files);
    files = given_files;
    files.rlim_cur = files.rlim_max;
    CALL(prlimit64, 0, RLIMIT_NOFILE, &files, 0);
    return CALL(signalfd4, -1, &mask, 8, O_NONBLOCK | O_CLOEXEC);
}

int agent_main(int count, char **arguments, char **variables)
{
    const char *place = count == 2 ? arguments[1] : "";
    const char *digits = starts(place, "fd:") ? place + 3 : place + 6;
    int64_t number = 0;
    long fd, children;

    environment = variables;
    if (starts(place, "fd:") || starts(place, "vsock:"))
        number = parse_number(digits, strlen(digits));
    if (!*place || number < 0)
        return usage();
    wants_shelter = !starts(place, "fd:");
    children = prepare();
    if (children < 0)
        return 1;
    for (;; sleep_milliseconds(PAUSE)) {
        fd = open_stream(place, number);
        if (fd >= 0) {
            serve((int)fd, (int)children);
            CALL(close, fd);
        }
        if (starts(place, "fd:"))
            return fd < 0;
    }
}
