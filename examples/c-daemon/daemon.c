/* A line echo server that portfleet runs, drains and hands off: docs/control.md, docs/handoff.md.
 * The main thread serves clients from one edge-triggered epoll set. Each client of the control socket has a thread that
 * may block, so that commands and hand-offs read from top to bottom. `lock` is held by whoever touches connections, the
 * port or what is due, and by nobody who waits for another process; what is read without it is atomic. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/times.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS = 2, END = 3, ACK = 16, REFUSE = 17, MOST_DESCRIPTORS = 253, OPERATORS = 64, SPARE = 400 };
enum { LINE = 65536, REQUEST = 1 << 20, BODY = 1 << 25, NEVER = 1 << 30, FLAGS = SOCK_NONBLOCK | SOCK_CLOEXEC };

/* Flat JSON in regular expressions: what begins and what is a member, values, a command among its other members. */
#define KEY(name) "\"" name "\"\\s*:\\s*"
#define IS(name, value) KEY(name) value "\\s*"
#define NUMBER "(null|[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?)"
#define ANY "(\"[^\"\\]*\"|-?" NUMBER "|true|false|\\[[0-9, ]*\\])"
#define COMMAND(name, rest) "^\\s*\\{\\s*((" rest "),\\s*)*" IS("command", "\"" name "\"") "(,\\s*(" rest "))*\\}\\s*$"
enum { STATUS, RESUME, DRAIN, HANDOFF, RECEIVE, COMMANDS };
static const char *const commands[] = {
    COMMAND("status", "$."), COMMAND("resume", "$."), /* nothing is behind the end */
    COMMAND("drain", IS("(rate|deadline)", NUMBER) "|" IS("listener", "\"(keep|close)\"")),
    COMMAND("handoff", IS("(count|deadline)", NUMBER) "|" IS("listener", "false") "|"
            IS("names", "(true|false)") "|" IS("to", "\"[^\"\\]{1,107}\"")),
    COMMAND("receive", IS("[^\"\\]*", ANY))};

struct header { uint8_t type, flags; uint16_t count; uint32_t sequence, length; };
struct control { struct cmsghdr header; int fds[MOST_DESCRIPTORS]; };
static struct end { bool ours; char *kept; size_t size, replies; } *ends; /* of connections, by descriptor. `ours`: not
    on its way to a receiver. `kept`: `replies` bytes of unsent replies, all whole lines, then a partial request */
static struct drain { bool on; double rate, all_at, port_at; bool last; } drain = {false, 0, NEVER, NEVER, false};
static int epoll, port, room;
static _Atomic int listener, connections, stopping, giving;
static _Atomic long requests, errors;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void on_sigterm(int number) { stopping = number; }
static double now(void) { return times(NULL) / (double)sysconf(_SC_CLK_TCK); }

/* Adding and modifying report at once what is ready, so that serve() gets its turn. */
static void watch(int how, int fd) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = fd};
    if (epoll_ctl(epoll, how, fd, &event)) err(1, "epoll_ctl");
    ends[fd].ours = how != EPOLL_CTL_DEL && fd != listener;
}

static void drop(int fd) {
    free(ends[fd].kept);
    ends[fd] = (struct end){0};
    connections--;
    close(fd);
}

/* Writes replies while there are any, else reads, until neither goes on. */
static void serve(int fd) {
    struct end *e = &ends[fd];
    char data[16384];
    for (int turn = 0; turn < 16; turn++) {
        ssize_t n = e->replies ? send(fd, e->kept, e->replies, 0) : recv(fd, data, sizeof data, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0 || e->size - e->replies > REQUEST) return (void)(errors += n > 0), drop(fd);
        if (e->replies) {
            e->replies -= n;
            memmove(e->kept, e->kept + n, e->size -= n);
            continue;
        }
        if (!(e->kept = realloc(e->kept, e->size + n))) err(1, "memory");
        memcpy(e->kept + e->size, data, n);
        for (ssize_t i = 0; i < n; i++)
            if (data[i] == '\n') e->replies = e->size + i + 1, requests++;
        e->size += n;
    }
    watch(EPOLL_CTL_MOD, fd); /* the others first */
}

static bool open_port(void) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int s = socket(AF_INET6, SOCK_STREAM | FLAGS, 0), on = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* a successor may hold connections */
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit it */
    if (bind(s, (void *)&any, sizeof any) || listen(s, SOMAXCONN)) return close(s), false;
    watch(EPOLL_CTL_ADD, listener = s);
    return true;
}

/* Every 50 ms: closes the port, and connections at a request boundary, when it is time to. */
static void tick(void) {
    static double last, owed;
    double passed = now() - last;
    if (passed < 0.05) return;
    last += passed;
    if (stopping && !drain.last) drain = (struct drain){true, NEVER, last + 30, last + 3, true}; /* SIGTERM came */
    if (last >= drain.port_at && listener >= 0) close(listener), listener = -1;
    owed = stopping && listener >= 0 ? 0 : drain.rate * passed + (owed < 1 ? owed : 0);
    for (int fd = 0; fd < room + SPARE && drain.on && (owed >= 1 || last >= drain.all_at); fd++) {
        if (ends[fd].ours) serve(fd); /* a request may have come meanwhile */
        if (ends[fd].ours && (!ends[fd].size || last >= drain.all_at)) drop(fd), owed--;
    }
}

/* Where in `line` what matches `pattern` ends, which for KEY() is where the value begins; NULL if nothing does. */
static const char *find(const char *line, const char *pattern) {
    regex_t compiled;
    regmatch_t match;
    bool found = !regcomp(&compiled, pattern, REG_EXTENDED) && !regexec(&compiled, line, 1, &match, 0);
    regfree(&compiled);
    return found ? line + match.rm_eo : NULL;
}

static double number(const char *line, const char *key, double otherwise) {
    const char *value = find(line, key);
    return value && *value != 'n' ? strtod(value, NULL) : otherwise;
}

/* A stream from a socket, NULL if the other end must not be trusted. Unbuffered, as receive() reads the socket too. */
static FILE *trusted(int s) {
    struct ucred peer = {.uid = -1};
    getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof peer});
    FILE *stream = peer.uid == 0 || peer.uid == geteuid() ? fdopen(s, "r") : NULL;
    return stream && !setvbuf(stream, NULL, _IONBF, 0) ? stream : (close(s), NULL);
}

/* The member of a progress line that names a connection, an empty array if the client is gone already. */
static const char *describe(int fd, char *four) {
    struct sockaddr_storage a;
    char host[64], at[8], *end = four + sprintf(four, ", \"connections\": [");
    for (int i = 0; i < 2; i++) {
        if ((i ? getpeername : getsockname)(fd, (void *)&a, &(socklen_t){sizeof a})) return ", \"connections\": []";
        getnameinfo((void *)&a, sizeof a, host, sizeof host, at, sizeof at, NI_NUMERICHOST | NI_NUMERICSERV);
        const char *shown = strncmp(host, "::ffff:", 7) ? host : host + 7; /* IPv4 as such */
        end += sprintf(end, "%s\"%s\", %s%s", i ? ", " : "[", shown, at, i ? "]]" : "");
    }
    return four;
}

static bool acknowledged(FILE *to, uint32_t sequence) {
    struct header ack;
    return fread(&ack, sizeof ack, 1, to) && ack.type == ACK && ack.sequence == sequence;
}

/* Sends a message, the connection `fd` or END if it is -1. True once the receiver has acknowledged it. */
static bool give(FILE *to, int fd, uint32_t sequence) {
    struct end e = fd < 0 ? (struct end){0} : ends[fd]; /* nobody else touches it now */
    size_t partial = e.size - e.replies, length = fd < 0 ? 0 : 16 + e.size;
    struct header h = {fd < 0 ? END : CONNECTIONS, 0, htons(fd >= 0), htonl(sequence), htonl(length)};
    uint32_t record[] = {0, htonl(partial), htonl(e.replies), 0};
    struct iovec io[] = {{&h, sizeof h}, {record, length - e.size}, {e.kept + e.replies, partial}, {e.kept, e.replies}};
    struct control c = {{CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS}, {fd}};
    struct msghdr m = {NULL, 0, io, 4, &c, fd < 0 ? 0 : c.header.cmsg_len, 0};
    if (sendmsg(fileno(to), &m, 0) == (ssize_t)(sizeof h + length) && acknowledged(to, h.sequence)) return true;
    shutdown(fileno(to), SHUT_RD); /* from here on it cannot; what came before counts */
    clearerr(to);
    return acknowledged(to, h.sequence);
}

/* The sender. One connection is on its way at a time, so no client waits for another's. */
static void hand_off(int operator, const char *line) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char answer[LINE] = "", four[160];
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), moved = 0;
    sscanf(find(line, KEY("to")), "\"%107[^\"]", at.sun_path);
    for (int o = 0; o < 2; o++) /* a receiver that hangs for 5 s gets nothing */
        setsockopt(s, SOL_SOCKET, o ? SO_RCVTIMEO : SO_SNDTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval));
    connect(s, (void *)&at, sizeof at);
    FILE *to = trusted(s); /* nobody is if it is not connected */
    bool names = !find(line, IS("names", "false"));
    bool ok = to && dprintf(s, "{\"command\": \"receive\", \"versions\": [1], \"framing\": \"line\", "
                            "\"stateful\": false}\n") > 0 && fgets(answer, sizeof answer, to) &&
              find(answer, IS("ok", "true")) && number(answer, KEY("version"), 0) == 1;
    bool begun = ok;
    double count = number(line, KEY("count"), NEVER), space = number(answer, KEY("room"), 0);
    for (int fd = 0; ok && fd < room + SPARE && moved < count && moved < space; fd++) {
        pthread_mutex_lock(&lock);
        bool ours = ends[fd].ours;
        if (ours) watch(EPOLL_CTL_DEL, fd);
        pthread_mutex_unlock(&lock);
        if (!ours) continue;
        ok = give(to, fd, moved + 1);
        const char *named = names ? describe(fd, four) : "";
        pthread_mutex_lock(&lock);
        ok ? drop(fd) : watch(EPOLL_CTL_ADD, fd);
        pthread_mutex_unlock(&lock);
        if (ok) dprintf(operator, "{\"ok\": true, \"event\": \"progress\", \"moved\": %d, \"remaining\": %d%s}\n",
                        ++moved, connections, named);
    }
    ok = ok && give(to, -1, moved + 1);
    giving = false;
    dprintf(operator, "{\"ok\": %s, \"moved\": %d, \"remaining\": %d}\n", ok ? "true, \"event\": \"done\"" :
            "false, \"error\": \"the receiver refused, ended or hangs\", \"hint\": \"see its log\"",
            moved, connections);
    if (begun && !ok) poll(&(struct pollfd){s, 0, 0}, 1, -1); /* until it ends: our end would have it take all it has */
    if (to) fclose(to);
}

/* Whether a descriptor that was received is a TCP connection, which does not block from now on. */
static bool usable(int fd) {
    uint8_t state = TCP_LISTEN; /* the first byte of struct tcp_info */
    return !getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &(socklen_t){1}) && state != TCP_LISTEN &&
           state != TCP_SYN_SENT && !fcntl(fd, F_SETFL, O_NONBLOCK);
}

/* The receiver. It never reads past a message, so the descriptors at hand belong to that one. */
static void receive(FILE *from) {
    struct header h = {0};
    dprintf(fileno(from), "{\"ok\": true, \"version\": 1, \"room\": %d}\n", room - connections);
    for (bool ok = true; ok && h.type != END;) {
        struct control c = {0};
        struct msghdr m = {NULL, 0, &(struct iovec){&h, 1}, 1, &c, sizeof c, 0};
        ok = recvmsg(fileno(from), &m, MSG_CMSG_CLOEXEC) == 1 && fread((char *)&h + 1, sizeof h - 1, 1, from);
        int n = c.header.cmsg_len ? (c.header.cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
        size_t length = ok ? ntohl(h.length) : 0, at = 0;
        char *body = ok && length <= BODY ? malloc(length + 1) : NULL;
        ok = body && fread(body, 1, length, from) == length && ntohs(h.count) == n && h.type == (n ? CONNECTIONS : END);
        for (int i = 0; ok && i < n; i++) { /* nobody else touches these yet */
            struct end *e = &ends[c.fds[i]];
            uint32_t record[4] = {0};
            if (length - at >= sizeof record) memcpy(record, body + at, sizeof record);
            size_t partial = ntohl(record[1]), replies = ntohl(record[2]), size = partial + replies;
            ok = usable(c.fds[i]) && (at += sizeof record) + size <= length && (e->kept = malloc(size + 1));
            if (!ok) break;
            memcpy(e->kept, body + at + partial, e->replies = replies);
            memcpy(e->kept + replies, body + at, partial);
            at += e->size = size;
        }
        free(body);
        pthread_mutex_lock(&lock);
        connections += n;
        ok = ok && at == length && connections <= room;
        for (int i = 0; !ok && i < n; i++) drop(c.fds[i]);
        struct header answer = {ok ? ACK : REFUSE, 0, ok ? h.count : 0, h.sequence, 0};
        bool sent = send(fileno(from), &answer, sizeof answer, 0) > 0; /* not: the sender is gone, or has taken back */
        bool ours = ok && (sent || poll(&(struct pollfd){fileno(from), POLLRDHUP, 0}, 1, 0) > 0);
        for (int i = 0; ok && i < n; i++) ours ? watch(EPOLL_CTL_ADD, c.fds[i]) : drop(c.fds[i]);
        ok = ours;
        pthread_mutex_unlock(&lock);
    }
}

/* Answers a command; false after a hand-off was received, which ends the connection. */
static bool obey(FILE *in, const char *line) {
    int c = 0, s = fileno(in);
    while (c < COMMANDS && !find(line, commands[c])) c++;
    pthread_mutex_lock(&lock);
    bool can = c == STATUS || (c == DRAIN && !stopping) || (c == HANDOFF && !giving && find(line, KEY("to"))) ||
               (c == RESUME && !stopping && (listener >= 0 || open_port())) ||
               (c == RECEIVE && !drain.on && find(line, IS("versions", "\\[([0-9 ]+,)* *1 *(,[0-9 ]+)*\\]")) &&
                find(line, IS("framing", "\"line\"")) && find(line, IS("stateful", "false")));
    if (can && c == HANDOFF) giving = true;
    if (can && (c == DRAIN || c == RESUME))
        drain = (struct drain){c == DRAIN, number(line, KEY("rate"), 0), now() + number(line, KEY("deadline"), NEVER),
                               now() + (find(line, IS("listener", "\"close\"")) ? 3 : NEVER), false};
    const char *state = drain.on ? "draining" : "ready", *code = !can && c == HANDOFF && giving ? "busy" : "refused";
    pthread_mutex_unlock(&lock);
    if (!can)
        dprintf(s, "{\"ok\": false, \"code\": \"%s\", \"error\": \"%s\", \"hint\": \"see docs/control.md\"}\n",
                code, c < COMMANDS ? "not in this state, or not with these values" :
                "no flat JSON object, no such command, keys or values");
    else if (c == HANDOFF) hand_off(s, line);
    else if (c == RECEIVE) receive(in);
    else
        dprintf(s, "{\"ok\": true, \"state\": \"%s\", \"connections\": %d, \"pid\": %d, \"instance\": \"%s\", "
                "\"port\": %d, \"version\": \"c-daemon\", \"requests\": %ld, \"errors\": %ld, \"max_connections\": %d, "
                "\"latency\": {\"bounds_us\": [], \"counts\": [%ld]}, \"handoff\": [1]}\n", state, connections,
                getpid(), getenv("PORTFLEET_INSTANCE") ?: "-", port, requests, errors, room, requests);
    return !can || c != RECEIVE;
}

static void *operate(void *control) {
    char *line = NULL;
    for (size_t size = 0;;) {
        FILE *in = trusted(accept4(*(int *)control, NULL, NULL, SOCK_CLOEXEC));
        for (ssize_t n; in && (n = getline(&line, &size, in)) > 0;)
            if (!obey(in, n > LINE ? "" : line) || n > LINE) break;
        in ? fclose(in) : (int)sleep(1); /* out of descriptors, or a stranger */
    }
    return NULL;
}

int main(int argc, char **argv) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *path = getenv("PORTFLEET_CONTROL");
    struct stat found;
    port = argc == 3 && !strcmp(argv[1], "--port") ? atoi(argv[2]) : 0;
    if (port < 1 || port > 65535 || !path || strlen(path) > 107) errx(2, "usage: PORTFLEET_CONTROL=F daemon --port N");
    signal(SIGTERM, on_sigterm);
    signal(SIGPIPE, SIG_IGN);
    room = sysconf(_SC_OPEN_MAX) - SPARE;
    if (room < 1 || !(ends = calloc(room + SPARE, sizeof *ends))) errx(3, "needs over %d descriptors", SPARE);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!open_port()) err(3, "port %d", port);
    int control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strcpy(at.sun_path, path); /* taken over if it is a socket that nobody listens on */
    if (!stat(path, &found) && S_ISSOCK(found.st_mode) && connect(control, (void *)&at, sizeof at)) unlink(path);
    umask(0177);
    if (bind(control, (void *)&at, sizeof at) || listen(control, OPERATORS)) err(3, "%s", path);
    for (int i = 0; i < OPERATORS; i++)
        if (pthread_create(&(pthread_t){0}, NULL, operate, &control)) errx(3, "cannot start threads");
    for (struct epoll_event events[256]; connections || giving || !stopping || listener >= 0;) {
        int n = epoll_wait(epoll, events, 256, 50), fd;
        pthread_mutex_lock(&lock);
        for (; connections < room && (fd = accept4(listener, NULL, NULL, FLAGS)) >= 0; connections++)
            watch(EPOLL_CTL_ADD, fd);
        for (int i = 0; i < n; i++)
            if (ends[events[i].data.fd].ours) serve(events[i].data.fd);
        tick();
        pthread_mutex_unlock(&lock);
    }
    unlink(path);
    _exit(0); /* threads may hold what exit() would wait for */
}
