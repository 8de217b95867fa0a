/* The control socket: docs/control.md. */
#include "daemon.h"

/* One line to a client of the control socket. */
void say(int fd, const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (fd >= 0 && table[fd].kind == CONTROL)
        append(&table[fd].out, text, (size_t)n), flush(fd);
}

/* Fields of one object a line, strings without escapes, arrays as text; their number, -1 if it is anything else. */
int object(const char *at, struct field *f, int room)
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

const struct field *get(const struct field *f, int n, const char *key)
{
    for (; n-- > 0; f++)
        if (!strcmp(f->key, key) && strcmp(f->text, "null"))
            return f;
    return NULL;
}

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
    double count = number(get(f, n, "count")), speed = number(get(f, n, "rate"));
    double end_in = number(get(f, n, "deadline"));
    const char *state = draining ? "draining" : "ready";
    if (!strcmp(name, "status") && only(f, n, " command ")) {
        say(fd, "{\"ok\": true, \"state\": \"%s\", \"pid\": %d, \"instance\": \"%s\", \"port\": %d, "
                "\"connections\": %d, \"accepted\": %llu, \"requests\": %llu, \"bytes_in\": %llu, \"bytes_out\": %llu, "
                "\"errors\": %llu, \"latency\": {\"bounds_us\": [], \"counts\": [%llu]}, \"max_loop_lag_us\": 0, "
                "\"max_connections\": %d, \"handoff\": [1], \"version\": \"1\"}\n",
            state, getpid(), instance, port, clients, accepted, requests, bytes_in, bytes_out, errors,
            requests, most - 64);
    } else if (!strcmp(name, "drain") && only(f, n, " command rate deadline listener ") && speed >= 0 && end_in >= 0) {
        pressed = 1, draining = true, rate = speed, allowance = 0, deadline = end_in ? now() + end_in : 0;
        if (wants && !strcmp(wants->text, "close") && listener >= 0)
            table[listener].until = now() + 3;
        say(fd, "{\"ok\": true, \"state\": \"draining\", \"connections\": %d}\n", clients);
    } else if (!strcmp(name, "resume") && only(f, n, " command ") && !stops) {
        if (listener >= 0)
            table[listener].until = 0;
        else if (!open_port())
            return say(fd, "{\"ok\": false, \"error\": \"the port is taken\", \"hint\": \"who listens on it?\"}\n");
        draining = false, rate = deadline = 0;
        say(fd, "{\"ok\": true, \"state\": \"ready\", \"connections\": %d}\n", clients);
    } else if (!strcmp(name, "handoff") && only(f, n, " command to count listener deadline ") && to && count >= 0 &&
               !moving) {
        hand_off(fd, to->text, get(f, n, "count") ? (long)count : most, wants && *wants->text == 't');
    } else if (!strcmp(name, "receive") && !stranger(fd)) {
        const struct field *versions = get(f, n, "versions"), *framing = get(f, n, "framing");
        bool fits = versions && strchr(versions->text, '1') && framing && !strcmp(framing->text, "line") && !draining;
        say(fd, fits ? "{\"ok\": true, \"version\": 1, \"room\": %d}\n"
                     : "{\"ok\": false, \"error\": \"cannot take them\", "
                       "\"hint\": \"version 1, framing line, state ready\"}\n", most - 64 - clients);
        table[fd].kind = fits ? RECEIVING : CONTROL;
    } else {
        say(fd, "{\"ok\": false, \"error\": \"not a command that can be done now\", \"hint\": \"docs/control.md\"}\n");
    }
}

void on_control(int fd)
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
