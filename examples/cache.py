"""A key-value cache that speaks the Redis protocol.

    portfleet-daemon --port 7101 --framing resp --handler cache:respond
    redis-cli -p 7101 set greeting hello

Each instance has a cache of its own. With `affinity = "source"` a client always reaches the same instance, and its
keys with it; with round robin over four instances three of four GETs would miss what the same client has SET.
`INFO` shows hits and misses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from portfleet_daemon.framing import RespError

Reply = bytes | str | int | None | list[bytes] | RespError

MOST_KEYS = 100_000  # the least recently used go first
entries: OrderedDict[bytes, bytes] = OrderedDict()
counters = {"hits": 0, "misses": 0}


def ping(*message: bytes) -> Reply:
    """PING [message]"""
    return message[0] if message else "PONG"


def echo(message: bytes) -> Reply:
    """ECHO message"""
    return message


def get(key: bytes) -> Reply:
    """GET key"""
    value = entries.get(key)
    counters["misses" if value is None else "hits"] += 1
    if value is not None:
        entries.move_to_end(key)
    return value


def put(key: bytes, value: bytes) -> Reply:
    """SET key value"""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > MOST_KEYS:
        entries.popitem(last=False)
    return "OK"


def delete(*keys: bytes) -> Reply:
    """DEL key [key ...]"""
    return sum(entries.pop(key, None) is not None for key in keys)


def size() -> Reply:
    """DBSIZE"""
    return len(entries)


def info(*_: bytes) -> Reply:
    """INFO"""
    return "".join(f"{name}:{value}\r\n" for name, value in counters.items()).encode()


def config(verb: bytes, *names: bytes) -> Reply:
    """CONFIG GET name: nothing can be configured; redis-benchmark asks all the same"""
    if verb.upper() != b"GET":
        return RespError("ERR only CONFIG GET")
    return [part for name in names for part in (name, b"")]


COMMANDS: dict[bytes, Callable[..., Reply]] = {
    b"PING": ping,
    b"ECHO": echo,
    b"GET": get,
    b"SET": put,
    b"DEL": delete,
    b"DBSIZE": size,
    b"INFO": info,
    b"CONFIG": config,
}


def respond(request: list[bytes]) -> Reply:
    """Run one command."""
    name, *arguments = request
    command = COMMANDS.get(name) or COMMANDS.get(name.upper())
    if command is None:
        return RespError(f"ERR unknown command {name[:64]!a}")
    try:
        return command(*arguments)
    except TypeError:
        return RespError(f"ERR wrong number of arguments, it is {command.__doc__}")
