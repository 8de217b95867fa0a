/* The least that is an instance: one thread, a port, and with "ours" the control socket of docs/control.md. It answers
 * "state" and "status" there, again and again if told so ("every"), every line on its port by PONG, and closes what its
 * client closes. */
#define _GNU_SOURCE
#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char ready[] = "{\"ok\": true, \"state\": \"ready\", \"connections\": 0, \"max_connections\": 100}\n";
static int epoll;

/* Connections over which the answer is repeated, every so many seconds, the next time at `due`. */
#define REPEATED 8
static struct { int fd; double every, due; } repeated[REPEATED];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Repeats what is due; returns the milliseconds until the next is. */
static int repeat(void) {
    double next = 3600, at = now();
    for (int i = 0; i < REPEATED; i++) {
        if (!repeated[i].every) continue;
        if (at >= repeated[i].due) {
            repeated[i].due = at + repeated[i].every;
            if (send(repeated[i].fd, ready, sizeof ready - 1, MSG_NOSIGNAL) < 0) repeated[i].every = 0;
        }
        if (repeated[i].every && repeated[i].due - at < next) next = repeated[i].due - at;
    }
    return (int)(next * 1000) + 1;
}

static void begin(int fd, double every) {
    for (int i = 0; i < REPEATED; i++) {
        if (repeated[i].every) continue;
        repeated[i].fd = fd, repeated[i].every = every, repeated[i].due = now() + every;
        return;
    }
}

static void end(int fd) {
    for (int i = 0; i < REPEATED; i++)
        if (repeated[i].fd == fd) repeated[i].every = 0;
    close(fd);
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) err(1, "epoll_ctl");
}

static int listening(int family, const void *address, socklen_t length) {
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, address, length) || listen(fd, 128)) err(3, "cannot listen");
    watch(fd);
    return fd;
}

int main(int count, char **words) {
    const char *path = getenv("PORTFLEET_CONTROL");
    int port, control = -1, ours = count == 3 && !strcmp(words[2], "ours");
    if (count < 2) errx(2, "usage: quiet PORT [ours]");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(words[1]))};
    port = listening(AF_INET6, &any, sizeof any);
    if (ours && path) {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        strncpy(at.sun_path, path, sizeof at.sun_path - 1);
        unlink(path);
        control = listening(AF_UNIX, &at, sizeof at);
    }
    for (;;) {
        struct epoll_event event;
        char data[4096];
        if (epoll_wait(epoll, &event, 1, repeat()) < 1) continue;
        int fd = event.data.fd;
        if (fd == port || fd == control) {
            int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
            if (client >= 0) watch(client);
            continue;
        }
        ssize_t got = recv(fd, data, sizeof data - 1, 0);
        data[got > 0 ? got : 0] = 0;
        const char *said = data[0] == '{' ? ready : "PONG\n", *every = strstr(data, "\"every\":");
        if (got <= 0 || send(fd, said, strlen(said), MSG_NOSIGNAL) < 0) end(fd);
        else if (every) begin(fd, atof(every + 8));
    }
}
