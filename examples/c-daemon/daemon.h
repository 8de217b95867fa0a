/* What the three parts of the daemon share: the table of descriptors, the counters, and what is done to both. */
#ifndef DAEMON_H
#define DAEMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST = 65536 }; /* bytes of a request, and of a line on the control socket */
enum kind { FREE, LISTENER, ADOPTED, CLIENT, MOVING, CONTROL_LISTENER, CONTROL, RECEIVING, SENDING };
struct bytes { char *data; size_t n; };
struct entry { enum kind kind; uint32_t watched; bool eof, asks; double until; struct bytes in, out; };
struct field { char key[32], text[256], kind; }; /* kind: the first character of the value in JSON */

extern struct entry *table; /* by descriptor */
extern int most, clients, listener; /* descriptors we may have; connections we own; -1 while the port is closed */
extern uint16_t port;
extern unsigned long long accepted, requests, bytes_in, bytes_out, errors;
extern const char *instance, *release;
extern bool draining, moving;                 /* moving: a hand-off runs */
extern volatile sig_atomic_t stops, pressed;  /* SIGTERMs; there is something for the clock to do */
extern double rate, allowance, deadline;      /* connections a second, saved up; seconds of now(); 0: none */

/* c-daemon.c */
double now(void);
_Noreturn void die(int code, const char *what);
void watch(int fd, uint32_t events);
void track(int fd, enum kind kind);
void end(int fd);
void append(struct bytes *to, const void *data, size_t n);
void cut(struct bytes *from, size_t n);
bool flush(int fd);
void answer(int fd, size_t searched);
bool open_port(void);
void turn(int milliseconds);

/* control.c */
void say(int fd, const char *format, ...);
int object(const char *at, struct field *f, int room);
const struct field *get(const struct field *f, int n, const char *key);
void on_control(int fd);

/* handoff.c */
bool stranger(int fd);
void on_receiving(int fd);
void hand_off(int asker, const char *to, long left, bool with_listener);

#endif
