/* An instance for benchmarks of the control plane: one thread that sleeps until it is asked, a megabyte of memory.
 *
 * It echoes on its port, and answers "state" and "status" on its control socket (docs/control.md); every other command
 * is refused. It ends at once by SIGTERM. PORTFLEET_CONTROL says where the socket is, argv[1] is the port.
 */
#include <arpa/inet.h>
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST = 65536, BATCH = 64, LINE = 4096, CLIENT = 1, OPERATOR = 2 };

static unsigned char kind[MOST]; /* of a descriptor; 0: none that is ours */
static int connections, epoll;

static void watch(int fd, unsigned char as) {
    if (fd >= MOST) errx(3, "too many descriptors");
    kind[fd] = as;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
}

static void end(int fd) {
    connections -= kind[fd] == CLIENT;
    kind[fd] = 0;
    close(fd);
}

static void serve(int fd) {
    char data[LINE + 1];
    ssize_t size = read(fd, data, LINE);
    if (size <= 0) return end(fd);
    if (kind[fd] == OPERATOR) {
        data[size] = 0;
        int known = strstr(data, "\"state\"") || strstr(data, "\"status\"");
        size = known ? sprintf(data, "{\"ok\": true, \"state\": \"ready\", \"connections\": %d}\n", connections)
                     : sprintf(data, "{\"ok\": false, \"error\": \"unknown command\"}\n");
    }
    if (write(fd, data, size) < 0) end(fd);
}

int main(int argc, char **argv) {
    const char *path = getenv("PORTFLEET_CONTROL");
    struct sockaddr_un control = {.sun_family = AF_UNIX};
    struct sockaddr_in6 port = {.sin6_family = AF_INET6};
    if (argc != 2 || !path || strlen(path) >= sizeof control.sun_path) errx(2, "usage: PORTFLEET_CONTROL=F instance PORT");
    strcpy(control.sun_path, path);
    port.sin6_port = htons(atoi(argv[1]));
    signal(SIGPIPE, SIG_IGN);
    unlink(path);
    umask(0177);
    epoll = epoll_create1(0);
    int clients = socket(AF_INET6, SOCK_STREAM, 0), operators = socket(AF_UNIX, SOCK_STREAM, 0);
    setsockopt(clients, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(clients, (void *)&port, sizeof port) || listen(clients, 4096)) err(3, "port %s", argv[1]);
    if (bind(operators, (void *)&control, sizeof control) || listen(operators, 64)) err(3, "%s", path);
    watch(clients, 0);
    watch(operators, 0);
    for (struct epoll_event events[BATCH];;) {
        int found = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < found; i++) {
            int fd = events[i].data.fd;
            if (kind[fd]) {
                serve(fd);
            } else if (fd == clients || fd == operators) {
                int made = accept(fd, NULL, NULL);
                if (made < 0) continue;
                watch(made, fd == clients ? CLIENT : OPERATOR);
                connections += fd == clients;
            }
        }
    }
}
