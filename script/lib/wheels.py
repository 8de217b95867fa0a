"""A wheel house of this checkout: `wheels.py DIR [VERSION]`. Hosts install from it with no package index.

The wheel of portfleet is made anew (under VERSION where one is given, for trying upgrades); its dependencies are
fetched once for the Pythons of Debian 12, Ubuntu 24.04 and Debian 13.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
SOURCES = ("balancer", "daemon", "templates", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")


def pip(*arguments: str | Path) -> None:
    """Run pip; exits with what it said where it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip {' '.join(command[4:])}: exit {done.returncode}\n{done.stderr[-2000:]}")


def build(house: Path, version: str | None) -> Path:
    """Build portfleet's wheel into ``house`` and give it."""
    with tempfile.TemporaryDirectory() as work:
        source = Path(work, "source")
        source.mkdir()
        for name in SOURCES:
            copy = shutil.copytree if (TOP / name).is_dir() else shutil.copyfile
            copy(TOP / name, source / name)
        if version:
            for file in (source / "pyproject.toml", source / "balancer/portfleet/__init__.py"):
                text = file.read_text()
                file.write_text(re.sub(r'^(version|__version__) = ".*"', rf'\1 = "{version}"', text, flags=re.M))
        pip("wheel", "--no-deps", "--wheel-dir", Path(work, "out"), source)
        (wheel,) = Path(work, "out").glob("portfleet-*.whl")
        for old in house.glob(wheel.name):
            old.unlink()
        return Path(shutil.move(wheel, house))


def main(house: Path, version: str | None) -> None:
    """Bring the wheel house up to date."""
    house.mkdir(parents=True, exist_ok=True)
    if not version:
        for old in house.glob("portfleet-*.whl"):
            old.unlink()
    wheel = build(house, version)
    project = (TOP / "pyproject.toml").read_bytes()
    stamp = house / "dependencies-of"
    if not stamp.exists() or stamp.read_bytes() != project:
        for python in PYTHONS:
            pip("download", "--dest", house, "--only-binary=:all:", "--python-version", python, wheel)
        stamp.write_bytes(project)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2] if len(sys.argv) > 2 else None)
