"""What this machine lacks for the fleet. Each module has one theme: its facts, how they are read and judged.

Judging is pure: facts and needs in, findings out. Values are read from /proc and never from what a command said it
did: `sysctl -w` exits 0 even if it changed nothing.
"""
