"""A chaos run that is watched by the metrics and events alone: `watched.py MINUTES [SEED] [--pictures FOLDER]`.

Exits 1 if a fault does not show in both. Pictures of the page are taken before, during and after the faults.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.chaos import CONFIG, KINDS, Chaos, chaos_box
from support.fleet_box import HOME, FleetBox
from support.sandbox import wait_for
from support.witness import METRICS, PORT, Seen, witness


def watched(*, seed: int, seconds: float, pictures: Path | None = None) -> list[Seen]:
    """Do rounds of one fault each for ``seconds``, every kind once at least; return how each showed."""
    order = random.Random(seed)
    with chaos_box(CONFIG + METRICS) as box:
        chaos, until = Chaos(box, seed), time.monotonic() + seconds
        _picture(box, pictures, "before")
        with witness(box) as found:
            while time.monotonic() < until or min(chaos.report.counts().values()) < 1:
                for kind in order.sample(list(KINDS), len(KINDS)):
                    if kind == "conntrack table full":
                        wait_for("the warning of the one before is over", lambda: not chaos.warned(), seconds=180)
                    chaos.round([kind])
                    found.catch_up()  # so that nothing of this one is taken for the next
            _picture(box, pictures, "during", lambda: chaos.round(["SIGSTOP of an instance"]))
        _picture(box, pictures, "after")
    return found.seen(chaos.report.faults)


def _picture(box: FleetBox, folder: Path | None, name: str, meanwhile: Callable[[], None] | None = None) -> None:
    """Have a browser keep a picture of the page, and do something ``meanwhile``, more than once if it takes long."""
    if folder is None:
        return
    made = box.boxes.host.path(f"{HOME}/browser/{name}.png")

    def taken() -> bool:
        browser = box.boxes.host.popen(
            "unshare", "--mount", "sh", "-c", 'umount /etc && exec "$@"', "sh",  # without the clock of the test
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--timeout=4000",
            f"--user-data-dir={HOME}/browser", "--window-size=1280,1500", f"--screenshot={HOME}/browser/{name}.png",
            f"http://127.0.0.1:{PORT}/",
        )  # fmt: skip
        while meanwhile and browser.poll() is None:
            meanwhile()
        browser.communicate(timeout=60)
        return made.exists()

    wait_for(f"there is a picture of the page {name}", taken, seconds=120)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="keep pictures of the page here; needs chromium"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    seen = watched(seed=options.seed, seconds=60 * options.minutes, pictures=options.pictures)
    print(f"{'fault':<24} {'hit':<12} {'first event':<28} first metric")
    for one in seen:
        print(one.line)
    missed = [one for one in seen if not (one.event and one.metric)]
    print(f"{len(seen)} faults, {len(missed)} not seen in both")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
