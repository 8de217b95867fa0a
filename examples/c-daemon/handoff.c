/* Hand-off of connections and listeners, both sides: docs/handoff.md. */
#include "daemon.h"

enum { LISTENERS = 1, CONNECTIONS = 2, END = 3, ACK = 16, REFUSE = 17, BATCH = 64, MOST_FDS = 253 };

struct batch { int type, n, fds[BATCH]; };

static int taken[2 * MOST_FDS], takes; /* descriptors received, of messages that are not complete */

/* --- the receiver */

bool stranger(int fd)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) || (peer.uid != 0 && peer.uid != getuid());
}

/* Answer a message. Whether the sender still lives does not matter: what was taken in is ours. */
static void reply(int fd, int type, int count, uint32_t sequence, const char *body)
{
    uint32_t head[3] = {htonl((uint32_t)type << 24 | (uint32_t)count), htonl(sequence), htonl((uint32_t)strlen(body))};
    send(fd, head, sizeof head, MSG_NOSIGNAL | MSG_DONTWAIT);
    send(fd, body, strlen(body), MSG_NOSIGNAL | MSG_DONTWAIT);
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

void on_receiving(int fd)
{
    static char data[1 << 16];
    union { struct cmsghdr head; char room[CMSG_SPACE(MOST_FDS * sizeof(int))]; } control_message;
    struct iovec part = {data, sizeof data};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    m.msg_control = &control_message, m.msg_controllen = sizeof control_message;
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
        if ((wrong = receive(fd, type, count, ntohl(head[1]), in->data + sizeof head, length)))
            break;
        cut(in, sizeof head + length);
        last |= type == END;
    }
    if (wrong)
        reply(fd, REFUSE, 0, ntohl(head[1]), wrong), last = true;
    for (; last && takes; takes--)
        close(taken[takes - 1]);
    if (last)
        end(fd);
}

/* --- the sender: one function that serves the others (turn) while it waits */

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
    int n = snprintf(line, sizeof line, "%s[\"%s\", %d, \"%s\", %d]", to->n ? ", " : "", text[0],
                     ntohs(end[0].sin6_port), text[1], ntohs(end[1].sin6_port));
    append(to, line, (size_t)n);
}

void hand_off(int asker, const char *to, long left, bool with_listener)
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
        if (asker >= 0 && !table[asker].asks)
            asker = -1; /* that client has gone, and its number may be another's */
        if (flight[0].type == CONNECTIONS)
            say(asker,
                "{\"ok\": true, \"event\": \"progress\", \"moved\": %d, \"remaining\": %d, \"connections\": [%.*s]}\n",
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
            say(asker, "{\"ok\": false, \"error\": \"%s\", \"hint\": \"what was not acknowledged is served on\", "
                       "\"moved\": %d, \"remaining\": %d}\n", wrong, moved, clients);
        else
            say(asker, "{\"ok\": true, \"event\": \"done\", \"moved\": %d, \"remaining\": %d}\n", moved, clients);
    }
}
