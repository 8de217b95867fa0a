/* A line echo server that portfleet runs, drains and hands off: docs/control.md, docs/handoff.md.
 * The main thread serves clients from one edge-triggered epoll set. Each client of the control
 * socket has a thread that may block, so that commands and hand-offs read from top to bottom.
 * `lock` is held by whoever touches connections, and by nobody who waits for another process. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS = 2, END = 3, ACK = 16, REFUSE = 17, MOST_DESCRIPTORS = 253, OPERATORS = 64 };
enum { LINE = 65536, REQUEST = 1 << 20, BODY = 1 << 28, SPARE = 400, NEVER = 1 << 30 };
enum { RATE, DEADLINE, COUNT, ROOM, VERSION, COMMAND, LISTENER, TO, VERSIONS, FRAMING, STATEFUL, OK,
       KEYS };
static const char *const keys[] = {"rate", "deadline", "count", "room", "version", "command",
                                   "listener", "to", "versions", "framing", "stateful", "ok"};
typedef char values[KEYS + 1][110]; /* "" if absent; strings with their first quote */

struct header { uint8_t type, flags; uint16_t count; uint32_t sequence, length; };
union control { struct cmsghdr header; char space[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))]; };
static struct end {
    enum { NONE, OURS, AWAY } owner; /* AWAY: on its way to a receiver */
    bool eof;                        /* the client has shut down its side */
    char *kept;                      /* replies not sent yet, all whole lines; a partial request */
    size_t size;
} *ends; /* of connections, by descriptor */
static int epoll, control, listener, top, port, room, connections;
static long requests, errors;
static double seconds, close_rate, close_all_at, close_port_at = NEVER;
static bool draining, giving;
static const char *instance;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile sig_atomic_t stopping;

static void on_sigterm(int number) { stopping = number; }

/* Adding and modifying report at once what is ready, so that serve() gets its turn. */
static void watch(int how, int fd) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = fd};
    if (epoll_ctl(epoll, how, fd, &event)) err(1, "epoll_ctl");
}

static void add(int fd) {
    ends[fd] = (struct end){.owner = OURS};
    connections++;
    top = fd > top ? fd : top;
}

static void drop(int fd) {
    free(ends[fd].kept);
    ends[fd] = (struct end){0};
    connections--;
    close(fd);
}

static void keep(struct end *e, const char *data, size_t n) {
    if (!(e->kept = realloc(e->kept, e->size + n + 1))) err(1, "memory");
    memcpy(e->kept + e->size, data, n);
    e->size += n;
}

static size_t unsent(const struct end *e) {
    const char *last = e->size ? memrchr(e->kept, '\n', e->size) : NULL;
    return last ? last + 1 - e->kept : 0;
}

/* Writes replies while there are any, else reads, until neither goes on. */
static void serve(int fd) {
    static char data[16384];
    struct end *e = &ends[fd];
    for (int turn = 0; turn < 16; turn++) {
        size_t reply = unsent(e);
        if (e->eof && !reply) return drop(fd);
        ssize_t n = reply ? send(fd, e->kept, reply, 0) : recv(fd, data, sizeof data, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0 || e->size - reply > REQUEST) return errors++, drop(fd);
        if (reply) {
            memmove(e->kept, e->kept + n, e->size -= n);
        } else {
            for (ssize_t i = 0; i < n; i++) requests += data[i] == '\n';
            keep(e, data, n);
            e->eof = n == 0;
        }
    }
    watch(EPOLL_CTL_MOD, fd); /* the others first */
}

static void accept_all(void) {
    for (int fd; connections < room; watch(EPOLL_CTL_ADD, fd)) {
        if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0) return;
        add(fd);
    }
}

/* Every 50 ms: closes the port, and connections at a request boundary, when it is time to. */
static void tick(double passed) {
    static double owed;
    seconds += passed;
    if (stopping > 0) { /* SIGTERM has come since the last tick */
        stopping = -1;
        draining = true;
        close_rate = NEVER;
        close_port_at = seconds + 3;
        close_all_at = seconds + 30;
    }
    accept_all(); /* there may have been no room or no descriptor before */
    if (seconds >= close_port_at && listener >= 0) close(listener), listener = -1;
    owed = close_rate * passed + (owed < 1 ? owed : 0);
    for (int fd = 0; fd <= top && draining; fd++) {
        if (ends[fd].owner == OURS && seconds >= close_all_at) drop(fd);
        if (ends[fd].owner != OURS || owed < 1 || (stopping && listener >= 0)) continue;
        serve(fd); /* a request may have come meanwhile */
        if (ends[fd].owner == OURS && !ends[fd].size) drop(fd), owed--;
    }
}

static bool open_port(void) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int s = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* a successor may hold connections */
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit it */
    if (bind(s, (void *)&any, sizeof any) || listen(s, SOMAXCONN)) return close(s), false;
    watch(EPOLL_CTL_ADD, listener = s);
    return true;
}

/* Takes a flat JSON object apart. Returns the keys it has as bits, 0 if it is malformed. */
static int parse(const char *p, values v) {
    char key[32], mark;
    int seen = 0, k, n;
    memset(v, 0, sizeof(values));
    do {
        n = 0;
        if (sscanf(p, " %c \"%31[^\"\\]\" : %n", &mark, key, &n) < 2 || !n) return 0;
        if (mark != (seen ? ',' : '{')) return 0;
        for (k = 0; k < KEYS && strcmp(key, keys[k]);) k++;
        seen |= 1 << k, p += n, n = 0;
        if (*p == '"') sscanf(p, "%1[\"]%107[^\"\\]\" %n", v[k], v[k] + 1, &n);
        else sscanf(p, *p == '[' ? "[%107[0-9, ]] %n" : "%109[0-9a-zE.+-] %n", v[k], &n);
        p += n;
    } while (n && *p == ',');
    return n && *p == '}' && !p[1 + strspn(p + 1, " \t\r\n")] ? seen : 0;
}

static double number(const char *text) { /* NEVER if it is null or absent, -1 if it is none */
    char *end;
    double n = strtod(text, &end);
    if (!*text || !strcmp(text, "null")) return NEVER;
    return *end || !(n >= 0) ? -1 : n < NEVER ? n : NEVER;
}

static bool trusted(int s) {
    struct ucred peer = {.uid = -1};
    getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof peer});
    return peer.uid == 0 || peer.uid == geteuid();
}

static void print_ends(FILE *out, int fd) { /* nothing if the client is gone already */
    char host[2][64], at[2][8];
    struct sockaddr_storage a[2];
    socklen_t n[2] = {sizeof *a, sizeof *a};
    if (getsockname(fd, (void *)&a[0], &n[0]) || getpeername(fd, (void *)&a[1], &n[1])) return;
    for (int i = 0; i < 2; i++) {
        getnameinfo((void *)&a[i], n[i], host[i], 64, at[i], 8, NI_NUMERICHOST | NI_NUMERICSERV);
        if (!strncmp(host[i], "::ffff:", 7)) memmove(host[i], host[i] + 7, 57);
    }
    fprintf(out, "[\"%s\", %s, \"%s\", %s]", host[0], at[0], host[1], at[1]);
}

/* Sends the connection `fd`, END if it is -1. True once the receiver has acknowledged it. */
static bool give(int s, FILE *in, int fd, uint32_t sequence) {
    struct end e = fd < 0 ? (struct end){0} : ends[fd]; /* AWAY: nobody else touches it */
    uint32_t record[] = {htonl(e.eof ? 2 : 0), htonl(e.size - unsent(&e)), htonl(unsent(&e)), 0};
    struct header ack, h = {END, 0, 0, htonl(sequence), 0};
    if (fd >= 0) h = (struct header){CONNECTIONS, 0, htons(1), h.sequence, htonl(16 + e.size)};
    struct iovec parts[] = {{&h, sizeof h}, {record, sizeof record},
                            {e.kept + unsent(&e), e.size - unsent(&e)}, {e.kept, unsent(&e)}};
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = fd < 0 ? 1 : 4};
    union control c = {.header = {CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS}};
    memcpy(CMSG_DATA(&c.header), &fd, sizeof fd);
    if (fd >= 0) m.msg_control = &c, m.msg_controllen = c.header.cmsg_len;
    return sendmsg(s, &m, 0) == (ssize_t)(sizeof h + ntohl(h.length)) &&
           fread(&ack, sizeof ack, 1, in) && ack.type == ACK && ack.sequence == h.sequence;
}

/* The sender. One connection is on its way at a time, so no client waits for another's. */
static void hand_off(FILE *out, values v) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char answer[LINE] = "";
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), moved = 0;
    double left = number(v[COUNT]);
    FILE *in = fdopen(s, "r");
    memcpy(at.sun_path, v[TO] + 1, sizeof at.sun_path - 1);
    if (in && !connect(s, (void *)&at, sizeof at) && trusted(s)) {
        dprintf(s, "{\"command\": \"receive\", \"versions\": [1], \"framing\": \"line\", "
                   "\"stateful\": false, \"instance\": \"%s\"}\n", instance);
        if (!fgets(answer, sizeof answer, in)) *answer = '\0';
    }
    bool ok = parse(answer, v) && !strcmp(v[OK], "true") && number(v[VERSION]) == 1;
    left = left < number(v[ROOM]) ? left : number(v[ROOM]);
    for (int fd = 0; ok && fd < room + SPARE && moved < left; fd++) {
        pthread_mutex_lock(&lock);
        bool ours = ends[fd].owner == OURS;
        if (ours) ends[fd].owner = AWAY, watch(EPOLL_CTL_DEL, fd);
        pthread_mutex_unlock(&lock);
        if (!ours) continue;
        ok = give(s, in, fd, moved + 1);
        pthread_mutex_lock(&lock);
        ends[fd].owner = OURS;
        if (ok) {
            fprintf(out, "{\"ok\": true, \"event\": \"progress\", \"moved\": %d, "
                    "\"remaining\": %d, \"connections\": [", ++moved, connections - 1);
            print_ends(out, fd), fputs("]}\n", out);
            drop(fd);
        } else {
            watch(EPOLL_CTL_ADD, fd);
        }
        pthread_mutex_unlock(&lock);
        fflush(out); /* not with the lock held: the operator may be slow to read */
    }
    ok = ok && give(s, in, -1, moved + 1);
    in ? fclose(in) : close(s);
    pthread_mutex_lock(&lock);
    giving = false;
    fprintf(out, "{\"ok\": %s, \"moved\": %d, \"remaining\": %d}\n", !ok ? "false, \"error\": "
            "\"the receiver refused or ended\", \"hint\": \"see its log\"" :
            "true, \"event\": \"done\"", moved, connections);
    pthread_mutex_unlock(&lock);
}

/* Makes connections of the records in `body`, not served yet. All or, for nonsense, none. */
static bool unpack(const char *body, size_t length, const int *fds, int n) {
    size_t at = 0;
    int made = 0;
    for (uint32_t r[4]; made < n && at + sizeof r <= length; made++) {
        memcpy(r, body + at, sizeof r);
        size_t start = at + sizeof r, partial = ntohl(r[1]), replies = ntohl(r[2]);
        if ((at = start + partial + replies + ntohl(r[3])) > length) break;
        add(fds[made]);
        ends[fds[made]].eof = ntohl(r[0]) & 2;
        keep(&ends[fds[made]], body + start + partial, replies);
        keep(&ends[fds[made]], body + start, partial);
    }
    if (made == n && at == length) return true;
    for (int i = 0; i < n; i++) i < made ? drop(fds[i]) : (void)close(fds[i]);
    return false;
}

/* The receiver. It never reads past a message, so the descriptors at hand belong to that one. */
static void receive(int s) {
    struct header h = {0};
    for (bool ok = true; ok && h.type != END;) {
        union control c = {0};
        struct msghdr m = {.msg_iov = &(struct iovec){&h, sizeof h}, .msg_iovlen = 1,
                           .msg_control = &c, .msg_controllen = sizeof c};
        ssize_t got = recvmsg(s, &m, MSG_CMSG_CLOEXEC | MSG_WAITALL), rest = sizeof h - got;
        int n = c.header.cmsg_len ? (c.header.cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
        const int *fds = (int *)CMSG_DATA(&c.header);
        ok = got > 0 && (!rest || recv(s, (char *)&h + got, rest, MSG_WAITALL) == rest);
        ssize_t length = ok && ntohl(h.length) <= BODY ? ntohl(h.length) : 0;
        char *body = malloc(length + 1);
        ok = ok && body && (!length || recv(s, body, length, MSG_WAITALL) == length);
        pthread_mutex_lock(&lock);
        ok = ok && length == ntohl(h.length) && h.type == (n ? CONNECTIONS : END) &&
             ntohs(h.count) == n && connections + n <= room;
        ok = unpack(body, ok ? length : 0, fds, n) && ok;
        static const char why[] = "no room, or no message that is known here";
        struct header ack = {ACK, 0, h.count, h.sequence, 0};
        struct header refuse = {REFUSE, 0, 0, h.sequence, htonl(sizeof why - 1)};
        send(s, ok ? &ack : &refuse, sizeof h, 0), send(s, why, ok ? 0 : sizeof why - 1, 0);
        for (int i = 0; ok && i < n; i++) watch(EPOLL_CTL_ADD, fds[i]);
        pthread_mutex_unlock(&lock);
        free(body);
    }
}

static bool is(values v, int seen, const char *name, int others) {
    return !strcmp(v[COMMAND] + 1, name) && !(seen & ~(1 << COMMAND | others));
}

/* Does what a command says, short of moving connections. NULL, or why it cannot be done. */
static const char *execute(values v, int seen) {
    bool shut = !strcmp(v[LISTENER], "\"close"), common = false;
    char *rest;
    double rate = number(v[RATE]), deadline = number(v[DEADLINE]);
    if (!seen || rate < 0 || deadline < 0 || number(v[COUNT]) < 0)
        return "no flat JSON object, or something else where a number belongs";
    if (is(v, seen, "drain", 1 << RATE | 1 << DEADLINE | 1 << LISTENER)) {
        if (stopping) return "SIGTERM came";
        if (*v[LISTENER] && !shut && strcmp(v[LISTENER], "\"keep")) return "listener is not known";
        draining = true;
        close_rate = rate < NEVER ? rate : 0;
        close_all_at = seconds + deadline;
        close_port_at = shut ? seconds + 3 : NEVER;
    } else if (is(v, seen, "resume", 0)) {
        if (stopping || (listener < 0 && !open_port())) return "the port is taken, or SIGTERM came";
        draining = false;
        close_port_at = NEVER;
    } else if (is(v, seen, "handoff", 1 << TO | 1 << COUNT | 1 << DEADLINE | 1 << LISTENER)) {
        if (giving) return "a hand-off is under way";
        if (*v[TO] != '"') return "to is the path of the receiver's control socket";
        if (*v[LISTENER] && strcmp(v[LISTENER], "false")) return "listeners are not handed off";
        giving = true;
    } else if (is(v, seen, "receive", -1)) {
        for (char *n = strtok_r(v[VERSIONS], ", ", &rest); n; n = strtok_r(NULL, ", ", &rest))
            common |= !strcmp(n, "1");
        if (draining) return "not ready";
        if (!common || strcmp(v[FRAMING], "\"line") || strcmp(v[STATEFUL], "false"))
            return "only version 1, framing line and stateful false are known here";
    } else if (!is(v, seen, "status", 0)) {
        return "no such command, or not with these keys";
    }
    return NULL;
}

/* Answers a command; false after a hand-off was received, which ends the connection. */
static bool obey(FILE *out, const char *line, int s) {
    values v;
    int seen = parse(line, v);
    pthread_mutex_lock(&lock);
    const char *error = execute(v, seen), *state = draining ? "draining" : "ready";
    bool giver = !error && is(v, seen, "handoff", -1), taker = !error && is(v, seen, "receive", -1);
    if (error)
        fprintf(out, "{\"ok\": false, \"error\": \"%s\", \"hint\": \"see control.md\"}\n", error);
    else if (taker)
        fprintf(out, "{\"ok\": true, \"version\": 1, \"room\": %d}\n", room - connections);
    else if (!giver)
        fprintf(out, "{\"ok\": true, \"state\": \"%s\", \"connections\": %d, \"pid\": %d, "
                "\"instance\": \"%s\", \"port\": %d, \"version\": \"c-daemon\", \"requests\": %ld, "
                "\"errors\": %ld, \"latency\": {\"bounds_us\": [], \"counts\": [%ld]}, "
                "\"max_connections\": %d, \"handoff\": [1]}\n", state, connections, getpid(),
                instance, port, requests, errors, requests, room);
    pthread_mutex_unlock(&lock);
    if (giver) hand_off(out, v);
    fflush(out);
    if (taker) receive(s);
    return !taker;
}

static void *operate(void *unused) {
    char *line = NULL;
    ssize_t n;
    for (size_t size = 0;;) {
        int s = accept4(control, NULL, NULL, SOCK_CLOEXEC);
        FILE *in = s < 0 ? NULL : fdopen(s, "r"), *out = in ? fdopen(dup(s), "w") : NULL;
        if (out) setvbuf(out, NULL, _IOFBF, LINE); /* no write before obey() has left the lock */
        while (out && trusted(s) && (n = getline(&line, &size, in)) > 0)
            if (!obey(out, n > LINE ? "" : line, s) || n > LINE) break;
        if (out) fclose(out);
        if (in) fclose(in);
        else sleep(1); /* out of descriptors */
    }
    return unused;
}

static int open_control(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct stat found;
    if (strlen(path) >= sizeof at.sun_path) errx(2, "%s: longer than 107 bytes", path);
    strcpy(at.sun_path, path);
    if (!stat(path, &found) && S_ISSOCK(found.st_mode) && connect(s, (void *)&at, sizeof at))
        unlink(path); /* nobody listens on it */
    umask(0177);
    if (bind(s, (void *)&at, sizeof at) || listen(s, OPERATORS)) err(3, "%s", path);
    return s;
}

int main(int argc, char **argv) {
    const char *path = getenv("PORTFLEET_CONTROL"), *name = getenv("PORTFLEET_INSTANCE");
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), most = sysconf(_SC_OPEN_MAX);
    struct itimerspec period = {{0, 50000000}, {0, 50000000}};
    instance = name ? name : "-";
    port = argc == 3 && !strcmp(argv[1], "--port") ? atoi(argv[2]) : 0;
    if (port < 1 || port > 65535 || !path) errx(2, "usage: PORTFLEET_CONTROL=FILE daemon --port N");
    signal(SIGTERM, on_sigterm);
    signal(SIGPIPE, SIG_IGN);
    room = most - SPARE;
    ends = calloc(most, sizeof *ends);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!ends || room < 1) errx(3, "at least %d descriptors are needed: ulimit -n", SPARE + 1);
    if (!open_port()) err(3, "port %d", port);
    control = open_control(path);
    timerfd_settime(timer, 0, &period, NULL);
    watch(EPOLL_CTL_ADD, timer);
    pthread_t thread;
    for (int i = 0; i < OPERATORS; i++)
        if (pthread_create(&thread, NULL, operate, NULL)) errx(3, "cannot start threads");
    for (bool done = false; !done;) {
        struct epoll_event events[256];
        uint64_t times;
        int n = epoll_wait(epoll, events, 256, -1);
        pthread_mutex_lock(&lock);
        for (int i = 0, fd; i < n; i++) {
            if ((fd = events[i].data.fd) == listener) accept_all();
            else if (fd == timer && read(timer, &times, sizeof times) > 0) tick(times * 0.05);
            else if (ends[fd].owner == OURS) serve(fd);
        }
        done = stopping && listener < 0 && !connections;
        pthread_mutex_unlock(&lock);
    }
    unlink(path);
    _exit(0); /* threads may hold what exit() would wait for */
}
