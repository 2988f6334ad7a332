/* What the programs of a row see: a root directory with /proc, /sys, /dev, /tmp and /bench. */
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>

#include "driver.h"

enum { EPERM = 1, NOTHING = -1, PATH = 512, DETACH = 2 };
/* Sockets, and struct ifreq of netdevice(7). */
enum { AF_INET = 2, SOCK_DGRAM = 2, SIOCSIFFLAGS = 0x8914, IFF_UP = 1 };
struct interface {
    char name[16];
    short flags;
    char rest[22];
};

static const char *const devices[] = {"null", "zero", "full", "random", "urandom"};

static long mount(const char *what, const char *where, const char *kind, unsigned long flags,
                  const char *options)
{
    return rt_syscall6(__NR_mount, (long)what, (long)where, (long)kind, (long)flags, (long)options,
                       0);
}

static void write_file(const char *path, const char *text)
{
    long file = check(path, call(__NR_open, (long)path, O_WRONLY, 0));
    check(path, call(__NR_write, file, (long)text, (long)strlen(text)));
    call(__NR_close, file, 0, 0);
}

/* In a user namespace the caller is root, which may mount and change the root directory.  Root of
 * the host may do so where there are no user namespaces. */
void enter_namespaces(long user, long group, const char *work)
{
    char map[64];
    long wanted = CLONE_NEWNS | CLONE_NEWPID | (work ? 0 : CLONE_NEWNET);
    if (call(__NR_unshare, CLONE_NEWUSER | wanted, 0, 0) < 0) {
        long result = call(__NR_unshare, wanted, 0, 0);
        if (result < 0) {
            rt_printf("driver: unshare failed with error %ld: native programs run in a tree of "
                      "their own, for which this host must allow user namespaces\n", -result);
            leave(3);
        }
        return;
    }
    write_file("/proc/self/setgroups", "deny");
    fmt_snprintf(map, sizeof map, "0 %ld 1\n", user);
    write_file("/proc/self/uid_map", map);
    fmt_snprintf(map, sizeof map, "0 %ld 1\n", group);
    write_file("/proc/self/gid_map", map);
}

static const char *below(char *path, const char *tree, const char *name)
{
    if (fmt_snprintf(path, PATH, "%s/%s", tree, name) >= PATH)
        check("a path that long", NOTHING);
    return path;
}

static void make_devices(const char *tree)
{
    char path[PATH], source[PATH];
    check("mount of /dev", mount("tmpfs", below(path, tree, "dev"), "tmpfs", 0, "mode=755"));
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        char name[32];
        fmt_snprintf(name, sizeof name, "dev/%s", devices[i]);
        below(path, tree, name);
        below(source, "", name);
        long file = check(path, call(__NR_open, (long)path, O_WRONLY | O_CREAT, 0666));
        call(__NR_close, file, 0, 0);
        check(source, mount(source, path, NULL, MS_BIND, NULL));
    }
}

/* The descriptors' names, in both worlds. */
static void make_links(void)
{
    call(__NR_symlink, (long)"/proc/self/fd", (long)"/dev/fd", 0);
    call(__NR_symlink, (long)"fd/0", (long)"/dev/stdin", 0);
    call(__NR_symlink, (long)"fd/1", (long)"/dev/stdout", 0);
    call(__NR_symlink, (long)"fd/2", (long)"/dev/stderr", 0);
    call(__NR_mkdir, (long)"/dev/shm", 01777, 0);
    check("mount of /dev/shm", mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777"));
}

void empty_tmp(void)
{
    call(__NR_umount2, (long)"/tmp", DETACH, 0);
    check("mount of /tmp", mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777"));
}

/* Servers of a row are reached on the loopback interface. */
static void start_loopback(void)
{
    struct interface loopback = {"lo", IFF_UP, {0}};
    long socket = check("socket", call(__NR_socket, AF_INET, SOCK_DGRAM, 0));
    check("the loopback interface", call(__NR_ioctl, socket, SIOCSIFFLAGS, (long)&loopback));
    call(__NR_close, socket, 0, 0);
}

/* In a directory entered by chroot alone, a row could make no user namespace of its own. */
static void change_root(const char *tree)
{
    check("chdir", call(__NR_chdir, (long)tree, 0, 0));
    if (call(__NR_pivot_root, (long)".", (long)".", 0) < 0)
        check("chroot", call(__NR_chroot, (long)".", 0, 0));
    else
        check("umount", call(__NR_umount2, (long)".", DETACH, 0));
    check("chdir", call(__NR_chdir, (long)"/", 0, 0));
}

void enter_tree(const char *tree, const char *bench, const char *work)
{
    char path[PATH];
    check("private mounts", mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    check(tree, mount(tree, tree, NULL, MS_BIND, NULL));
    if (work)
        check(work, mount(work, below(path, tree, "mnt"), NULL, MS_BIND, NULL));
    else
        start_loopback();
    make_devices(tree);
    check(bench, mount(bench, below(path, tree, "bench"), NULL, MS_BIND, NULL));
    /* A container may hide parts of /proc, and then the kernel refuses a new one. */
    if (mount("proc", below(path, tree, "proc"), "proc", 0, NULL) == -EPERM)
        check("mount of /proc", mount("/proc", path, NULL, MS_BIND | MS_REC, NULL));
    check("mount of /sys", mount("/sys", below(path, tree, "sys"), NULL, MS_BIND | MS_REC, NULL));
    change_root(tree);
    make_links();
}

void enter_guest(void)
{
    check("mount of /proc", mount("proc", "/proc", "proc", 0, NULL));
    check("mount of /sys", mount("sysfs", "/sys", "sysfs", 0, NULL));
    check("mount of /dev", mount("devtmpfs", "/dev", "devtmpfs", 0, NULL));
    start_loopback();
    make_links();
}
