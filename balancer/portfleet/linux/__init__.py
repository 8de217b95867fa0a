"""What the kernel knows of this machine: sockets, routes, processes, resource limits."""
