/* What the designs have in common: the command line, the listener, and the task. A design is what differs: who waits
 * for which descriptor, and who answers. Each is a program `NAME PORT [--processes N] [--threads N] [--capacity N]`. */
#ifndef PORTFLEET_DESIGN_H
#define PORTFLEET_DESIGN_H

#include <stdatomic.h>
#include <stdbool.h>

struct settings {
    unsigned port, processes, threads;
    unsigned capacity; /* connections that one process accepts at a time; it leaves the next to others */
};
extern struct settings settings;

/* Connections of this process. */
extern atomic_uint connections;

/* A non-blocking listener on the port, of both families. Several may listen on it: SO_REUSEPORT. */
int listen_on_port(void);

/* What one call of echo() met: more may be there, nothing is there now, or the connection is over (and closed). */
enum outcome { MORE, LATER, OVER };

/* Read once from a connection and answer the whole lines; what is behind the last newline is kept. A line that begins
 * with "e" has a slow handler: it blocks the thread for 50 ms, as a query of a database would. */
enum outcome echo(int fd);

/* The same for a design that has its own buffers: block the thread if the line is one of those. */
void handle(const char *line);

/* Accept one connection, if the process has room: its descriptor, or -1. `flags` as for accept4(2). */
int take(int listener, int flags);

/* One level-triggered epoll set: accept from `listener`, answer, for ever. */
_Noreturn void loop(int listener);

/* Parse the command line, then run `design` in each of the processes with the one listener, or each with its own.
 * SIGTERM shuts the listeners down, and established connections go on: the usual graceful end. */
int run_design(int argc, char **argv, bool own_listeners, void (*design)(int listener));

#endif
