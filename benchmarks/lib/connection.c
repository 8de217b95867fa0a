#define _GNU_SOURCE
#include "connection.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

struct options opt;
struct results res;
uint64_t waiting;
unsigned opening;
int epoll;

void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event))
        perror("load: epoll_ctl"), exit(1);
}

void drop(struct connection *c, uint64_t *reason)
{
    ++*reason;
    close(c->fd);
    c->fd = -1;
    waiting -= c->sent - c->received;
    opening -= !c->greeted;
    c->greeted = true;
}

bool send_next(struct connection *c, unsigned length)
{
    char request[1 << 16];
    unsigned begun = (unsigned)(c->sent % opt.size);
    stream_request(request, opt.size, c->id, c->sent / opt.size);
    if (length > opt.size - begun)
        length = opt.size - begun;
    ssize_t n = send(c->fd, request + begun, length, MSG_NOSIGNAL);
    if (n > 0) {
        c->sent += (uint64_t)n;
        waiting += (uint64_t)n;
        res.sent += begun + (unsigned)n == opt.size;
    } else if (n < 0 && errno != EAGAIN) {
        drop(c, &res.reset);
    }
    return n == (ssize_t)length;
}

void send_or_drop(struct connection *c, unsigned length)
{
    if (!send_next(c, length) && c->fd >= 0)
        drop(c, &res.full);
}

void begin(struct connection *c, uint32_t id)
{
    *c = (struct connection){.id = id, .due = now_ns(), .fd = -1};
    int one = 1, type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    opening++;
    if ((c->fd = socket(opt.server.ss_family, type, 0)) < 0)
        perror("load: socket"), exit(1);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (opt.buffer) {
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &opt.buffer, sizeof opt.buffer);
        setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &opt.buffer, sizeof opt.buffer);
    }
    if (opt.source.ss_family) {
        struct sockaddr_storage from = opt.source;
        uint32_t *low = from.ss_family == AF_INET ? &((struct sockaddr_in *)&from)->sin_addr.s_addr
                                                  : &((struct sockaddr_in6 *)&from)->sin6_addr.s6_addr32[3];
        *low = htonl(ntohl(*low) + id % opt.sources);
        /* without this, bind() takes a port for all destinations and 28,000 connections exhaust an address */
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&from, opt.address_length))
            perror("load: bind"), exit(1);
    }
    if (connect(c->fd, (struct sockaddr *)&opt.server, opt.address_length) && errno != EINPROGRESS)
        drop(c, &res.refused);
    else
        watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}
