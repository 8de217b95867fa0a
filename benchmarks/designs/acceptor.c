/* A thread that accepts and deals connections out in turn to loops, one for each further thread; a connection stays with
 * its loop. */
#define _GNU_SOURCE
#include "design.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256 };

static void *serve(void *set)
{
    struct epoll_event events[EVENTS];
    for (int n; (n = epoll_wait((int)(intptr_t)set, events, EVENTS, -1)) >= 0 || errno == EINTR;)
        for (int i = 0; i < n; i++)
            echo(events[i].data.fd);
    return NULL;
}

static void design(int listener)
{
    int *sets = calloc(settings.threads, sizeof *sets);
    pthread_t thread;
    for (unsigned i = 0; i < settings.threads; i++)
        if (!sets || (sets[i] = epoll_create1(EPOLL_CLOEXEC)) < 0 ||
            pthread_create(&thread, NULL, serve, (void *)(intptr_t)sets[i]))
            perror("threads"), exit(1);
    fcntl(listener, F_SETFL, 0); /* accept(2) is to block */
    for (unsigned turn = 0;; turn++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = take(listener, SOCK_NONBLOCK)};
        if (event.data.fd < 0)
            usleep(10000); /* full, or shut down */
        else if (epoll_ctl(sets[turn % settings.threads], EPOLL_CTL_ADD, event.data.fd, &event))
            perror("epoll_ctl"), exit(1);
    }
}

int main(int argc, char **argv) { return run_design(argc, argv, false, design); }
