"""The long form of the adversary test: `adversary.py MINUTES [SEED]`; prints the report of the faults beside it."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.adversary import besiege


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    report, tries = besiege(seed=options.seed, seconds=60 * options.minutes)
    print(report.text())
    print(f"{tries:,} attempts of a local user, of which none succeeded")
    return 0 if not report.refused and not report.lost_beside else 1


if __name__ == "__main__":
    sys.exit(main())
