"""portfleet: spread TCP connections over a fleet of single-threaded daemons with the kernel's own balancer."""

__version__ = "0.1.0"
