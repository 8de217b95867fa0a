"""The recipes of docs/recipes.md, each run as it stands there with the daemon that nobody here wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.rights import needs_another_user
from support.watched import wait_event

_PAGE = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: The first line of a file's block: its name, and where it lies.
_NAMED = re.compile(r"(?:#|//) (\S+), (beside fleet.toml|in the release)\n")
_GET = "GET / HTTP/1.0\r\n\r\n"
#: CONNECT of MQTT 3.1.1 as client "a", and the accepting CONNACK.
_CONNECT, _CONNACK = "\x10\x0d\0\4MQTT\4\2\0\x3c\0\1a", "\x20\2\0\0"
#: Asks on 127.0.0.1 and prints what comes.
_ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5) as connection:
    connection.sendall(eval(sys.argv[2]).encode("latin-1"))
    print(repr(connection.recv(4096).decode("latin-1")))
"""


def section(title: str) -> tuple[str, dict[str, str]]:
    """Return the config of a recipe, and its files by their path in the box."""
    text = _PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    config, files = "", {}
    for language, body in _BLOCK.findall(text):
        if language == "toml":
            config += body
        elif found := _NAMED.match(body):
            files[f"{HOME if 'beside' in found[2] else '/run/app'}/{found[1]}"] = body
    return config.replace("/srv/app/v1", "/run/app"), files


def asked(box: FleetBox, port: int, message: str) -> str:
    return box.boxes.host.run("python3", "-c", _ASK, str(port), repr(message), check=False).stdout


@pytest.mark.long
@needs_another_user
@pytest.mark.parametrize(
    ("title", "ports", "message", "expected"),
    [
        ("redis", [6379], "PING\r\n", "+PONG"),
        ("memcached", [11211], "version\r\n", "VERSION"),
        ("nginx", [80], _GET, "web-"),
        ("mosquitto", [1883], _CONNECT, repr(_CONNACK)[1:-1]),
        pytest.param("gunicorn, uvicorn", [8000, 8001], _GET, "200 OK", marks=pytest.mark.full),
        pytest.param("node", [8002], _GET, "200 OK", marks=pytest.mark.full),
    ],
)
def test_it_runs_as_it_stands_is_restarted_and_cut_over_and_leaves_nothing(
    title: str, ports: list[int], message: str, expected: str
) -> None:
    config, files = section(title)
    with fleet_box() as box:
        box.boxes.host.run("install", "-d", "-m", "711", "/run/portfleet")  # as a fleet of the system has it
        for path, text in files.items():
            box.boxes.host.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}", text=text)
        box.write(config)
        box.portfleet("up")
        wait_event(box, "watching")
        for port in ports:
            assert expected in asked(box, port, message)
        (service, *_) = re.findall(r"^\[service\.(\w+)\]", config, re.MULTILINE)
        box.portfleet("restart", service)
        box.portfleet("cutover", service, "--force", "--keep", "0")
        assert box.status()[f"{service}-green-1"]["state"] == "ready"
        assert expected in asked(box, ports[0], message)
        (program, *_) = re.findall(r'command += \["([\w-]+)"', config)
        box.portfleet("down", "--yes")
        assert not [words for words in box.processes().values() if program in words]
