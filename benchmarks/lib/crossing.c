/* Client and server of the path benchmark in one thread: a packet reaches the socket in the other network namespace, by this
 * CPU, before send() or connect() returns, so that what is timed is the way of packets and no scheduler.
 *
 *   crossing CLIENTS-NETNS SERVER-NETNS PORT...   listens on the ports, then takes orders, a line each:
 *   connect ADDRESS PORT COUNT FIRST   connects from COUNT addresses of 198.18.0.0/15, each closed by a reset
 *   hold ADDRESS PORT                  closes the held connection and makes another
 *   ask COUNT                          sends as many requests of 64 bytes by the held connection, and replies to each
 *
 * Answers with two times in nanoseconds: the median of what was timed, connect() alone or a request and its reply; and the
 * mean of whole turns, for a connect from socket() to the last close(), without the slowest tenth of them, in which other
 * processes had the CPU. Exits with words if a packet got lost.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 100000

static int networks[2], ready, held[2] = {-1, -1};
static uint64_t took[MOST], turns[MOST];

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void enter(int network) {
    if (setns(network, CLONE_NEWNET)) err(1, "setns");
}

static void listen_on(int port) {
    int yes = 1, listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (void *)&to, sizeof to) || listen(listener, 1024)) err(1, "port %d", port);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(ready, EPOLL_CTL_ADD, listener, &event)) err(1, "epoll_ctl");
}

static int accepted(void) {
    struct epoll_event event;
    if (epoll_wait(ready, &event, 1, 5000) != 1) errx(1, "nothing to accept");
    int server = accept4(event.data.fd, NULL, NULL, 0);
    if (server < 0) err(1, "accept");
    return server;
}

static int client_from(uint32_t number) {
    int client = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct linger reset = {1, 0};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc6120001 + number * 31 % 131000)};
    setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(client, (void *)&from, sizeof from)) err(1, "bind");
    return client;
}

static struct sockaddr_in target(const char *address, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) errx(1, "%s: no address", address);
    return to;
}

static int upwards(const void *one, const void *two) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)two;
    return (a > b) - (a < b);
}

static void say(int count) {
    int kept = count - count / 10;
    uint64_t sum = 0;
    qsort(took, (size_t)count, sizeof *took, upwards);
    qsort(turns, (size_t)count, sizeof *turns, upwards);
    for (int i = 0; i < kept; i++) sum += turns[i];
    printf("%lu %.1f\n", took[count / 2], (double)sum / kept);
    fflush(stdout);
}

static void connects(const char *address, int port, int count, uint32_t first) {
    struct sockaddr_in to = target(address, port);
    for (int i = 0; i < count; i++) {
        uint64_t began = now();
        int client = client_from(first + (uint32_t)i);
        uint64_t before = now();
        if (connect(client, (void *)&to, sizeof to)) err(1, "connect");
        took[i] = now() - before;
        int server = accepted();
        close(client);
        close(server);
        turns[i] = now() - began;
    }
    say(count);
}

static void hold(const char *address, int port) {
    struct sockaddr_in to = target(address, port);
    int yes = 1;
    for (int i = 0; i < 2; i++)
        if (held[i] >= 0) close(held[i]);
    held[0] = client_from(0);
    if (connect(held[0], (void *)&to, sizeof to)) err(1, "connect");
    held[1] = accepted();
    setsockopt(held[1], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    puts("held");
    fflush(stdout);
}

static void pass(int from, int to) {
    char bytes[64] = "";
    if (send(from, bytes, sizeof bytes, 0) != sizeof bytes || recv(to, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes)
        err(1, "the held connection");
}

static void asks(int count) {
    for (int i = 0; i < count; i++) {
        uint64_t began = now();
        pass(held[0], held[1]);
        pass(held[1], held[0]);
        turns[i] = took[i] = now() - began;
    }
    say(count);
}

int main(int argc, char **argv) {
    char line[256], address[64];
    int port, count;
    uint32_t first;
    if (argc < 4) errx(2, "usage: crossing CLIENTS-NETNS SERVER-NETNS PORT...");
    for (int i = 0; i < 2; i++)
        if ((networks[i] = open(argv[i + 1], O_RDONLY | O_CLOEXEC)) < 0) err(1, "%s", argv[i + 1]);
    ready = epoll_create1(0);
    enter(networks[1]);
    for (int i = 3; i < argc; i++) listen_on(atoi(argv[i]));
    enter(networks[0]);
    puts("up");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "connect %63s %d %d %u", address, &port, &count, &first) == 4 && count > 0 && count <= MOST)
            connects(address, port, count, first);
        else if (sscanf(line, "hold %63s %d", address, &port) == 2)
            hold(address, port);
        else if (sscanf(line, "ask %d", &count) == 1 && count > 0 && count <= MOST)
            asks(count);
        else
            errx(2, "no order: %s", line);
    }
}
