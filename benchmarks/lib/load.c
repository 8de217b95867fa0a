/* A load generator for echo servers: one thread, one level-triggered epoll set, so that it costs a core less per
 * request than the servers it measures.
 *
 * In the open loop, write number I of the whole run is due at start + I / rate and belongs to connection
 * I mod connections. It goes out at that time or, if the reply before it is still awaited, as soon as that is in;
 * its latency counts from when it was due. A server that stalls is thus charged for every request it held up, not
 * only for those that happened to be in flight ("coordinated omission", Gil Tene; wrk2 does the same).
 *
 * Every connection first gets one reply before the measurement begins: a connect() alone says only that the kernel
 * queued it. A connection that breaks is counted and never opened again, so "connected" also says that no client
 * retried. */
#define _GNU_SOURCE
#include "connection.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { EVENTS = 256, OPENING_AT_ONCE = 64, MAX_WINDOWS = 1 << 20 };

enum phase { OPENING, RUNNING, FINISHING };

static struct connection *connections;
static enum phase phase;
static unsigned opened;              /* connections begun */
static uint64_t scheduled, last_write; /* writes issued by the clock; ns */
static bool measuring, reading = true;
static volatile sig_atomic_t stop_asked, read_asked;

static void on_signal(int number) { *(number == SIGUSR1 ? &read_asked : &stop_asked) = 1; }

static uint64_t due_at(uint64_t write_number) { return res.start + (uint64_t)((double)write_number * 1e9 / opt.rate); }

/* Mode unread: fill the sockets; once reading was asked for, only complete the request that was cut. */
static void fill(struct connection *c)
{
    while (c->fd >= 0 && (!reading || c->sent % opt.size))
        if (!send_next(c, opt.size))
            return;
        else
            last_write = now_ns();
    if (c->fd >= 0)
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

/* Mode open: send what is due, unless the reply to the request before is still awaited. */
static void catch_up(struct connection *c, uint64_t now)
{
    while (c->fd >= 0 && (c->sent % opt.size || c->received == c->sent)) {
        uint64_t due = due_at(c->next * opt.connections + (uint64_t)(c - connections));
        if (due > now || (phase == FINISHING && c->sent % opt.size == 0))
            return;
        c->due = due;
        c->next++;
        send_or_drop(c, opt.chunk);
    }
}

static void record(struct connection *c, uint64_t now)
{
    uint64_t latency = now > c->due ? now - c->due : 0;
    res.requests++;
    histogram_record(&res.latency, latency);
    if (!opt.timeline_ms || c->due < res.start)
        return;
    uint64_t slice = (c->due - res.start) / (opt.timeline_ms * 1000000ull);
    if (slice >= MAX_WINDOWS)
        return;
    if (slice >= res.timeline_length)
        res.timeline_length = (unsigned)slice + 1;
    res.timeline[slice].count++;
    if (latency > res.timeline[slice].max)
        res.timeline[slice].max = latency;
}

/* One whole reply, already checked. */
static void replied(struct connection *c, uint64_t now)
{
    res.replies++;
    if (measuring)
        record(c, now);
    if (!c->greeted) {
        c->greeted = true;
        opening--;
        res.connected++;
    }
    if (opt.mode == STORM) {
        close(c->fd);
        c->fd = -1;
    } else if (phase == RUNNING && opt.mode == CLOSED) {
        c->due = now;
        send_or_drop(c, opt.size);
    } else if (phase != OPENING && opt.mode == OPEN) {
        catch_up(c, now);
    }
}

/* Check `n` bytes against the stream, request by request; the first wrong one ends the connection. */
static void check(struct connection *c, const char *data, size_t n)
{
    char expected[1 << 16];
    uint64_t now = now_ns();
    while (n && c->fd >= 0) {
        unsigned begun = (unsigned)(c->received % opt.size), length = opt.size - begun;
        if (length > n)
            length = (unsigned)n;
        stream_request(expected, opt.size, c->id, c->received / opt.size);
        if (c->received + length > c->sent || memcmp(data, expected + begun, length)) {
            bool whole = begun == 0 && length == opt.size;
            drop(c, &res.wrong[whole ? stream_judge(data, opt.size, c->id, c->received / opt.size) : REPLY_CORRUPT]);
            return;
        }
        data += length;
        n -= length;
        c->received += length;
        waiting -= length;
        if (begun + length == opt.size)
            replied(c, now);
    }
}

static void on_event(struct connection *c, uint32_t events)
{
    static char data[1 << 16];
    if (c->fd < 0)
        return;
    if (events & EPOLLOUT) {
        int error = 0;
        socklen_t size = sizeof error;
        if (c->greeted) {
            fill(c);
            return;
        }
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) || error) {
            drop(c, &res.refused);
            return;
        }
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        send_or_drop(c, opt.size);
    } else if (events) {
        ssize_t n = read(c->fd, data, sizeof data);
        bool held = opt.mode == PARTIAL && phase != OPENING; /* an error reply there is the server's right */
        if (n > 0 && !held) {
            check(c, data, (size_t)n);
        } else if (n == 0 || (n < 0 && errno != EAGAIN)) {
            if (held)
                histogram_record(&res.latency, now_ns() - c->due);
            drop(c, n == 0 || held ? &res.closed : &res.reset);
        }
    }
}

static void measure(bool on)
{
    double *cpu = on ? res.cpu_before : res.cpu_after;
    measuring = on;
    *(on ? &res.start : &res.end) = now_ns();
    *(on ? &res.own_before : &res.own_after) = cpu_seconds(getpid());
    for (int i = 0; i < opt.pid_count; i++)
        cpu[i] = cpu_seconds(opt.pids[i]);
}

/* All connections are greeted: begin what the mode is about. */
static void start(void)
{
    phase = RUNNING;
    last_write = now_ns();
    print_event("connected", last_write, res.connected);
    reading = opt.mode != UNREAD;
    for (unsigned i = 0; i < opt.connections && opt.mode != STORM; i++) {
        struct connection *c = &connections[i];
        if (c->fd < 0)
            continue;
        c->due = last_write;
        if (opt.mode == CLOSED)
            send_or_drop(c, opt.size);
        else if (opt.mode == OPEN && opt.chunk < opt.size && i % opt.size)
            send_or_drop(c, i % opt.size); /* so that the connections are not all in the same byte of a request */
        else if (opt.mode == PARTIAL)
            send_or_drop(c, opt.size - 1);
        else if (opt.mode == UNREAD)
            watch(c, EPOLL_CTL_MOD, EPOLLOUT);
    }
}

/* What the clock asks for now; returns when it will ask again. */
static uint64_t tick(uint64_t now)
{
    uint64_t again = now + 50000000;
    if (phase == OPENING && opt.mode != STORM) {
        while (opening < OPENING_AT_ONCE && opened < opt.connections) {
            begin(&connections[opened], opt.first_id + opened);
            opened++;
        }
        if (opened == opt.connections && !opening)
            start();
    } else if (opt.mode == STORM && phase == RUNNING) {
        for (unsigned i = 0; i < opt.connections; i++) {
            if (opt.rate > 0 && due_at(scheduled) > now)
                return due_at(scheduled);
            if (connections[i].fd < 0)
                begin(&connections[i], opt.first_id + (uint32_t)scheduled++);
        }
        return now + 1000000;
    } else if (opt.mode == OPEN && phase == RUNNING) {
        for (unsigned burst = EVENTS; burst && due_at(scheduled) <= now; burst--)
            catch_up(&connections[scheduled++ % opt.connections], now);
        again = due_at(scheduled);
    } else if (opt.mode == OPEN) {
        for (unsigned i = 0; i < opt.connections; i++) /* a request begun in pieces is finished on time */
            catch_up(&connections[i], now);
        again = now + 1000000;
    } else if (opt.mode == PARTIAL && res.closed == res.connected) {
        stop_asked = 1; /* the server has closed them all: nothing is left to wait for */
    } else if (opt.mode == UNREAD && !reading && now > last_write + 300000000) {
        print_event("full", now, waiting);
        last_write = UINT64_MAX - 300000000;
    }
    return again;
}

static void obey(uint64_t now, uint64_t *deadline)
{
    if (read_asked && opt.mode == IDLE && phase == RUNNING) {
        read_asked = 0;
        for (unsigned i = 0; i < opt.connections; i++)
            if (connections[i].fd >= 0)
                send_or_drop(&connections[i], opt.size);
    }
    if (read_asked && !reading) {
        reading = true;
        for (unsigned i = 0; i < opt.connections; i++)
            if (connections[i].fd >= 0)
                watch(&connections[i], EPOLL_CTL_MOD, connections[i].sent % opt.size ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
    if (phase == RUNNING && !measuring && now >= *deadline) {
        measure(true);
        scheduled = 0;
        for (unsigned i = 0; i < opt.connections; i++)
            connections[i].next = 0;
        *deadline = opt.seconds > 0 ? now + (uint64_t)(opt.seconds * 1e9) : UINT64_MAX;
    }
    if (phase != FINISHING && (stop_asked || (measuring && now >= *deadline))) {
        if (!measuring)
            measure(true);
        measure(false);
        phase = FINISHING;
        *deadline = now + (uint64_t)(opt.grace * 1e9);
    }
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS];
    struct rlimit files;
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t blocked, open_mask;
    opt = options_parse(argc, argv);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1); /* the default lets the kernel wake us 50 us late */
    sigemptyset(&blocked);
    for (const int *s = (const int[]){SIGTERM, SIGINT, SIGUSR1, 0}; *s; s++) {
        sigaddset(&blocked, *s);
        sigaction(*s, &action, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, &open_mask);
    connections = calloc(opt.connections, sizeof *connections);
    res.timeline = calloc(opt.timeline_ms ? MAX_WINDOWS : 1, sizeof *res.timeline);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || !res.timeline || epoll < 0)
        perror("load"), exit(1);
    for (unsigned i = 0; i < opt.connections; i++)
        connections[i].fd = -1;
    if (opt.mode == STORM)
        start();
    uint64_t deadline = UINT64_MAX;
    for (bool warm = false; phase != FINISHING || (waiting && opt.mode != PARTIAL && now_ns() < deadline);) {
        uint64_t now = now_ns();
        if (phase == RUNNING && !warm) {
            warm = true;
            deadline = now + (uint64_t)(opt.warmup * 1e9);
            res.start = now; /* the schedule of an open loop's warm-up */
        }
        obey(now, &deadline);
        uint64_t again = tick(now), after = now_ns(), left = again > after ? again - after : 0;
        struct timespec timeout = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        int n = epoll_pwait2(epoll, events, EVENTS, &timeout, &open_mask);
        for (int i = 0; i < n; i++)
            on_event(events[i].data.ptr, events[i].events);
    }
    res.waiting = waiting;
    print_result(&opt, &res);
    return 0;
}
