"""Files made of templates: what is filled in, what is refused, and that no other user has a say in where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.apply.rendered import Rendered
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from support.fleets import ECHO, desired, fleet, problems

FILES = ECHO + 'files = { "/run/x/{instance}.conf" = "daemon.conf.in" }\nextra_ports = { metrics = 9100 }\n'


def rendered(folder: Path, target: str, template: str = "daemon.conf.in") -> Rendered:
    """Return the files of the second instance, one below ``folder``."""
    program = desired(FILES).services["echo"].instances[1].program
    assert program is not None
    return Rendered(replace(program, files={str(folder / target): template}), folder)


def test_each_instance_has_its_own_with_its_own_values(tmp_path: Path) -> None:
    (tmp_path / "daemon.conf.in").write_bytes(b"listen {port} {port_metrics}\nformat {{message}} { x } \xff\n")
    one = rendered(tmp_path, "made/echo-blue-2.conf")
    one.check()
    one.write()
    made = tmp_path / "made/echo-blue-2.conf"
    assert made.read_bytes() == b"listen 7101 9101\nformat {message} { x } \xff\n"
    assert made.stat().st_mode & 0o777 == 0o600 and made.parent.stat().st_mode & 0o777 == 0o755
    before = one.digest()
    (tmp_path / "daemon.conf.in").write_text("listen {port}\n")
    assert one.digest() != before
    assert [path.name for path in made.parent.iterdir()] == ["echo-blue-2.conf"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"{prot}", "unknown placeholder {prot}"),
        (b"x" * (1 << 20) + b"x", "longer than 1,048,576 bytes"),
    ],
)
def test_a_template_that_makes_no_file_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "daemon.conf.in").write_bytes(content)
    with pytest.raises(PortfleetError, match=said) as error:
        rendered(tmp_path, "a.conf").check()
    assert error.value.hint and error.value.code is Exit.USAGE


def test_a_template_without_end_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(PortfleetError, match="it is no regular file"):
        rendered(tmp_path, "a.conf", "/dev/zero").check()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_directory_that_others_may_write_to_is_refused_at_any_depth(tmp_path: Path, mode: int) -> None:
    (tmp_path / "daemon.conf.in").write_text("{port}")
    (tmp_path / "open/deep").mkdir(parents=True)
    (tmp_path / "open").chmod(mode)
    (tmp_path / "link").symlink_to("open/deep")
    deep = () if mode == 0o1777 else ("open/deep/a.conf", "link/a.conf")  # what is there cannot be renamed by others
    for target in ("open/a.conf", "open/new/a.conf", *deep):
        with pytest.raises(PortfleetError, match=f"{tmp_path}/open, to which other users may write"):
            rendered(tmp_path, target).write()
    assert [path for path in (tmp_path / "open").rglob("*") if path.is_file()] == []


def test_what_is_no_file_of_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "daemon.conf.in").write_text("{port}")
    (tmp_path / "link.conf").symlink_to("/etc/passwd")
    (tmp_path / "folder").mkdir()
    for target in ("link.conf", "folder"):
        with pytest.raises(PortfleetError, match="is no regular file"):
            rendered(tmp_path, target).write()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('files = { "/run/x.conf" = "t" }', "holds neither {instance} nor {port}"),
        ('files = { "/run/../etc/{port}" = "t" }', "is not the absolute path of a file, without .."),
        ('files = { "run/{port}" = "t" }', "is not the absolute path"),
        ('files = { "/run/{port}/" = "t" }', "is not the absolute path"),
        ('files = { "/run/{port}" = "" }', "names no template"),
        ('files = { "/run/{prot}{port}" = "t" }', "unknown placeholder {prot}"),
        ("files = { '/run/{port}' = '{release}/t' }", "no release is set"),
        ("extra_ports = { metrics = 7103 }", "overlaps the ports of service echo"),
        ("extra_ports = { a = 9100, b = 9107 }", "overlaps the extra_ports.a of service echo"),
        ("extra_ports = { metrics = 6999 }", "holds port 7000, which service echo listens on"),
        ("extra_ports = { metrics = 65530 }", "above 65535"),
        ("extra_ports = { metrics = 32768 }", "lies in net.ipv4.ip_local_port_range"),
        ("extra_ports = { metrics = 0 }", "not within 1 … 65535"),
        ('extra_ports = { "Me-trics" = 9100 }', "is not a name that a placeholder can have"),
        ('environment = { A = "{port_metrics}" }', "unknown placeholder {port_metrics}"),
    ],
)
def test_what_the_config_shows_by_itself(line: str, said: str) -> None:
    assert [problem for problem in problems(f"{ECHO}{line}\n") if said in problem.message and problem.hint]


def test_both_colours_have_extra_ports_and_all_are_told() -> None:
    assert fleet(FILES).services["echo"].ranges == {"ports": (7100, 7107), "extra_ports.metrics": (9100, 9107)}
    instances = desired(FILES, Journal()).services["echo"].instances
    assert [one.extra_ports["metrics"] for one in instances] == list(range(9100, 9108))
    first = instances[0].program
    assert first is not None and first.environment["PORTFLEET_PORT_METRICS"] == "9100"
    assert first.files == {"/run/x/echo-blue-1.conf": "daemon.conf.in"}
