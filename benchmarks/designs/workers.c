/* One edge-triggered epoll set and a pool of workers: a thread waits and queues what is ready, any worker answers it and
 * arms it again (EPOLLONESHOT, so that no two have the same connection). */
#define _GNU_SOURCE
#include "design.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { EVENTS = 256, QUEUE = 32768, ARMED = EPOLLIN | EPOLLET | EPOLLONESHOT }; /* a connection is queued once at most */

static int epoll, queue[QUEUE];
static unsigned first, last;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;

static void *serve(void *unused)
{
    for (enum outcome met;;) {
        pthread_mutex_lock(&lock);
        while (first == last)
            pthread_cond_wait(&work, &lock);
        struct epoll_event event = {.events = ARMED, .data.fd = queue[first++ % QUEUE]};
        pthread_mutex_unlock(&lock);
        while ((met = echo(event.data.fd)) == MORE)
            ;
        if (met == LATER && epoll_ctl(epoll, EPOLL_CTL_MOD, event.data.fd, &event))
            perror("epoll_ctl"), exit(1);
    }
    return unused;
}

static void design(int listener)
{
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.fd = listener};
    pthread_t thread;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < settings.threads; i++)
        if (pthread_create(&thread, NULL, serve, NULL))
            perror("threads"), exit(1);
    for (bool listening = false;;) {
        if (listening != (connections < settings.capacity) &&
            !epoll_ctl(epoll, listening ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, listener, &event))
            listening = !listening;
        int n = epoll_wait(epoll, events, EVENTS, listening ? -1 : 100);
        bool accepting = false;
        pthread_mutex_lock(&lock);
        for (int i = 0; i < n; i++)
            if (events[i].data.fd != listener)
                queue[last++ % QUEUE] = events[i].data.fd;
            else if (events[i].events & EPOLLHUP)
                epoll_ctl(epoll, EPOLL_CTL_DEL, listener, NULL), listening = true, settings.capacity = ~0u;
            else
                accepting = true;
        pthread_mutex_unlock(&lock);
        pthread_cond_broadcast(&work);
        for (int fd; accepting && (fd = take(listener, SOCK_NONBLOCK)) >= 0;) {
            struct epoll_event one = {.events = ARMED, .data.fd = fd};
            if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &one))
                perror("epoll_ctl"), exit(1);
        }
    }
}

int main(int argc, char **argv) { return run_design(argc, argv, false, design); }
