/* The limit: an echo server of newline-terminated requests in C, one thread, one level-triggered epoll set.
 *
 * It does the work of any line server and nothing else: it finds the end of each request, keeps what is partial,
 * answers what is whole, and counts. It keeps no clock, no histogram and no time-outs, so what a daemon spends
 * beyond it is the price of the language and of those. usage: echo_epoll PORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, READ = 4096, ACCEPTS = 8, LIMIT = 65536 };

struct partial {
    char *data;
    size_t length;
};

static struct partial *partials; /* by descriptor; data is NULL where nothing is begun */
static uint64_t requests;

static void end(int fd)
{
    free(partials[fd].data);
    partials[fd] = (struct partial){0};
    close(fd);
}

/* Answer the whole requests in `data`; what follows the last newline is kept. False: the connection is over. */
static int answer(int fd, const char *data, size_t n)
{
    const char *last = memrchr(data, '\n', n);
    size_t whole = last ? (size_t)(last - data) + 1 : 0;
    for (const char *at = data; at < data + whole; at = (const char *)memchr(at, '\n', n) + 1)
        requests++;
    /* a reply that does not fit ends the connection: the load here never has more in flight than a socket holds */
    if (whole && write(fd, data, whole) != (ssize_t)whole)
        return 0;
    struct partial *p = &partials[fd];
    char *rest = NULL;
    if (n > whole) {
        rest = n - whole <= LIMIT ? malloc(n - whole) : NULL;
        if (!rest)
            return 0;
        memcpy(rest, data + whole, n - whole);
    }
    if (p->data)
        free(p->data);
    *p = (struct partial){rest, n - whole};
    return 1;
}

static void serve(int fd)
{
    char data[LIMIT + READ];
    struct partial *p = &partials[fd];
    if (p->length)
        memcpy(data, p->data, p->length);
    ssize_t n = read(fd, data + p->length, READ);
    if (n <= 0 ? n == 0 || errno != EAGAIN : !answer(fd, data, p->length + (size_t)n))
        end(fd);
}

int main(int argc, char **argv)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any};
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    struct rlimit files;
    int one = 1, epoll = epoll_create1(EPOLL_CLOEXEC), listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (argc != 2 || !(at.sin6_port = htons((uint16_t)atoi(argv[1]))))
        fputs("usage: echo_epoll PORT\n", stderr), exit(2);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    partials = calloc(files.rlim_cur, sizeof *partials);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* inherited by what it accepts */
    event.data.fd = listener;
    if (!partials || epoll < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096) ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        perror("echo_epoll"), exit(3);
    for (;;) {
        int accepts = 0, n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data.fd == listener)
                accepts = ACCEPTS;
            else
                serve(events[i].data.fd);
        for (; accepts; accepts--) {
            event.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (event.data.fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event))
                break;
        }
    }
}
