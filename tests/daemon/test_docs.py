"""What is written is checked: flags, exit codes, the protocol's example, and the code in docs/daemon.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from portfleet_daemon.commands import KEYS
from portfleet_daemon.errors import EXIT_CONFIG, EXIT_PORT, EXIT_STOPPED
from portfleet_daemon.handoff.wire import Inbox, Kind, Parcel, pack, pack_parcels, unpack_parcels
from portfleet_daemon.lifecycle import State
from support.daemons import Daemons

DOCS = Path(__file__).parents[2] / "docs"


def help_text() -> str:
    command = [sys.executable, "-m", "portfleet_daemon", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_every_flag_is_documented_and_no_other() -> None:
    text = (DOCS / "daemon.md").read_text()
    section = text.split("## Flags")[1].split("\n## ")[0]
    flags = set(re.findall(r"--[a-z-]+", help_text()))
    assert flags == set(re.findall(r"`(--[a-z-]+)", section))
    assert len(flags) == 16


def test_exit_codes_and_states_are_documented() -> None:
    text = (DOCS / "daemon.md").read_text()
    for code in (EXIT_STOPPED, EXIT_CONFIG, EXIT_PORT):
        assert f"| {code} |" in text
        assert re.search(rf"\b{code} ", help_text())
    for state in State:
        assert f"| `{state.value}` |" in text


def test_every_command_has_its_section() -> None:
    sections = re.findall(r"^## (\w+)$", (DOCS / "control.md").read_text(), re.MULTILINE)
    assert sections == [*KEYS, "receive"]


def test_the_protocols_example_is_what_the_code_sends_and_reads() -> None:
    text = (DOCS / "handoff.md").read_text().split("## 4.")[1].split("## 5.")[0]
    lines = re.findall(r"^    ((?:[0-9a-f]{2} {1,2})*[0-9a-f]{2})\b", text, re.MULTILINE)
    sent, answer = bytes.fromhex("".join(lines[:2])), bytes.fromhex(lines[2])
    parcel = Parcel(partial=b"PIN")
    assert sent == pack(Kind.CONNECTIONS, count=1, sequence=1, body=pack_parcels([parcel], version=1))
    assert answer == pack(Kind.ACK, count=1, sequence=1)
    (message,) = Inbox().feed(sent, [99])
    assert (message.descriptors, unpack_parcels(message.body, 1, version=1)) == ((99,), [parcel])


def test_the_code_in_the_page_runs(daemons: Daemons) -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (DOCS / "daemon.md").read_text(), re.MULTILINE)
    code = ["\n".join(line[4:] for line in block.splitlines()) for block in blocks]
    hello = next(block for block in code if "# hello.py" in block)
    counter = next(block for block in code if "class Counter" in block)
    pipe = next(block for block in code if "class Pipe" in block)
    (daemons.directory / "hello.py").write_text(hello.split("portfleet-daemon")[0])
    (daemons.directory / "counting.py").write_text(counter)
    (daemons.directory / "piping.py").write_text(pipe)
    with daemons.start(handler="hello:respond").connect() as client:
        assert client.ask(b"world\n") == b"hello, world\n"
    one, two = daemons.start(handler="counting:Counter"), daemons.start(handler="counting:Counter")
    with one.connect() as client:
        assert client.ask(b"x\n") == b"1\n"
        assert one.stream(command="handoff", to=two.control)[-1]["moved"] == 1
        assert client.ask(b"x\n") == b"2\n"
    with daemons.start("--framing", "piping:Pipe", handler="hello:respond").connect() as client:
        client.send(b"a|b|")
        assert client.receive(18) == b"hello, a|hello, b|"
