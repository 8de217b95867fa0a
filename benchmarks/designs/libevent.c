/* One loop of libevent as its book has it: a listener, and a bufferevent for each connection. */
#include "design.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>

static void on_read(struct bufferevent *connection, void *unused)
{
    struct evbuffer *in = bufferevent_get_input(connection), *out = bufferevent_get_output(connection);
    size_t length;
    (void)unused;
    for (char *line; (line = evbuffer_readln(in, &length, EVBUFFER_EOL_LF)); free(line)) {
        handle(line);
        evbuffer_add(out, line, length);
        evbuffer_add(out, "\n", 1);
    }
}

static void on_event(struct bufferevent *connection, short events, void *unused)
{
    (void)unused;
    if (events & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
        connections--;
        bufferevent_free(connection);
    }
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
                      void *unused)
{
    struct bufferevent *connection =
        bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);
    (void)address, (void)length, (void)unused;
    bufferevent_setcb(connection, on_read, NULL, on_event, NULL);
    bufferevent_enable(connection, EV_READ | EV_WRITE);
    if (++connections >= settings.capacity)
        evconnlistener_disable(listener);
}

static void on_error(struct evconnlistener *listener, void *unused)
{
    (void)unused;
    evconnlistener_disable(listener); /* shut down */
}

static void design(int fd)
{
    struct event_base *base = event_base_new();
    struct evconnlistener *listener = evconnlistener_new(base, on_accept, NULL, LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!listener)
        perror("libevent"), exit(1);
    evconnlistener_set_error_cb(listener, on_error);
    event_base_dispatch(base);
}

int main(int argc, char **argv) { return run_design(argc, argv, false, design); }
