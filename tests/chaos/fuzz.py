"""The long form of the fuzzers of the control tool: `fuzz.py NUMBER [SEED]`, so many damaged inputs of each kind."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import fuzz_answers, fuzz_relocation, fuzz_state


def _kinds(directory: Path) -> dict[str, Callable[[random.Random], object]]:
    """Return what is tried with each input, by name."""
    whole = fuzz_state.sample()
    return {
        "journal": lambda chance: fuzz_state.try_journal(fuzz_state.damaged(whole, chance)),
        "states": lambda chance: fuzz_state.try_states(directory, chance),
        "config": lambda chance: fuzz_state.try_config(fuzz_state.damaged_config(chance)),
        "answer": fuzz_answers.try_answer,
        "departure": lambda chance: fuzz_relocation.try_departure(directory, chance),
        "arrival": lambda chance: fuzz_relocation.try_arrival(directory, chance),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    failed = 0
    with TemporaryDirectory() as directory:
        kinds = _kinds(Path(directory))
        slowest = dict.fromkeys(kinds, 0.0)
        for number in range(options.number):
            chance = random.Random(f"{options.seed} {number}")
            for what, attempt in kinds.items():
                began = time.monotonic()
                try:
                    attempt(chance)
                except Exception as error:  # noqa: BLE001 (whatever comes out is what is looked for)
                    failed += 1
                    print(f"{what} {number}: {error!r}", flush=True)
                slowest[what] = max(slowest[what], time.monotonic() - began)
    for what, took in slowest.items():
        print(f"{what}: {options.number:,}, the slowest took {took:.2f} s")
    print(f"{len(kinds) * options.number:,} inputs, {failed} with a traceback", flush=True)
    return 1 if failed or max(slowest.values()) > 5 else 0


if __name__ == "__main__":
    sys.exit(main())
