/* Linked into examples/c-daemon with --wrap=recv: its handler is as slow as those of the designs for the same lines. */
#include "design.h"

#include <sys/socket.h>

ssize_t __real_recv(int fd, void *data, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t size, int flags);

ssize_t __wrap_recv(int fd, void *data, size_t size, int flags)
{
    ssize_t n = __real_recv(fd, data, size, flags);
    if (n > 0)
        handle(data);
    return n;
}
