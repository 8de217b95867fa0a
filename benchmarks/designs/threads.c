/* A thread for each connection, which blocks in read(2). */
#define _GNU_SOURCE
#include "design.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { STACK = 64 << 10 };

static void *serve(void *fd)
{
    while (echo((int)(intptr_t)fd) == MORE)
        ;
    return NULL;
}

static void design(int listener)
{
    pthread_attr_t how;
    pthread_t thread;
    pthread_attr_init(&how);
    pthread_attr_setstacksize(&how, STACK);
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
    fcntl(listener, F_SETFL, 0); /* accept(2) is to block */
    for (;;) {
        int fd = take(listener, 0);
        if (fd < 0)
            usleep(10000); /* full, or shut down */
        else if (pthread_create(&thread, &how, serve, (void *)(intptr_t)fd))
            perror("pthread_create"), exit(1);
    }
}

int main(int argc, char **argv) { return run_design(argc, argv, false, design); }
