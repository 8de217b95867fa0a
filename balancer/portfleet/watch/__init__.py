"""The watcher: keeps what is equal to what is wanted. It ejects, re-admits, restarts and heals.

``watcher`` holds the parts together; ``deaths`` (pidfds), ``prober`` and ``health`` say who serves, ``ejector`` points
slots, ``healer`` keeps the rules, ``restarts`` brings crash loops back, ``server`` answers on run/watch.sock.
"""
