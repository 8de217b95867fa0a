"""portfleet_daemon: a single-threaded epoll server for many long-lived, latency-critical connections."""

__version__ = "0.1.0"
