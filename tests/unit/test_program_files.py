"""supervisord's config read file by file: what comes of it is what supervisor's own parser makes of the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor import options

from portfleet.supervise.program_files import read_each_once

CONFIG = """
[supervisord]
logfile=%(here)s/log
[include]
files={folder}/programs/*.conf
"""
PROGRAM = """; Written by portfleet
[program:{name}]
command=/bin/sh -c "%(here)s/{name}; exit 100%%"
environment=A="1",WHERE="%(here)s"
stdout_logfile={folder}/%(program_name)s.log
"""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    own = options.UnhosedConfigParser
    yield
    options.UnhosedConfigParser = own


def read(folder: Path) -> tuple[list[Any], str]:
    """Return the programs, and where supervisord logs."""
    made = options.ServerOptions()
    made.realize(args=["-c", str(folder / "supervisord.conf")])
    return made.process_group_configs, made.logfile


def test_what_is_read_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "supervisord.conf").write_text(CONFIG.format(folder=tmp_path))
    for name in ("one", "two", "three"):
        (tmp_path / "programs" / f"{name}.conf").write_text(PROGRAM.format(name=name, folder=tmp_path))
    theirs = read(tmp_path)
    read_each_once()
    ours = read(tmp_path)
    assert ours == theirs and ours[1] == f"{tmp_path}/log"
    (one,) = (group.process_configs[0] for group in ours[0] if group.name == "two")
    assert one.environment["WHERE"] == f"{tmp_path}/programs" and one.stdout_logfile == f"{tmp_path}/two.log"


def test_a_damaged_file_is_told_as_before(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "supervisord.conf").write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "programs" / "one.conf").write_text("[program:one]\ncommand\n")
    read_each_once()
    with pytest.raises(SystemExit):
        read(tmp_path)
