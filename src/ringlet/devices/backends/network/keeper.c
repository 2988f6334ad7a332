/* Runs a program that must end with Ringlet: keeper PROGRAM ARGUMENT ...

   passt ends when its socket is closed, but not if a hostile guest has made it hang.  When standard
   input ends, which it does however Ringlet ends, the program has a second to follow; then it is
   killed.  (A signal at the parent's death, prctl(2), is lost when a program changes its user, as
   passt does when root starts it.)  The keeper ends as the program did. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GRACE = 1000 /* ms */, CANNOT = 127 };

int main(int count, char **words)
{
    if (count < 2)
        return CANNOT;
    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "fork: %s\n", strerror(errno));
        return CANNOT;
    }
    if (!child) {
        int nothing = open("/dev/null", O_RDONLY);
        if (nothing > 0)
            dup2(nothing, 0);
        execv(words[1], words + 1);
        fprintf(stderr, "%s: %s\n", words[1], strerror(errno));
        _exit(CANNOT);
    }
    /* The socket must be the program's alone: the other side sees its end by it. */
    syscall(SYS_close_range, 3, ~0u, 0);
    int ended = syscall(SYS_pidfd_open, child, 0);
    struct pollfd both[2] = {{.fd = 0, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
    while (poll(both, 2, -1) < 0 && errno == EINTR)
        ;
    if (!both[1].revents && poll(both + 1, 1, GRACE) <= 0)
        kill(child, SIGKILL);
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    signal(WTERMSIG(status), SIG_DFL);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* the program may have left a core; no second */
    raise(WTERMSIG(status));
    return CANNOT;
}
