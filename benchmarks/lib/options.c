#include "options.h"
#include "stream.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static const char USAGE[] =
    "usage: load --port N [options]\n"
    "Loads an echo server with newline-terminated requests, checks every reply byte, prints JSON lines:\n"
    "{\"event\": \"connected\"} when all connections had one reply, {\"event\": \"result\"} at the end.\n"
    "SIGTERM ends it early: replies still due are waited for.\n\n"
    "  --mode closed     one request in flight per connection, the next at once (default)\n"
    "  --mode open       --rate writes a second over all connections, latency from the intended time\n"
    "  --mode idle       hold the connections; nothing is sent after the first request, SIGUSR1: one more\n"
    "  --mode partial    send all but the last byte of a request and hold; counts and times the server's closes\n"
    "  --mode unread     write until the sockets are full; read nothing before SIGUSR1, then check all of it\n"
    "  --mode storm      connect, one request, close, --connections at a time, at most --rate a second\n"
    "  --host ADDR       server, IPv4 or IPv6 (127.0.0.1)       --port N\n"
    "  --connections N   (50)                                   --rate N       a second (open, storm)\n"
    "  --size N          bytes of a request, newline included (64)\n"
    "  --chunk N         bytes of each write in mode open (the whole request)\n"
    "  --seconds S       length of the measurement (0: until SIGTERM)   --warmup S  before it (0)\n"
    "  --grace S         how long to wait for replies at the end (5)\n"
    "  --source ADDR     bind to ADDR, --sources N: to N addresses from it on, in turn\n"
    "  --buffer N        SO_RCVBUF and SO_SNDBUF of each        --first-id N   number of the first connection (0)\n"
    "  --timeline-ms N   also print the count and worst latency of each N ms of intended send time\n"
    "  --pid PID         report the CPU time of this process (may be repeated)\n";

static _Noreturn void wrong(const char *what, const char *value)
{
    fprintf(stderr, "load: %s: %s\nhint: load --help\n", what, value);
    exit(2);
}

static double number(const char *flag, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (!*text || *end || !(value >= low && value <= high))
        wrong(flag, text);
    return value;
}

static socklen_t address(const char *flag, const char *text, struct sockaddr_storage *out)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        wrong(flag, text);
    v6->sin6_family = AF_INET6;
    return sizeof *v6;
}

static enum mode mode_named(const char *name)
{
    static const char *const NAMES[] = {"closed", "open", "idle", "partial", "unread", "storm"};
    for (unsigned i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (!strcmp(name, NAMES[i]))
            return (enum mode)i;
    wrong("--mode", name);
}

struct options options_parse(int argc, char **argv)
{
    static const struct option FLAGS[] = {
        {"mode", 1, 0, 'm'},    {"host", 1, 0, 'h'},        {"port", 1, 0, 'p'},        {"connections", 1, 0, 'c'},
        {"rate", 1, 0, 'r'},    {"size", 1, 0, 's'},        {"chunk", 1, 0, 'k'},       {"seconds", 1, 0, 't'},
        {"warmup", 1, 0, 'w'},  {"grace", 1, 0, 'g'},       {"source", 1, 0, 'a'},      {"sources", 1, 0, 'n'},
        {"first-id", 1, 0, 'f'}, {"buffer", 1, 0, 'b'}, {"timeline-ms", 1, 0, 'l'}, {"pid", 1, 0, 'i'},
        {"help", 0, 0, '?' + 1}, {0, 0, 0, 0}};
    struct options o = {.connections = 50, .size = 64, .seconds = 0, .grace = 5, .sources = 1};
    const char *host = "127.0.0.1";
    unsigned port = 0;
    for (int flag; (flag = getopt_long(argc, argv, "", FLAGS, NULL)) != -1;) {
        switch (flag) {
        case 'm': o.mode = mode_named(optarg); break;
        case 'h': host = optarg; break;
        case 'p': port = (unsigned)number("--port", optarg, 1, 65535); break;
        case 'c': o.connections = (unsigned)number("--connections", optarg, 1, 1e6); break;
        case 'r': o.rate = number("--rate", optarg, 0.1, 1e7); break;
        case 's': o.size = (unsigned)number("--size", optarg, HEAD + 1, 1 << 16); break;
        case 'k': o.chunk = (unsigned)number("--chunk", optarg, 1, 1 << 16); break;
        case 't': o.seconds = number("--seconds", optarg, 0, 86400); break;
        case 'w': o.warmup = number("--warmup", optarg, 0, 3600); break;
        case 'g': o.grace = number("--grace", optarg, 0, 3600); break;
        case 'a': address("--source", optarg, &o.source); break;
        case 'n': o.sources = (unsigned)number("--sources", optarg, 1, 1 << 20); break;
        case 'f': o.first_id = (uint32_t)number("--first-id", optarg, 0, 4e9); break;
        case 'b': o.buffer = (unsigned)number("--buffer", optarg, 1, 1 << 30); break;
        case 'l': o.timeline_ms = (unsigned)number("--timeline-ms", optarg, 1, 60000); break;
        case 'i':
            if (o.pid_count == MAX_PIDS)
                wrong("--pid", "more than 16");
            o.pids[o.pid_count++] = (int)number("--pid", optarg, 1, 1 << 22);
            break;
        case '?' + 1: fputs(USAGE, stdout); exit(0);
        default: exit(2);
        }
    }
    if (optind < argc)
        wrong("unexpected argument", argv[optind]);
    if (!port)
        wrong("--port", "missing");
    if (o.mode == OPEN && o.rate <= 0)
        wrong("--rate", "mode open needs one");
    if (!o.chunk || o.chunk > o.size)
        o.chunk = o.size;
    o.address_length = address("--host", host, &o.server);
    if (o.source.ss_family && o.source.ss_family != o.server.ss_family)
        wrong("--source", "not of the server's address family");
    ((struct sockaddr_in *)&o.server)->sin_port = htons((uint16_t)port); /* the same place in sockaddr_in6 */
    return o;
}
