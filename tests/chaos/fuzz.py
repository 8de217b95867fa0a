"""The long form of the fuzzers of files: `fuzz.py NUMBER [SEED]`, so many damaged journals, state files and configs."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import fuzz_state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    whole, slowest, failed = fuzz_state.sample(), 0.0, 0
    with TemporaryDirectory() as directory:
        for number in range(options.number):
            chance = random.Random(f"{options.seed} {number}")
            for what in ("journal", "states", "config"):
                began = time.monotonic()
                try:
                    if what == "journal":
                        fuzz_state.try_journal(fuzz_state.damaged(whole, chance))
                    elif what == "states":
                        fuzz_state.try_states(Path(directory), chance)
                    else:
                        fuzz_state.try_config(fuzz_state.damaged_config(chance))
                except Exception as error:  # noqa: BLE001 (whatever comes out is what is looked for)
                    failed += 1
                    print(f"{what} {number}: {error!r}", flush=True)
                slowest = max(slowest, time.monotonic() - began)
    print(f"{3 * options.number:,} inputs, {failed} with a traceback, the slowest took {slowest:.2f} s")
    return 1 if failed or slowest > 5 else 0


if __name__ == "__main__":
    sys.exit(main())
