"""The long form of the chaos test: `soak.py MINUTES [SEED]`; prints the report, and as JSON into --report FILE."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.chaos import soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--report", type=Path, help="write the report as JSON here")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    report = soak(seed=options.seed, seconds=60 * options.minutes, at_least=5)
    print(report.text())
    if options.report:
        options.report.write_text(report.as_json() + "\n")
    return 0 if min(report.counts().values()) >= 5 and not report.refused and not report.lost_beside else 1


if __name__ == "__main__":
    sys.exit(main())
