/* An echo daemon that portfleet can run, drain and hand off, written from docs/control.md and docs/handoff.md alone:
 * control.c and handoff.c; this file serves clients.
 * One thread, one level-triggered epoll set, one table by descriptor. A request is a line; `whoami` is answered with
 * who serves, everything else with itself. README.md says what is left out. */
#include "daemon.h"

struct entry *table;
int most, clients, listener = -1;
uint16_t port;
unsigned long long accepted, requests, bytes_in, bytes_out, errors;
const char *instance = "-", *release = "-";
bool draining, moving;
volatile sig_atomic_t stops, pressed;
double rate, allowance, deadline;
static int epoll;
static const char *control;

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

_Noreturn void die(int code, const char *what)
{
    fprintf(stderr, "c-daemon: %s: %s\n", what, strerror(errno));
    exit(code);
}

static void on_signal(int number) { stops += number == SIGTERM ? 1 : 2, pressed = true; }

void watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    int how = !table[fd].watched ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    if (events != table[fd].watched && epoll_ctl(epoll, how, fd, &event))
        die(1, "epoll_ctl");
    table[fd].watched = events;
}

void track(int fd, enum kind kind) { table[fd].kind = kind; clients += kind == CLIENT; watch(fd, EPOLLIN); }

void end(int fd)
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

void append(struct bytes *to, const void *data, size_t n)
{
    if (n && !(to->data = realloc(to->data, to->n + n)))
        die(1, "memory");
    if (n)
        memcpy(to->data + to->n, data, n);
    to->n += n;
}

void cut(struct bytes *from, size_t n)
{
    if (n)
        memmove(from->data, from->data + n, from->n -= n);
    if (!from->n)
        free(from->data), from->data = NULL; /* an idle connection keeps no memory */
}

/* Write what is due; while something is left, wait for room and do not read. False: that ended the connection. */
bool flush(int fd)
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

/* Answer the whole requests in `in`, unless a reply still waits for room; before `searched` there is no newline. */
void answer(int fd, size_t searched)
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

bool open_port(void)
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
void turn(int milliseconds)
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
    bool usage = argc % 2 == 0;
    for (int i = 1; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], "--port"))
            number_of_port = argv[i + 1];
        else if (!strcmp(argv[i], "--control"))
            control = argv[i + 1];
        else
            usage = true;
    int wanted = atoi(number_of_port);
    if (usage || wanted < 1 || wanted > 65535 || strlen(control) >= sizeof at.sun_path || strpbrk(instance, "\"\\"))
        fputs("usage: c-daemon --port N [--control PATH]\n", stderr), exit(2);
    port = (uint16_t)wanted;
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
