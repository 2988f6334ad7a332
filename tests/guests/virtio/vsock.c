/* Streams to and from the host by AF_VSOCK:
 *   vsock out PORT BYTES   connect to the host and send bytes; wait until the host has closed
 *   vsock in PORT          connect to the host and count what it sends
 *   vsock echo PORT        serve one stream of the host, sending back what comes
 */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned char buffer[1 << 18];

static void check(int wrong, const char *what)
{
    if (wrong) {
        perror(what);
        exit(1);
    }
}

static void put(int s, long size)
{
    for (long done = 0; done < size;) {
        long n = write(s, buffer + done, size - done);
        check(n < 0, "write");
        done += n;
    }
}

int main(int count, char **words)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST};
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);
    long got, all = 0, sum = 0;

    if (count < 3)
        return 2;
    check(s < 0, "socket");
    address.svm_port = atoi(words[2]);
    for (unsigned i = 0; i < sizeof buffer; i++)
        buffer[i] = i % 251;
    if (!strcmp(words[1], "echo")) {
        address.svm_cid = VMADDR_CID_ANY;
        check(bind(s, (void *)&address, sizeof address) || listen(s, 8), "listen");
        puts("listening");
        fflush(stdout);
        s = accept(s, 0, 0);
        check(s < 0, "accept");
        while ((got = read(s, buffer, sizeof buffer)) > 0)
            put(s, got);
        return 0;
    }
    check(connect(s, (void *)&address, sizeof address), "connect");
    if (!strcmp(words[1], "out")) {
        for (all = atol(words[3]); all > 0; all -= (long)sizeof buffer)
            put(s, all < (long)sizeof buffer ? all : (long)sizeof buffer);
        shutdown(s, SHUT_WR);
    }
    while ((got = read(s, buffer, sizeof buffer)) > 0) {
        all += got;
        for (long i = 0; i < got; i++)
            sum += buffer[i];
    }
    check(got < 0, "read");
    printf("read %ld sum %ld\n", all, sum);
    return 0;
}
