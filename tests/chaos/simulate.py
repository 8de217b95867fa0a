"""The long form of the simulated fleet: `simulate.py NUMBER [SEED]`, so many schedules from a seed on."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.simulated import simulate

#: Schedules that a process carries out at a time.
_BATCH = 50


def batch(first: int, number: int) -> list[str]:
    """Carry out schedules and return what did not hold, as text."""
    found = []
    for seed in range(first, first + number):
        try:
            simulate(seed)
        except Exception as error:  # noqa: BLE001 (whatever comes out is what is looked for)
            found.append("".join(traceback.format_exception(error)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began, failed, end = time.monotonic(), 0, options.seed + options.number
    firsts = range(options.seed, end, _BATCH)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for found in pool.map(batch, firsts, (min(_BATCH, end - first) for first in firsts)):
            failed += len(found)
            for text in found:
                print(text, flush=True)
    print(f"{options.number:,} schedules, {failed} in which something did not hold, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
