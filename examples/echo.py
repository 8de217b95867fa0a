"""The smallest service: the reply is the request.

portfleet-daemon --port 7101 --handler echo:respond
printf 'hello\n' | nc -q1 localhost 7101
"""


def respond(request: bytes) -> bytes:
    """Reply with the request, upper-cased, so that one sees it went through here."""
    return request.upper()
