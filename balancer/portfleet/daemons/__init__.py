"""Asking an instance: its control socket, its port, the hand-off of its connections, how busy it is."""
