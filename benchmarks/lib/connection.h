/* One client connection: opening, writing, ending it. What it says is stream.h; when it speaks is load.c. */
#ifndef PORTFLEET_CONNECTION_H
#define PORTFLEET_CONNECTION_H

#include "options.h"
#include "report.h"

#include <stdbool.h>
#include <time.h>

/* `sent` and `received` are bytes of the connection's stream; `due` is the intended time of the request in flight,
 * `next` the number of its next write in the open loop. */
struct connection {
    uint64_t sent, received, due, next;
    int fd;
    uint32_t id;
    bool greeted;
};

/* What the whole run shares. `waiting` is bytes sent and not yet answered, `opening` connections without a reply. */
extern struct options opt;
extern struct results res;
extern uint64_t waiting;
extern unsigned opening;
extern int epoll;

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* epoll_ctl for this connection. */
void watch(struct connection *c, int operation, uint32_t events);

/* Close it, count why, and forget what it still waited for. */
void drop(struct connection *c, uint64_t *reason);

/* Send up to `length` bytes of its stream, not past the end of the request it is in; true when all went out. */
bool send_next(struct connection *c, unsigned length);

/* The same where the socket must have room: else the connection is dropped as full. */
void send_or_drop(struct connection *c, unsigned length);

/* Open it as number `id`; EPOLLOUT tells when it is connected. */
void begin(struct connection *c, uint32_t id);

#endif
