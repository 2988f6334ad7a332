/* UDP ports of the host that lead to the guest (datagrams.c). */
#ifndef DATAGRAMS_H
#define DATAGRAMS_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct ends {
    uint8_t guest_mac[6];
    struct in_addr gateway, guest;
    struct in6_addr gateway6, guest6;
    size_t mtu;
    void (*send)(const void *frame, size_t length); /* a frame to the guest */
};

/* Open a port; return -1 with errno if the host refuses. */
int datagrams_open(const struct ends *ends, const struct sockaddr_storage *host, int guest_port);

/* Add what is to be polled from `polled` on; return how many. */
int datagrams_poll(struct pollfd *polled, int room);

/* Pass on what has arrived at the first `count` ports. */
void datagrams_receive(const struct pollfd *polled, int count);

/* Pass on the guest's answer, if this frame is one: hostile input. */
bool datagrams_answer(const uint8_t *frame, size_t length);

#endif
