/* An echo daemon that portfleet can run, drain and hand off, written from docs/control.md and docs/handoff.md alone.
 * One thread, one level-triggered epoll set, one table by descriptor. A request is a line; `whoami` is answered with
 * who serves, everything else with itself. README.md says what is left out. */
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

enum { LONGEST = 65536, LISTENERS = 1, CONNECTIONS = 2, END = 3, ACK = 16, REFUSE = 17, BATCH = 64, MOST_FDS = 253 };
enum kind { FREE, LISTENER, ADOPTED, CLIENT, MOVING, CONTROL_LISTENER, CONTROL, RECEIVING, SENDING };
struct bytes { char *data; size_t n; };
struct entry { enum kind kind; uint32_t watched; bool eof, asks; double until; struct bytes in, out; };
struct field { char key[32], text[256], kind; }; /* kind: the first character of the value in JSON */
struct batch { int type, n, fds[BATCH]; };

static struct entry *table;
static int epoll, most, clients, listener = -1, taken[2 * MOST_FDS], takes;
static uint16_t port;
static unsigned long long accepted, requests, bytes_in, bytes_out, errors;
static const char *instance = "-", *release = "-", *control;
static bool draining, moving;
static volatile sig_atomic_t stops, pressed; /* a hand-off runs; there is something for `tick` to do */
static double rate, allowance, deadline; /* connections a second, saved up; seconds of now(); 0: none */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static _Noreturn void die(int code, const char *what)
{
    fprintf(stderr, "c-daemon: %s: %s\n", what, strerror(errno));
    exit(code);
}

static void on_signal(int number) { stops += number == SIGTERM ? 1 : 2, pressed = true; }

static void watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    int how = !table[fd].watched ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    if (events != table[fd].watched && epoll_ctl(epoll, how, fd, &event))
        die(1, "epoll_ctl");
    table[fd].watched = events;
}

static void track(int fd, enum kind kind) { table[fd].kind = kind; clients += kind == CLIENT; watch(fd, EPOLLIN); }

static void end(int fd)
{
    struct entry *e = &table[fd];
    watch(fd, 0); /* before close: another process may hold the same file, and then close removes nothing */
    clients -= e->kind == CLIENT || e->kind == MOVING;
    free(e->in.data), free(e->out.data);
    *e = (struct entry){0};
    close(fd);
    if (listener >= 0 && clients < most - 64)
        watch(listener, EPOLLIN);
}

static void append(struct bytes *to, const void *data, size_t n)
{
    if (n && !(to->data = realloc(to->data, to->n + n)))
        die(1, "memory");
    if (n)
        memcpy(to->data + to->n, data, n);
    to->n += n;
}

static void cut(struct bytes *from, size_t n)
{
    if (n)
        memmove(from->data, from->data + n, from->n -= n);
    if (!from->n)
        free(from->data), from->data = NULL; /* an idle connection keeps no memory */
}

/* Write what is due; while something is left, wait for room and do not read. False: that ended the connection. */
static bool flush(int fd)
{
    struct entry *e = &table[fd];
    ssize_t n = e->out.n ? send(fd, e->out.data, e->out.n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    if (n < 0 && errno != EAGAIN)
        return end(fd), false;
    bytes_out += n > 0 && e->kind == CLIENT ? (size_t)n : 0;
    cut(&e->out, n > 0 ? (size_t)n : 0);
    watch(fd, e->out.n ? EPOLLOUT : EPOLLIN);
    return true;
}

/* One line to a client of the control socket. */
static void say(int fd, const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (fd >= 0 && table[fd].kind == CONTROL)
        append(&table[fd].out, text, (size_t)n), flush(fd);
}

/* Answer the whole requests in `in`, unless a reply still waits for room; before `searched` there is no newline. */
static void answer(int fd, size_t searched)
{
    struct entry *e = &table[fd];
    char who[512], *last = e->out.n ? NULL : memrchr(e->in.data + searched, '\n', e->in.n - searched), *next;
    int length = snprintf(who, sizeof who, "%s pid=%d release=%s", instance, getpid(), release);
    for (char *at = e->in.data; last && at <= last; at = next + 1, requests++) {
        next = memchr(at, '\n', (size_t)(last - at) + 1);
        size_t n = (size_t)(next - at) - (next > at && next[-1] == '\r');
        bool asked = n == 6 && !memcmp(at, "whoami", 6);
        append(&e->out, asked ? who : at, asked ? (size_t)length : n);
        append(&e->out, "\n", 1);
    }
    cut(&e->in, last ? (size_t)(last - e->in.data) + 1 : 0);
    bool late = e->in.n > LONGEST && !e->out.n;
    errors += late;
    if (late || (flush(fd) && e->eof && !e->out.n))
        end(fd);
}

static void on_client(int fd)
{
    struct entry *e = &table[fd];
    char data[4096];
    if (e->out.n)
        return (void)(flush(fd) && !e->out.n ? answer(fd, 0) : (void)0);
    ssize_t n = read(fd, data, sizeof data);
    append(&e->in, data, n > 0 ? (size_t)n : 0);
    bytes_in += n > 0 ? (size_t)n : 0;
    if (n > 0)
        answer(fd, e->in.n - (size_t)n);
    else if (n == 0 || errno != EAGAIN)
        end(fd);
}

static bool open_port(void)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* inherited by what it accepts */
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096))
        return close(fd), false;
    track(listener = fd, LISTENER);
    return true;
}

static void turn(int milliseconds);

/* --- JSON: one flat object a line */

/* Fields of one object a line, strings without escapes, arrays as text; their number, -1 if it is anything else. */
static int object(const char *at, struct field *f, int room)
{
    int used = 0;
    char separator[2], *rest;
    (void)!sscanf(at, " {%n", &used);
    for (int n = 0; used && n < room; n++, f++) {
        if (used = sscanf(at += used, " \"%31[^\"\\]\" : %n", f->key, &used) == 1 ? used : 0, !used)
            return -1;
        const char *format = at[used] == '"' ? "\"%255[^\"\\]\" %1[,}]%n"
                             : at[used] == '[' ? "[%255[^]\"]] %1[,}]%n" : "%255[-+.0-9Ea-z] %1[,}]%n";
        f->kind = *(at += used);
        if (used = sscanf(at, format, f->text, separator, &used) == 2 ? used : 0, !used)
            return -1;
        bool word = !strcmp(f->text, "true") || !strcmp(f->text, "false") || !strcmp(f->text, "null");
        if (f->kind != '"' && f->kind != '[' && !word && (strtod(f->text, &rest), *rest))
            return -1;
        if (*separator == '}')
            return at[used + (int)strspn(at + used, " \t\r")] ? -1 : n + 1;
    }
    return -1;
}

static const struct field *get(const struct field *f, int n, const char *key)
{
    for (; n-- > 0; f++)
        if (!strcmp(f->key, key) && strcmp(f->text, "null"))
            return f;
    return NULL;
}

/* --- hand-off, the receiver */

static bool stranger(int fd)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || (peer.uid != 0 && peer.uid != getuid());
}

static void reply(int fd, int type, int count, uint32_t sequence, const char *body)
{
    uint32_t head[3] = {htonl((uint32_t)type << 24 | (uint32_t)count), htonl(sequence), htonl((uint32_t)strlen(body))};
    append(&table[fd].out, head, sizeof head);
    append(&table[fd].out, body, strlen(body));
}

/* Take one message in; an error is the reason to refuse it. */
static const char *receive(int fd, int type, int count, uint32_t sequence, const char *body, size_t length)
{
    struct { uint32_t flags, partial, unsent, state; } r;
    const char *at = body, *stop = body + length;
    if (count > takes || (type != LISTENERS && type != CONNECTIONS && type != END) || clients + count > most - 64)
        return "no room, unknown type, or descriptors are missing";
    for (int i = 0; type == CONNECTIONS && i < count; i++) { /* a look first: a refused message takes nothing */
        if ((size_t)(stop - at) < sizeof r)
            return "a record is cut";
        memcpy(&r, at, sizeof r);
        uint64_t more = (uint64_t)ntohl(r.partial) + ntohl(r.unsent) + ntohl(r.state);
        if (more > (size_t)(stop - at) - sizeof r || ntohl(r.flags) & 1)
            return "a record is longer than its message, or has a state";
        at += sizeof r + more;
    }
    if (at != stop)
        return "bytes behind the last record";
    reply(fd, ACK, count, sequence, "");
    flush(fd); /* may end fd: what the sender did not see acknowledged is ours all the same */
    at = body;
    for (int i = 0; i < count; i++) {
        track(taken[i], type == LISTENERS ? ADOPTED : CLIENT);
        if (type == LISTENERS) {
            table[taken[i]].until = now() + 3; /* whoever waits there is accepted by then */
            pressed = true;
            continue;
        }
        struct entry *e = &table[taken[i]];
        memcpy(&r, at, sizeof r);
        e->eof = ntohl(r.flags) & 2;
        append(&e->in, at + sizeof r, ntohl(r.partial));
        append(&e->out, at + sizeof r + ntohl(r.partial), ntohl(r.unsent));
        at += sizeof r + ntohl(r.partial) + ntohl(r.unsent);
        if (flush(taken[i]))
            answer(taken[i], 0);
    }
    memmove(taken, taken + count, (size_t)(takes -= count) * sizeof *taken);
    return NULL;
}

static void on_receiving(int fd)
{
    static char data[1 << 16];
    union { struct cmsghdr head; char room[CMSG_SPACE(MOST_FDS * sizeof(int))]; } control_message;
    struct iovec part = {data, sizeof data};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control_message, .msg_controllen = sizeof control_message};
    struct bytes *in = &table[fd].in;
    ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    const char *wrong = n >= 0 && m.msg_flags & MSG_CTRUNC ? "descriptors were lost on the way" : NULL;
    struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
    int came = c && c->cmsg_type == SCM_RIGHTS ? (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
    if (came > 2 * MOST_FDS - takes)
        die(1, "more than two unacknowledged messages"); /* only a program of our own user can send that */
    if (came)
        memcpy(taken + takes, CMSG_DATA(c), (size_t)came * sizeof(int));
    takes += came;
    append(in, data, n > 0 ? (size_t)n : 0);
    uint32_t head[3] = {0};
    bool last = n == 0 || (n < 0 && errno != EAGAIN);
    while (!wrong && in->n >= sizeof head) {
        memcpy(head, in->data, sizeof head);
        size_t length = ntohl(head[2]);
        int type = (int)(ntohl(head[0]) >> 24), count = (int)(ntohl(head[0]) & 0xffff);
        if (in->n - sizeof head < length)
            break;
        if ((wrong = receive(fd, type, count, ntohl(head[1]), in->data + sizeof head, length)) || table[fd].kind == FREE)
            break;
        cut(in, sizeof head + length);
        last |= type == END;
    }
    if (wrong)
        reply(fd, REFUSE, 0, ntohl(head[1]), wrong), last = flush(fd);
    for (; last && takes; takes--)
        close(taken[takes - 1]);
    if (last)
        end(fd);
}

/* --- hand-off, the sender: one function that serves the others (turn) while it waits */

/* Read exactly `n` bytes, or up to the newline if `line`; NULL when that can not be had any more. */
static bool await_bytes(int fd, char *to, size_t n, bool line)
{
    for (size_t have = 0; have < n; have++) {
        ssize_t got;
        while ((got = recv(fd, to + have, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
            turn(1000);
        if (got <= 0)
            return false;
        if (line && to[have] == '\n')
            return to[have] = 0, true;
    }
    return !line;
}

/* Fill and send the next message: the listener, up to BATCH connections, or END. */
static bool send_batch(int sock, struct batch *b, uint32_t sequence, bool with_listener, long *left)
{
    static int cursor;
    union { struct cmsghdr head; char room[CMSG_SPACE(BATCH * sizeof(int))]; } rights;
    struct bytes body = {0};
    *b = (struct batch){.type = with_listener ? LISTENERS : CONNECTIONS};
    if (with_listener)
        b->fds[b->n++] = listener, watch(listener, 0), listener = -1;
    for (int i = 0; !with_listener && *left > 0 && i < most && b->n < BATCH && body.n < LONGEST; i++) {
        int fd = cursor = (cursor + 1) % most;
        struct entry *e = &table[fd];
        if (e->kind != CLIENT)
            continue;
        uint32_t r[4] = {htonl(e->eof ? 2 : 0), htonl((uint32_t)e->in.n), htonl((uint32_t)e->out.n), 0};
        append(&body, r, sizeof r), append(&body, e->in.data, e->in.n), append(&body, e->out.data, e->out.n);
        e->kind = MOVING;
        watch(fd, 0);
        b->fds[b->n++] = fd;
        --*left;
    }
    b->type = b->n ? b->type : END;
    uint32_t head[3] = {htonl((uint32_t)b->type << 24 | (uint32_t)b->n), htonl(sequence), htonl((uint32_t)body.n)};
    struct iovec parts[2] = {{head, sizeof head}, {body.data, body.n}};
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = 2};
    if (b->n) {
        m.msg_control = &rights, m.msg_controllen = CMSG_SPACE((size_t)b->n * sizeof(int));
        rights.head = (struct cmsghdr){CMSG_LEN((size_t)b->n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&rights.head), b->fds, (size_t)b->n * sizeof(int));
    }
    bool sent = sendmsg(sock, &m, MSG_NOSIGNAL) == (ssize_t)(sizeof head + body.n);
    free(body.data);
    return sent;
}

/* Addresses as the kernel knows them, IPv4-mapped ones as IPv4. */
static void print_tuple(struct bytes *to, int fd)
{
    struct sockaddr_in6 end[2];
    char text[2][INET6_ADDRSTRLEN], line[160];
    for (int i = 0; i < 2; i++) {
        socklen_t size = sizeof *end;
        if ((i ? getpeername : getsockname)(fd, (struct sockaddr *)&end[i], &size))
            return; /* its client has gone */
        bool v4 = end[i].sin6_family == AF_INET, mapped = !v4 && IN6_IS_ADDR_V4MAPPED(&end[i].sin6_addr);
        void *address = v4 ? (void *)&((struct sockaddr_in *)&end[i])->sin_addr
                           : (void *)(end[i].sin6_addr.s6_addr + (mapped ? 12 : 0));
        inet_ntop(v4 || mapped ? AF_INET : AF_INET6, address, text[i], sizeof *text);
    }
    int n = snprintf(line, sizeof line, "%s[\"%s\", %d, \"%s\", %d]", to->n ? ", " : "", text[0], ntohs(end[0].sin6_port),
                     text[1], ntohs(end[1].sin6_port));
    append(to, line, (size_t)n);
}

static void hand_off(int asker, const char *to, long left, bool with_listener)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct batch flight[2];
    struct field f[8];
    char line[1024];
    const char *wrong = NULL;
    int flying = 0, moved = 0, sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(to) < sizeof at.sun_path)
        strcpy(at.sun_path, to);
    if (connect(sock, (struct sockaddr *)&at, sizeof at) || stranger(sock)) {
        say(asker, "{\"ok\": false, \"error\": \"no daemon of this user or root listens on %s\", "
                   "\"hint\": \"start the receiver first\", \"moved\": 0, \"remaining\": %d}\n", to, clients);
        close(sock);
        return;
    }
    moving = table[asker].asks = true;
    track(sock, SENDING);
    dprintf(sock, "{\"command\": \"receive\", \"versions\": [1], \"framing\": \"line\", \"stateful\": false, "
                  "\"instance\": \"%s\"}\n", instance);
    int n = await_bytes(sock, line, sizeof line, true) ? object(line, f, 8) : -1;
    const struct field *ok = get(f, n, "ok"), *version = get(f, n, "version"), *room = get(f, n, "room");
    if (!ok || strcmp(ok->text, "true") || !version || strcmp(version->text, "1") || !room)
        wrong = n > 0 && get(f, n, "error") ? get(f, n, "error")->text : "the receiver did not agree to version 1";
    else if (left > atol(room->text))
        left = atol(room->text);
    for (uint32_t sequence = 0, head[3]; !wrong;) {
        while (!wrong && flying < 2 && (!flying || flight[flying - 1].type != END)) {
            if (!send_batch(sock, &flight[flying++], ++sequence, with_listener && listener >= 0, &left))
                wrong = "the receiver ended";
            with_listener = false;
        }
        if (wrong || !await_bytes(sock, (char *)head, sizeof head, false) || ntohl(head[0]) >> 24 != ACK ||
            ntohl(head[1]) != sequence - (uint32_t)flying + 1) {
            wrong = "the receiver ended or refused";
            break;
        }
        struct bytes tuples = {0};
        for (int i = 0; i < flight[0].n; i++) {
            moved += flight[0].type == CONNECTIONS;
            if (flight[0].type == CONNECTIONS)
                print_tuple(&tuples, flight[0].fds[i]);
            end(flight[0].fds[i]);
        }
        asker = asker >= 0 && table[asker].asks ? asker : -1; /* else that client has gone, or its number is another's */
        if (flight[0].type == CONNECTIONS)
            say(asker, "{\"ok\": true, \"event\": \"progress\", \"moved\": %d, \"remaining\": %d, \"connections\": [%.*s]}\n",
                moved, clients, (int)tuples.n, tuples.data ? tuples.data : "");
        free(tuples.data);
        draining |= flight[0].type == LISTENERS;
        bool done = flight[0].type == END;
        flight[0] = flight[1];
        flying--;
        if (done)
            break;
    }
    for (; flying; flying--) /* what was not acknowledged is still ours */
        for (int i = 0; i < flight[flying - 1].n; i++) {
            int fd = flight[flying - 1].fds[i];
            if (flight[flying - 1].type == LISTENERS) {
                watch(listener = fd, EPOLLIN);
                continue;
            }
            table[fd].kind = CLIENT;
            if (flush(fd))
                answer(fd, 0);
        }
    end(sock);
    moving = false;
    if (asker >= 0 && table[asker].asks) {
        table[asker].asks = false;
        if (wrong)
            say(asker, "{\"ok\": false, \"error\": \"%s\", \"hint\": \"this process serves on what was not acknowledged\", "
                       "\"moved\": %d, \"remaining\": %d}\n", wrong, moved, clients);
        else
            say(asker, "{\"ok\": true, \"event\": \"done\", \"moved\": %d, \"remaining\": %d}\n", moved, clients);
    }
}

/* --- the control socket */

static bool only(const struct field *f, int n, const char *keys)
{
    char word[sizeof f->key + 2];
    for (; n-- > 0; f++)
        if (snprintf(word, sizeof word, " %.31s ", f->key), !strstr(keys, word))
            return false;
    return true;
}

static double number(const struct field *f) { return f ? f->kind >= '0' && f->kind <= '9' ? atof(f->text) : -1 : 0; }

static void command(int fd, const char *line)
{
    struct field f[8];
    int n = object(line, f, 8);
    const struct field *what = get(f, n, "command"), *to = get(f, n, "to"), *wants = get(f, n, "listener");
    const char *name = what && what->kind == '"' ? what->text : "";
    double count = number(get(f, n, "count")), speed = number(get(f, n, "rate")), end_in = number(get(f, n, "deadline"));
    const char *state = draining ? "draining" : "ready";
    if (!strcmp(name, "status") && only(f, n, " command ")) {
        say(fd, "{\"ok\": true, \"state\": \"%s\", \"pid\": %d, \"instance\": \"%s\", \"port\": %d, \"connections\": %d, "
                "\"accepted\": %llu, \"requests\": %llu, \"bytes_in\": %llu, \"bytes_out\": %llu, \"errors\": %llu, "
                "\"latency\": {\"bounds_us\": [], \"counts\": [%llu]}, \"max_loop_lag_us\": 0, \"max_connections\": %d, "
                "\"handoff\": [1], \"version\": \"1\"}\n", state, getpid(), instance, port, clients,
            accepted, requests, bytes_in, bytes_out, errors, requests, most - 64);
    } else if (!strcmp(name, "drain") && only(f, n, " command rate deadline listener ") && speed >= 0 && end_in >= 0) {
        pressed = 1, draining = true, rate = speed, allowance = 0, deadline = end_in ? now() + end_in : 0;
        if (wants && !strcmp(wants->text, "close") && listener >= 0)
            table[listener].until = now() + 3;
        say(fd, "{\"ok\": true, \"state\": \"draining\", \"connections\": %d}\n", clients);
    } else if (!strcmp(name, "resume") && only(f, n, " command ") && !stops) {
        if (listener >= 0)
            table[listener].until = 0;
        else if (!open_port())
            return say(fd, "{\"ok\": false, \"error\": \"port %d is taken\", \"hint\": \"stop who listens there\"}\n", port);
        draining = false, rate = deadline = 0;
        say(fd, "{\"ok\": true, \"state\": \"ready\", \"connections\": %d}\n", clients);
    } else if (!strcmp(name, "handoff") && only(f, n, " command to count listener deadline ") && to && count >= 0 && !moving) {
        hand_off(fd, to->text, get(f, n, "count") ? (long)count : most, wants && *wants->text == 't');
    } else if (!strcmp(name, "receive") && !stranger(fd)) {
        const struct field *versions = get(f, n, "versions"), *framing = get(f, n, "framing");
        bool fits = versions && strchr(versions->text, '1') && framing && !strcmp(framing->text, "line") && !draining;
        say(fd, fits ? "{\"ok\": true, \"version\": 1, \"room\": %d}\n" : "{\"ok\": false, \"error\": \"cannot take them\", "
                "\"hint\": \"version 1, framing line, state ready\"}\n", most - 64 - clients);
        table[fd].kind = fits ? RECEIVING : CONTROL;
    } else {
        say(fd, "{\"ok\": false, \"error\": \"not a command that can be done now\", \"hint\": \"docs/control.md\"}\n");
    }
}

static void on_control(int fd)
{
    char data[4096], line[4096];
    struct bytes *in = &table[fd].in;
    ssize_t n = recv(fd, data, sizeof data, MSG_DONTWAIT);
    append(in, data, n > 0 ? (size_t)n : 0);
    for (char *stop; table[fd].kind == CONTROL && in->n && (stop = memchr(in->data, '\n', in->n));) {
        size_t length = (size_t)(stop - in->data);
        snprintf(line, sizeof line, "%.*s", (int)length, in->data);
        cut(in, length + 1);
        command(fd, line);
    }
    if (table[fd].kind == CONTROL && (n == 0 || (n < 0 && errno != EAGAIN) || in->n > LONGEST))
        end(fd);
}

/* --- the loop */

static void accept_from(int fd)
{
    bool tcp = table[fd].kind != CONTROL_LISTENER;
    for (int i = 0; i < 8; i++) {
        if (tcp && clients >= most - 64)
            return watch(fd, 0); /* the rest waits in the backlog; end() looks again */
        int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0)
            return;
        track(client, tcp ? CLIENT : CONTROL);
        accepted += tcp;
    }
}

/* What time asks for: closing listeners, evictions, the deadline, SIGTERM. True while there is more to come. */
static bool tick(void)
{
    static int cursor;
    static double before;
    double t = now();
    bool more = false, late = deadline > 0 && t > deadline;
    if (stops == 1 && !draining) {
        draining = true, rate = 1e6, deadline = t + 30;
        if (listener >= 0)
            table[listener].until = t + 3;
    }
    allowance = rate > 0 ? allowance + (t - before) * rate : 0;
    before = t;
    for (int i = 0, fd; i < most; i++) {
        struct entry *e = &table[fd = cursor = (cursor + 1) % most];
        char byte;
        bool idle = e->kind == CLIENT && !e->in.n && !e->out.n;
        more |= e->until > 0;
        if (e->until > 0 && t > e->until) {
            listener = fd == listener ? -1 : listener;
            end(fd);
        } else if (e->kind == CLIENT && late) {
            end(fd);
        } else if (idle && allowance >= 1 && recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0) {
            allowance -= 1;
            end(fd);
        }
    }
    if (stops > 1 || (stops && !clients && listener < 0))
        unlink(control), exit(0);
    return more || rate > 0 || deadline > 0;
}

/* One wait and what it brought; connections are accepted after the batch, when no event can be stale any more. */
static void turn(int milliseconds)
{
    static bool more;
    struct epoll_event events[256];
    int accepting[8], n = epoll_wait(epoll, events, 256, more ? 10 : milliseconds), waiting = 0;
    for (int i = 0; i < n; i++) {
        int fd = events[i].data.fd;
        switch (table[fd].kind) {
        case CLIENT: on_client(fd); break;
        case CONTROL: table[fd].out.n ? (void)flush(fd) : on_control(fd); break;
        case RECEIVING: on_receiving(fd); break;
        case LISTENER: case ADOPTED: case CONTROL_LISTENER:
            if (waiting < 8)
                accepting[waiting++] = fd;
            break;
        case FREE: case MOVING: case SENDING: break; /* stale, another's, or read by who waits for it */
        }
    }
    while (waiting--)
        accept_from(accepting[waiting]);
    if (n <= 0 || more || pressed)
        pressed = false, more = tick();
}

int main(int argc, char **argv)
{
    struct rlimit files;
    struct sigaction action = {.sa_handler = on_signal};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *value, *number_of_port = "";
    control = (value = getenv("PORTFLEET_CONTROL")) ? value : "";
    instance = (value = getenv("PORTFLEET_INSTANCE")) ? value : "-";
    release = (value = getenv("PORTFLEET_RELEASE")) && *value ? value : "-";
    for (int i = 1; i + 1 < argc; i += 2)
        *(!strcmp(argv[i], "--port") ? &number_of_port : !strcmp(argv[i], "--control") ? &control : &value) = argv[i + 1];
    if (argc % 2 == 0 || !(port = (uint16_t)atoi(number_of_port)) || strlen(control) >= sizeof at.sun_path)
        fputs("usage: c-daemon --port N [--control PATH]\n", stderr), exit(2);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    table = calloc((size_t)(most = (int)files.rlim_cur), sizeof *table);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    sigaction(SIGTERM, &action, NULL), sigaction(SIGINT, &action, NULL);
    if (!open_port())
        die(3, "cannot listen");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    strcpy(at.sun_path, control);
    if (*control && connect(fd, (struct sockaddr *)&at, sizeof at) && errno == ECONNREFUSED)
        unlink(control); /* a socket nobody listens on */
    umask(0177);
    if (*control && (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 64)))
        die(3, "control socket");
    if (*control)
        track(fd, CONTROL_LISTENER);
    for (;;)
        turn(1000);
}
