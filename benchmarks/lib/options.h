/* The load generator's command line. */
#ifndef PORTFLEET_OPTIONS_H
#define PORTFLEET_OPTIONS_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

enum mode { CLOSED, OPEN, IDLE, PARTIAL, UNREAD, STORM };

enum { MAX_PIDS = 16 };

struct options {
    enum mode mode;
    struct sockaddr_storage server, source; /* source.ss_family is 0 when the kernel is to choose */
    socklen_t address_length;
    unsigned sources;     /* how many addresses from `source` on */
    unsigned connections; /* for STORM: how many at a time */
    unsigned size, chunk; /* bytes of a request, and of each write of it */
    unsigned buffer; /* SO_RCVBUF and SO_SNDBUF; 0 leaves the kernel's */
    uint32_t first_id;
    double rate, seconds, warmup, grace;
    unsigned timeline_ms;
    int pids[MAX_PIDS], pid_count;
};

/* Parse argv; on a mistake say what is wrong on stderr and exit 2. */
struct options options_parse(int argc, char **argv);

#endif
