/* UDP ports of the host that lead to the guest.

   libslirp has a forward of its own.  But what comes from the host's loopback comes from the
   gateway for the guest, and libslirp sends no answer there unless the guest may reach all of the
   loopback.  Here an answer goes to the client that has asked, and nowhere else. */
#include "datagrams.h"

#include <arpa/inet.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    DOORS = 256,    /* ports */
    CLIENTS = 1024, /* whose answers are awaited; the one silent for longest is forgotten */
    BURST = 64,     /* datagrams of a port in a turn */
    ETHERNET = 14,
    IP4 = 20,
    IP6 = 40,
    HEAD = 8,
};

static struct ends ends;
static struct door {
    int socket;
    bool six;
    uint16_t guest_port;
} doors[DOORS];
static int opened;

static struct client {
    const struct door *door; /* NULL: unused */
    struct sockaddr_storage address;
    uint16_t port; /* of the gateway, where the guest sees this client */
    uint64_t last;
} clients[CLIENTS];
static uint64_t turn;
static uint8_t frame[65536 + ETHERNET];

int datagrams_open(const struct ends *given, const struct sockaddr_storage *host, int guest_port)
{
    ends = *given;
    bool six = host->ss_family == AF_INET6;
    int fd = socket(host->ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0 || opened == DOORS ||
        (six && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on)) ||
        bind(fd, (const struct sockaddr *)host,
             six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)))
        return -1;
    doors[opened++] = (struct door){fd, six, guest_port};
    return 0;
}

int datagrams_poll(struct pollfd *polled, int room)
{
    int count = opened < room ? opened : room;
    for (int i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = doors[i].socket, .events = POLLIN};
    return count;
}

static bool port_taken(const struct door *door, uint16_t port)
{
    for (int i = 0; i < CLIENTS; i++)
        if (clients[i].door == door && clients[i].port == port)
            return true;
    return false;
}

static struct client *client_of(const struct door *door, const struct sockaddr_storage *address)
{
    struct client *oldest = clients;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        if (c->door == door && !memcmp(&c->address, address, sizeof *address))
            return c;
        if (c->last < oldest->last)
            oldest = c;
    }
    uint16_t port = ntohs(((const struct sockaddr_in *)address)->sin_port); /* as in sin6_port */
    oldest->door = NULL;
    while (port < 1024 || port_taken(door, port))
        port = port < 1024 ? 1024 : port + 1;
    *oldest = (struct client){door, *address, port, 0};
    return oldest;
}

static uint32_t add(const void *data, size_t length, uint32_t sum)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < length; i++)
        sum += i & 1 ? bytes[i] : bytes[i] << 8;
    return sum;
}

static uint16_t folded(uint32_t sum)
{
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = ~((sum & 0xFFFF) + (sum >> 16)) & 0xFFFF;
    return htons(sum ? sum : 0xFFFF);
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = value >> 8;
    at[1] = value;
}

/* RFC 768 in RFC 791 or RFC 8200; the data is in its place already. */
static void send_to_guest(const struct client *client, size_t length)
{
    bool six = client->door->six;
    uint8_t *ip = frame + ETHERNET, *udp = ip + (six ? IP6 : IP4);
    size_t datagram = HEAD + length;
    memcpy(frame, ends.guest_mac, 6);
    memcpy(frame + 6, "\x52\x55", 2); /* libslirp's address of the gateway */
    memcpy(frame + 8, &ends.gateway, 4);
    put16(frame + 12, six ? 0x86DD : 0x0800);
    put16(udp, client->port);
    put16(udp + 2, client->door->guest_port);
    put16(udp + 4, datagram);
    put16(udp + 6, 0);
    memset(ip, 0, udp - ip);
    uint32_t sum = IPPROTO_UDP + datagram;
    uint16_t check;
    if (six) {
        ip[0] = 0x60;
        put16(ip + 4, datagram);
        ip[6] = IPPROTO_UDP;
        ip[7] = 64;
        memcpy(ip + 8, &ends.gateway6, 16);
        memcpy(ip + 24, &ends.guest6, 16);
        sum = add(ip + 8, 32, sum);
    } else {
        ip[0] = 0x45;
        put16(ip + 2, IP4 + datagram);
        ip[8] = 64;
        ip[9] = IPPROTO_UDP;
        memcpy(ip + 12, &ends.gateway, 4);
        memcpy(ip + 16, &ends.guest, 4);
        check = folded(add(ip, IP4, 0));
        memcpy(ip + 10, &check, 2);
        sum = add(ip + 12, 8, sum);
    }
    check = folded(add(udp, datagram, sum));
    memcpy(udp + 6, &check, 2);
    ends.send(frame, udp + datagram - frame);
}

void datagrams_receive(const struct pollfd *polled, int count)
{
    for (int i = 0; i < count; i++) {
        if (!(polled[i].revents & (POLLIN | POLLERR)))
            continue;
        const struct door *door = &doors[i];
        uint8_t *data = frame + ETHERNET + (door->six ? IP6 : IP4) + HEAD;
        for (int burst = 0; burst < BURST; burst++) {
            struct sockaddr_storage from;
            socklen_t size = sizeof from;
            memset(&from, 0, sizeof from);
            ssize_t n = recvfrom(door->socket, data, frame + sizeof frame - data, MSG_DONTWAIT,
                                 (struct sockaddr *)&from, &size);
            if (n < 0)
                break;
            if (data + n - (frame + ETHERNET) > (ptrdiff_t)ends.mtu)
                continue;
            struct client *client = client_of(door, &from);
            client->last = ++turn;
            send_to_guest(client, n);
        }
    }
}

bool datagrams_answer(const uint8_t *answer, size_t length)
{
    if (length < ETHERNET + IP4 + HEAD)
        return false;
    const uint8_t *ip = answer + ETHERNET, *udp;
    bool six = answer[12] == 0x86 && answer[13] == 0xDD;
    if (six) {
        if (length < ETHERNET + IP6 + HEAD || ip[6] != IPPROTO_UDP ||
            memcmp(ip + 24, &ends.gateway6, 16))
            return false;
        udp = ip + IP6;
    } else {
        bool whole = !(ip[6] & 0x3F) && !ip[7];
        if (answer[12] != 8 || answer[13] || ip[0] != 0x45 || ip[9] != IPPROTO_UDP || !whole ||
            memcmp(ip + 16, &ends.gateway, 4))
            return false;
        udp = ip + IP4;
    }
    size_t datagram = udp[4] << 8 | udp[5];
    if (datagram < HEAD || datagram > (size_t)(answer + length - udp))
        return false;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        if (!c->door || c->door->six != six || c->door->guest_port != (udp[0] << 8 | udp[1]) ||
            c->port != (udp[2] << 8 | udp[3]))
            continue;
        c->last = ++turn;
        sendto(c->door->socket, udp + HEAD, datagram - HEAD, MSG_DONTWAIT | MSG_NOSIGNAL,
               (struct sockaddr *)&c->address,
               six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
        return true;
    }
    return false;
}
