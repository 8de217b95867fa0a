"""A handler with a call that blocks: a query to a database file. Run it in worker processes:

    WORDS_DB=/tmp/words.db portfleet-daemon --port 7101 --workers 4 --handler blocking:respond

A request `word` is answered with how often it was asked for, by any client of any worker. In the loop itself, each
query would hold up every other client; in a worker it holds up only the one that asked.
"""

from __future__ import annotations

import os
import sqlite3
from functools import cache


@cache
def database() -> sqlite3.Connection:
    """One connection per worker process, opened with its first request."""
    connection = sqlite3.connect(os.environ["WORDS_DB"], timeout=30, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS words (word BLOB PRIMARY KEY, asked INTEGER NOT NULL)")
    return connection


def respond(request: bytes) -> bytes:
    """Count a word; waits for the file's lock, and for the disk."""
    query = "INSERT INTO words VALUES (?, 1) ON CONFLICT (word) DO UPDATE SET asked = asked + 1 RETURNING asked"
    (asked,) = database().execute(query, (request,)).fetchone()
    return b"%b %d" % (request, asked)
