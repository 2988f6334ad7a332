/* An engine of user-mode networking: libslirp behind a stream socket with QEMU's framing.

   A process of its own, because libslirp parses what a hostile guest sends.  It is given a
   connected socket, opens the host's ports, and then gives up what it does not need: privileges,
   files, programs, other processes.  libslirp is loaded when it runs; building needs no package.

       slirp fd=N mtu=N mac=XX:XX:XX:XX:XX:XX ipv4=NETWORK/24,GATEWAY,DNS,GUEST
             [ipv6=PREFIX/64,GATEWAY,DNS,GUEST] [host]
             [tcp=HOST,PORT,PORT ...] [udp=HOST,PORT,PORT ...]

   `host`: the gateway's address leads to the host's loopback.  The program ends with status 0 when
   the socket is closed, and otherwise with a line on standard error (engines.py starts it). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "datagrams.h"

enum {
    NO_LIBRARY = 3,          /* exit status: libslirp is not installed */
    MAX_FRAME = 65535 + 14,  /* an IP packet and its Ethernet header */
    INPUT = 4 * 65536,
    OUTPUT = 16 * 65536,  /* frames that the guest has not taken yet; more are dropped */
    ENOUGH = OUTPUT / 2,  /* with so many bytes waiting, the host's sockets are left alone */
    FILES = 1024,         /* hence connections of a guest */
    MEMORY = 512 << 20,
    TIMERS = 8,
    NOBODY = 65534,
};

/* --- libslirp's interface, as of its version 4.1 (SlirpConfig version 1) */

typedef struct Slirp Slirp;

struct config {
    uint32_t version;
    int restricted;
    bool in_enabled;
    struct in_addr vnetwork, vnetmask, vhost;
    bool in6_enabled;
    struct in6_addr vprefix_addr6;
    uint8_t vprefix_len;
    struct in6_addr vhost6;
    const char *vhostname, *tftp_server_name, *tftp_path, *bootfile;
    struct in_addr vdhcp_start, vnameserver;
    struct in6_addr vnameserver6;
    const char **vdnssearch;
    const char *vdomainname;
    size_t if_mtu, if_mru;
    bool disable_host_loopback, enable_emu;
};

struct callbacks {
    ssize_t (*send_packet)(const void *, size_t, void *);
    void (*guest_error)(const char *, void *);
    int64_t (*clock_get_ns)(void *);
    void *(*timer_new)(void (*)(void *), void *, void *);
    void (*timer_free)(void *, void *);
    void (*timer_mod)(void *, int64_t, void *);
    void (*register_poll_fd)(int, void *);
    void (*unregister_poll_fd)(int, void *);
    void (*notify)(void *);
};

enum { CAN_READ = 1, CAN_WRITE = 2, URGENT = 4, FAILED = 8, HUNG_UP = 16 }; /* SLIRP_POLL_ */

static Slirp *(*slirp_new)(const struct config *, const struct callbacks *, void *);
static void (*slirp_pollfds_fill)(Slirp *, uint32_t *, int (*)(int, int, void *), void *);
static void (*slirp_pollfds_poll)(Slirp *, int, int (*)(int, void *), void *);
static void (*slirp_input)(Slirp *, const uint8_t *, int);
static int (*slirp_add_hostfwd)(Slirp *, int, struct in_addr, int, struct in_addr, int);
static int (*slirp_add_hostxfwd)(Slirp *, const struct sockaddr *, socklen_t,
                                 const struct sockaddr *, socklen_t, int);
enum { FORWARD_V6ONLY = 2 };

static _Noreturn void fail(int status, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(status);
}

static void load_library(void)
{
    void *library = dlopen("libslirp.so.0", RTLD_NOW);
    if (!library)
        fail(NO_LIBRARY, "%s", dlerror());
#define LOAD(name) (name = (__typeof__(name))dlsym(library, #name))
    if (!LOAD(slirp_new) || !LOAD(slirp_pollfds_fill) || !LOAD(slirp_pollfds_poll) ||
        !LOAD(slirp_input) || !LOAD(slirp_add_hostfwd))
        fail(NO_LIBRARY, "libslirp.so.0 is older than 4.1");
    LOAD(slirp_add_hostxfwd); /* from 4.5 on */
#undef LOAD
}

/* --- the stream: a frame's length in 4 bytes, big-endian, then the frame */

static int stream;
static uint8_t input[INPUT], output[OUTPUT];
static size_t received, waiting, sent;

static void flush_output(void)
{
    while (sent < waiting) {
        ssize_t n = send(stream, output + sent, waiting - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            exit(0); /* the other side is gone */
        sent += n;
    }
    sent = waiting = 0;
}

static ssize_t send_packet(const void *frame, size_t length, void *unused)
{
    if (length > MAX_FRAME)
        return length;
    if (OUTPUT - waiting < length + 4 && sent) {
        memmove(output, output + sent, waiting - sent);
        waiting -= sent;
        sent = 0;
    }
    if (OUTPUT - waiting < length + 4)
        return length; /* dropped, as a switch does whose port is busy */
    uint32_t head = htonl(length);
    memcpy(output + waiting, &head, 4);
    memcpy(output + waiting + 4, frame, length);
    waiting += length + 4;
    return length;
}

static void send_frame(const void *frame, size_t length)
{
    send_packet(frame, length, NULL);
}

static void take_input(Slirp *slirp)
{
    ssize_t n = recv(stream, input + received, INPUT - received, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        exit(0);
    received += n;
    size_t at = 0;
    while (received - at >= 4) {
        uint32_t length;
        memcpy(&length, input + at, 4);
        length = ntohl(length);
        if (length > MAX_FRAME)
            fail(1, "a frame of %u bytes", length);
        if (received - at - 4 < length)
            break;
        if (!datagrams_answer(input + at + 4, length))
            slirp_input(slirp, input + at + 4, length);
        at += 4 + length;
    }
    memmove(input, input + at, received - at);
    received -= at;
}

/* --- time */

static struct timer {
    void (*ring)(void *);
    void *of;
    int64_t due; /* ms; 0: not set */
} timers[TIMERS];

static int64_t now_ns(void *unused)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *timer_new(void (*ring)(void *), void *of, void *unused)
{
    for (int i = 0; i < TIMERS; i++)
        if (!timers[i].ring) {
            timers[i] = (struct timer){ring, of, 0};
            return &timers[i];
        }
    fail(1, "more than %d timers", TIMERS);
}

static void timer_free(void *timer, void *unused)
{
    *(struct timer *)timer = (struct timer){0};
}

static void timer_mod(void *timer, int64_t due, void *unused)
{
    ((struct timer *)timer)->due = due;
}

static void ring_timers(uint32_t *timeout)
{
    int64_t now = now_ns(NULL) / 1000000;
    for (int i = 0; i < TIMERS; i++) {
        struct timer *t = &timers[i];
        if (t->due && t->due <= now) {
            t->due = 0;
            t->ring(t->of);
        }
        if (t->due && t->due - now < *timeout)
            *timeout = t->due - now;
    }
}

/* --- the host's sockets */

static struct pollfd polled[FILES];
static int used;

static const struct {
    int slirp;
    short host;
} events[] = {{CAN_READ, POLLIN}, {CAN_WRITE, POLLOUT}, {URGENT, POLLPRI}, {FAILED, POLLERR},
              {HUNG_UP, POLLHUP}};
enum { EVENTS = sizeof events / sizeof *events };

static int add_poll(int fd, int wanted, void *unused)
{
    if (used == FILES)
        return -1;
    polled[used] = (struct pollfd){.fd = fd};
    for (int i = 0; i < EVENTS; i++)
        if (wanted & events[i].slirp)
            polled[used].events |= events[i].host;
    return used++;
}

static int get_events(int index, void *unused)
{
    int found = 0;
    for (int i = 0; i < EVENTS && index > 0 && index < used; i++)
        if (polled[index].revents & events[i].host)
            found |= events[i].slirp;
    return found;
}

static void ignore_text(const char *text, void *unused) {}
static void ignore_fd(int fd, void *unused) {}
static void ignore(void *unused) {}

static const struct callbacks callbacks = {
    send_packet, ignore_text, now_ns, timer_new, timer_free, timer_mod, ignore_fd, ignore_fd,
    ignore,
};

static _Noreturn void serve(Slirp *slirp)
{
    for (;;) {
        uint32_t timeout = 1000;
        bool busy = waiting > ENOUGH;
        int ports = 0;
        used = 1;
        if (!busy) {
            ports = datagrams_poll(polled + 1, FILES - 1);
            used += ports;
            slirp_pollfds_fill(slirp, &timeout, add_poll, NULL);
        }
        ring_timers(&timeout);
        flush_output();
        polled[0] = (struct pollfd){.fd = stream, .events = POLLIN | (waiting ? POLLOUT : 0)};
        int ready = poll(polled, used, timeout);
        if (ready < 0 && errno != EINTR)
            fail(1, "poll: %s", strerror(errno));
        if (ready > 0 && polled[0].revents & (POLLIN | POLLHUP | POLLERR))
            take_input(slirp);
        if (!busy) {
            datagrams_receive(polled + 1, ready > 0 ? ports : 0);
            slirp_pollfds_poll(slirp, ready < 0, get_events, NULL);
        }
        flush_output();
    }
}

/* --- ports of the host that lead to the guest */

static void address(const char *text, int port, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (void *)out;
    struct sockaddr_in6 *v6 = (void *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
    } else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
    } else {
        fail(2, "not an address: %s", text);
    }
}

static void forward(Slirp *slirp, const struct ends *ends, const char *given, bool udp)
{
    char text[64];
    int host_port, guest_port, failed;
    if (sscanf(given, "%63[^,],%d,%d", text, &host_port, &guest_port) != 3)
        fail(2, "not a forward: %s", given);
    struct sockaddr_storage host;
    address(text, host_port, &host);
    struct sockaddr_in6 guest6 = {.sin6_family = AF_INET6, .sin6_port = htons(guest_port),
                                  .sin6_addr = ends->guest6};
    errno = 0;
    if (udp)
        failed = datagrams_open(ends, &host, guest_port);
    else if (host.ss_family == AF_INET)
        failed = slirp_add_hostfwd(slirp, 0, ((struct sockaddr_in *)&host)->sin_addr, host_port,
                                   ends->guest, guest_port);
    else if (slirp_add_hostxfwd)
        failed = slirp_add_hostxfwd(slirp, (struct sockaddr *)&host, sizeof(struct sockaddr_in6),
                                    (struct sockaddr *)&guest6, sizeof guest6, FORWARD_V6ONLY);
    else
        fail(2, "this libslirp forwards no TCP ports of IPv6 (4.5 does)");
    if (failed)
        fail(2, "Failed to bind %s port %s %d: %s", udp ? "UDP" : "TCP", text, host_port,
             errno ? strerror(errno) : "refused");
}

/* --- what the process gives up */

static void limit(int resource, rlim_t value)
{
    struct rlimit now;
    getrlimit(resource, &now);
    if (now.rlim_max < value)
        value = now.rlim_max;
    now = (struct rlimit){value, value};
    if (setrlimit(resource, &now))
        fail(1, "setrlimit: %s", strerror(errno));
}

/* Of the file system, only resolv.conf's directories can be read (Landlock; Linux 5.13). */
static void give_up_files(void)
{
    enum { READ = 4, ALL = (1 << 13) - 1, BENEATH = 1 };
    uint64_t handled = ALL;
    int rules = syscall(444, &handled, sizeof handled, 0); /* landlock_create_ruleset */
    if (rules < 0)
        return;
    char path[PATH_MAX];
    const char *places[] = {"/etc", NULL};
    if (realpath("/etc/resolv.conf", path) && strrchr(path, '/') != path) {
        *strrchr(path, '/') = 0;
        places[1] = path;
    }
    for (int i = 0; i < 2; i++) {
        struct __attribute__((packed)) {
            uint64_t allowed;
            int32_t directory;
        } rule = {READ, places[i] ? open(places[i], O_PATH | O_CLOEXEC) : -1};
        if (rule.directory >= 0) {
            syscall(445, rules, BENEATH, &rule, 0); /* landlock_add_rule */
            close(rule.directory);
        }
    }
    if (syscall(446, rules, 0)) /* landlock_restrict_self */
        fail(1, "landlock_restrict_self: %s", strerror(errno));
    close(rules);
}

/* Each rule for a call is skipped, as a whole, if the call is another one. */
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define IF_ANY(bits) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 1, 0)
#define ALLOWED BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define REFUSED BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define KILLED BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define ALLOW(call) UNLESS(__NR_##call, 1), ALLOWED

/* System calls that libslirp, GLib and libc make; any other fails with EPERM. */
static void give_up_calls(void)
{
    static struct sock_filter calls[] = {
        LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), KILLED,
        LOAD(nr),
        ALLOW(poll), ALLOW(ppoll), ALLOW(recvfrom), ALLOW(sendto), ALLOW(recvmsg), ALLOW(sendmsg),
        ALLOW(read), ALLOW(write), ALLOW(readv), ALLOW(writev), ALLOW(close), ALLOW(clock_gettime),
        ALLOW(connect), ALLOW(bind), ALLOW(listen), ALLOW(accept), ALLOW(accept4), ALLOW(shutdown),
        ALLOW(getsockname), ALLOW(getpeername), ALLOW(getsockopt), ALLOW(setsockopt), ALLOW(fcntl),
        ALLOW(stat), ALLOW(fstat), ALLOW(lstat), ALLOW(newfstatat), ALLOW(statx), ALLOW(lseek),
        ALLOW(brk), ALLOW(munmap), ALLOW(mremap), ALLOW(madvise), ALLOW(futex), ALLOW(getrandom),
        ALLOW(gettimeofday), ALLOW(time), ALLOW(getpid), ALLOW(gettid), ALLOW(tgkill), ALLOW(uname),
        ALLOW(rt_sigreturn), ALLOW(rt_sigprocmask), ALLOW(rt_sigaction), ALLOW(restart_syscall),
        ALLOW(exit), ALLOW(exit_group), ALLOW(clock_nanosleep), ALLOW(getuid), ALLOW(geteuid),
        UNLESS(__NR_socket, 6), LOAD(args[0]), /* of the Internet only */
        UNLESS(AF_INET, 1), ALLOWED, UNLESS(AF_INET6, 1), ALLOWED, REFUSED,
        UNLESS(__NR_ioctl, 6), LOAD(args[1]),
        UNLESS(FIONREAD, 1), ALLOWED, UNLESS(FIONBIO, 1), ALLOWED, REFUSED,
        UNLESS(__NR_mmap, 4), LOAD(args[2]), IF_ANY(PROT_EXEC), ALLOWED, REFUSED,
        UNLESS(__NR_openat, 4), LOAD(args[2]), IF_ANY(O_ACCMODE | O_CREAT | O_TRUNC),
        ALLOWED, REFUSED,
        REFUSED,
    };
    struct sock_fprog program = {sizeof calls / sizeof *calls, calls};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        fail(1, "seccomp: %s", strerror(errno));
}

static void confine(void)
{
    if (!geteuid() && !setgroups(0, NULL) && !setresgid(NOBODY, NOBODY, NOBODY))
        (void)!setresuid(NOBODY, NOBODY, NOBODY); /* where the container lets it */
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    if (syscall(SYS_capset, &head, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
        fail(1, "prctl: %s", strerror(errno));
    limit(RLIMIT_NOFILE, FILES);
    limit(RLIMIT_NPROC, 0);
    limit(RLIMIT_FSIZE, 0);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_DATA, MEMORY);
    give_up_files();
    give_up_calls();
}

static const char *value(const char *option, const char *name)
{
    size_t length = strlen(name);
    return strncmp(option, name, length) ? NULL : option + length;
}

static void networks(struct config *config, struct ends *ends, const char *text)
{
    char a[4][64];
    const char *six = value(text, "ipv6=");
    if (sscanf(six ? six : text + 5, six ? "%63[^/]/64,%63[^,],%63[^,],%63s"
                                         : "%63[^/]/24,%63[^,],%63[^,],%63s",
               a[0], a[1], a[2], a[3]) != 4)
        fail(2, "not a network: %s", text);
    int family = six ? AF_INET6 : AF_INET;
    if (inet_pton(family, a[0], six ? (void *)&config->vprefix_addr6 : &config->vnetwork) != 1 ||
        inet_pton(family, a[1], six ? (void *)&config->vhost6 : &config->vhost) != 1 ||
        inet_pton(family, a[2], six ? (void *)&config->vnameserver6 : &config->vnameserver) != 1 ||
        inet_pton(family, a[3], six ? (void *)&ends->guest6 : &ends->guest) != 1)
        fail(2, "not a network: %s", text);
    if (six) {
        config->vprefix_len = 64;
        config->in6_enabled = true;
        ends->gateway6 = config->vhost6;
    } else {
        config->vnetmask.s_addr = htonl(0xFFFFFF00);
        config->vdhcp_start = ends->guest;
        config->in_enabled = true;
        ends->gateway = config->vhost;
    }
}

int main(int count, char **options)
{
    struct config config = {.version = 1, .disable_host_loopback = true};
    struct ends ends = {.send = send_frame};
    uint8_t *mac = ends.guest_mac;
    const char *text;
    bool has_mac = false;
    stream = -1;
    for (int i = 1; i < count; i++) {
        if ((text = value(options[i], "fd=")))
            stream = atoi(text);
        else if ((text = value(options[i], "mtu=")))
            config.if_mtu = config.if_mru = ends.mtu = strtoul(text, NULL, 10);
        else if ((text = value(options[i], "mac=")))
            has_mac = sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3,
                             mac + 4, mac + 5) == 6;
        else if (value(options[i], "ipv4=") || value(options[i], "ipv6="))
            networks(&config, &ends, options[i]);
        else if (!strcmp(options[i], "host"))
            config.disable_host_loopback = false;
        else if (!value(options[i], "tcp=") && !value(options[i], "udp="))
            fail(2, "not an option: %s", options[i]);
    }
    if (stream < 0 || !config.in_enabled || !has_mac)
        fail(2, "this program is started by Ringlet");
    signal(SIGPIPE, SIG_IGN);
    load_library();
    Slirp *slirp = slirp_new(&config, &callbacks, NULL);
    if (!slirp)
        fail(1, "libslirp refuses its configuration");
    for (int i = 1; i < count; i++) {
        if ((text = value(options[i], "tcp=")))
            forward(slirp, &ends, text, false);
        else if ((text = value(options[i], "udp=")))
            forward(slirp, &ends, text, true);
    }
    confine();
    serve(slirp);
}
