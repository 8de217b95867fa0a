#define _GNU_SOURCE
#include "design.h"

#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READ = 4096, LINE = 4096, EVENTS = 256, ACCEPTS = 8 };

struct partial {
    char *data;
    size_t length;
};

struct settings settings = {.processes = 1, .threads = 4, .capacity = 19000};
atomic_uint connections;
static struct partial *partials; /* by descriptor */
static int port_of_this_process = -1;

int listen_on_port(void)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)settings.port)};
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* inherited by what it accepts */
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096))
        perror("listen"), exit(3);
    return fd;
}

void handle(const char *line)
{
    if (*line == 'e')
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
}

static enum outcome end(int fd)
{
    free(partials[fd].data);
    partials[fd] = (struct partial){0};
    close(fd);
    connections--;
    return OVER;
}

enum outcome echo(int fd)
{
    char data[LINE + READ];
    struct partial *p = &partials[fd];
    if (p->length)
        memcpy(data, p->data, p->length);
    ssize_t n = read(fd, data + p->length, READ);
    if (n <= 0)
        return n < 0 && errno == EAGAIN ? LATER : end(fd);
    size_t length = p->length + (size_t)n, whole = 0;
    for (char *newline; (newline = memchr(data + whole, '\n', length - whole)); whole = (size_t)(newline - data) + 1)
        handle(data + whole);
    /* a reply that does not fit ends the connection: the load here never has more in flight than a socket holds */
    if ((whole && write(fd, data, whole) != (ssize_t)whole) || length - whole > LINE)
        return end(fd);
    free(p->data);
    *p = (struct partial){0};
    if (length > whole) {
        *p = (struct partial){malloc(length - whole), length - whole};
        if (!p->data)
            return end(fd);
        memcpy(p->data, data + whole, length - whole);
    }
    return MORE;
}

int take(int listener, int flags)
{
    int fd = connections < settings.capacity ? accept4(listener, NULL, NULL, flags | SOCK_CLOEXEC) : -1;
    connections += fd >= 0;
    return fd;
}

_Noreturn void loop(int listener)
{
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = listener};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (bool listening = false;;) {
        if (listening != (connections < settings.capacity) &&
            !epoll_ctl(epoll, listening ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, listener, &event))
            listening = !listening;
        int accepts = 0, n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data.fd != listener)
                echo(events[i].data.fd);
            else if (events[i].events & EPOLLHUP) /* shut down: no more connections for this process */
                epoll_ctl(epoll, EPOLL_CTL_DEL, listener, NULL), listening = true, settings.capacity = ~0u;
            else
                accepts = ACCEPTS;
        for (int fd; accepts && (fd = take(listener, SOCK_NONBLOCK)) >= 0; accepts--) {
            struct epoll_event one = {.events = EPOLLIN, .data.fd = fd};
            if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &one))
                perror("epoll_ctl"), exit(1);
        }
    }
}

static void on_sigterm(int number)
{
    (void)number;
    shutdown(port_of_this_process, SHUT_RD);
}

static unsigned number(const char *text)
{
    char *rest;
    unsigned long value = strtoul(text, &rest, 10);
    if (!*text || *rest || !value || value > 1000000)
        fputs("usage: DESIGN PORT [--processes N] [--threads N] [--capacity N]\n", stderr), exit(2);
    return (unsigned)value;
}

int run_design(int argc, char **argv, bool own_listeners, void (*design)(int listener))
{
    static const struct option FLAGS[] = {
        {"processes", 1, 0, 'p'}, {"threads", 1, 0, 't'}, {"capacity", 1, 0, 'c'}, {0, 0, 0, 0}};
    struct rlimit files;
    for (int flag; (flag = getopt_long(argc, argv, "", FLAGS, NULL)) != -1;)
        switch (flag) {
        case 'p': settings.processes = number(optarg); break;
        case 't': settings.threads = number(optarg); break;
        case 'c': settings.capacity = number(optarg); break;
        default: number("");
        }
    settings.port = number(optind == argc - 1 ? argv[optind] : "");
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    partials = calloc(files.rlim_cur, sizeof *partials);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_sigterm, .sa_flags = SA_RESTART}, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (!own_listeners)
        port_of_this_process = listen_on_port();
    for (unsigned i = 0; settings.processes > 1 && i < settings.processes; i++) {
        if (fork())
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (own_listeners)
            port_of_this_process = listen_on_port();
        design(port_of_this_process);
    }
    if (settings.processes > 1) {
        while (wait(NULL) > 0 || errno == EINTR)
            ;
        return 1;
    }
    if (own_listeners)
        port_of_this_process = listen_on_port();
    design(port_of_this_process);
    return 1;
}
