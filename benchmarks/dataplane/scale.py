"""What 1,000 services of four instances and 256 slots cost: to load, to drain one instance of, and for a first packet.

Two boxes of namespaces, one with the large fleet and one with a fleet of one service; rules are loaded as `apply` loads
them. What the kernel takes of a drain is told by strace; libnftables reads the names of all chains before it. First
packets are connects from a client's box, in turn to the one and to the other. Prints a table, writes
benchmarks/results/dataplane-scale.json, exits 1 where a target is missed. Needs root and strace; about three minutes.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lib.build import ROOT
from benchmarks.lib.measure import CPUS, save

sys.path.insert(0, str(ROOT / "tests"))

from portfleet.core.changes import Divert, Transaction
from portfleet.core.derive import make_desired
from portfleet.core.desired import Desired
from portfleet.core.journal import Journal
from portfleet.core.observed import Observed, ObservedInstance
from portfleet.core.plan import make_plan, transactions
from portfleet.core.routing import route
from portfleet.dataplane.nft.context import NftContext
from portfleet.dataplane.nft.plane import NftPlane
from support.fleets import PATHS, fleet, machine
from support.netns import beside, network_of
from support.sandbox import HOST4, Sandbox, client4, sandbox

DRAIN_MS, FIRST_PACKET = 20.0, 1.05
FIRST_LISTEN, FIRST_PORT = 2000, 10_000
_SERVICE = """
[service.s{number}]
listen = [":{listen}"]
command = ["redis-server", "--port", "{{port}}"]
ports = "{low}-{high}"
instances = 4
slots = 256
"""


def desired(services: int) -> Desired:
    """Return a fleet of so many services."""
    texts = (
        _SERVICE.format(number=n, listen=FIRST_LISTEN + n, low=FIRST_PORT + 8 * n, high=FIRST_PORT + 8 * n + 7)
        for n in range(services)
    )
    return make_desired(fleet("".join(texts), machine(local_ports=(61_000, 62_000))), Journal(), PATHS)


def observed(kernel: NftPlane, wanted: Desired) -> Observed:
    """Return the kernel as it is and every instance ready."""
    running = [want.name for service in wanted.services.values() for want in service.running]
    instances = {name: ObservedInstance("RUNNING", ready=True) for name in running}
    return Observed(plane=kernel.observe(), instances=instances)


def apply(kernel: NftPlane, wanted: Desired) -> int:
    """Load what is missing, as `apply` does; gives the number of transactions."""
    now = observed(kernel, wanted)
    done = 0
    for _, transaction in transactions(make_plan(wanted, now).steps, wanted, now.plane):
        kernel.run(transaction)
        done += 1
    return done


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Run ``action``; gives its seconds and its result."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def slab() -> int:
    """Return the kernel's slab memory in bytes."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))
    return int(line.split()[1]) * 1024


def load(memory: Path, services: int) -> dict[str, Any]:
    """Load a fleet into an empty kernel, then once more; in a process of its own, for its peak memory."""
    before = slab()
    kernel = NftPlane(memory)
    making, wanted = timed(lambda: desired(services))
    loading, count = timed(lambda: apply(kernel, wanted))
    again, nothing = timed(lambda: apply(kernel, wanted))
    looking, _ = timed(kernel.observe)
    return {
        "services": services,
        "config_and_home_tables_s": making,
        "first_apply_s": loading,
        "transactions": count,
        "apply_without_changes_s": again,
        "transactions_then": nothing,
        "observe_s": looking,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "kernel_slab_mb": (slab() - before) / 2**20,
    }


def drains(memory: Path, services: int, *, rounds: int) -> dict[str, Any]:
    """Drain and undrain one instance: times in the kernel, with libnftables before it, and of all from reading on."""
    kernel, wanted = NftPlane(memory), desired(services)
    want = wanted.services[f"s{services // 2}"]
    name = want.instances[0].name
    alone, whole, diversions = [], [], []
    nft = NftContext()  # the transaction without what is around it

    def turned(out: frozenset[str]) -> Transaction:
        return (route(want, kernel.read_slots(want.name), out=out),)

    def turn(out: frozenset[str]) -> None:
        kernel.run(turned(out))

    with in_kernel() as batches:
        for _ in range(rounds):
            for out in (frozenset({name}), frozenset[str]()):
                nft.do(kernel.text(turned(out)))
    for _ in range(rounds):
        for out in (frozenset({name}), frozenset[str]()):
            script = kernel.text(turned(out))
            alone.append(timed(partial(nft.do, script))[0] * 1000)
        for out in (frozenset({name}), frozenset[str]()):
            whole.append(timed(partial(turn, out))[0] * 1000)
    for number in range(rounds):
        detour = (Divert(name, want.instances[1 + number % 2].name),)
        diversions.append(timed(partial(kernel.run, detour))[0] * 1000)
    found = {
        "kernel_transaction_ms": batches,
        "libnftables_and_kernel_ms": alone,
        "read_decide_and_transaction_ms": whole,
        "diversion_ms": diversions,
    }
    return {what: spread(values) for what, values in found.items()}


@contextmanager
def in_kernel() -> Iterator[list[float]]:
    """Collect the milliseconds that each batch of nftables sent in the block took in the kernel, by strace(1)."""
    found: list[float] = []
    with tempfile.NamedTemporaryFile("r") as trace:
        command = ["strace", "-T", "-e", "trace=sendmsg", "-o", trace.name, "-p", str(os.getpid())]
        watching = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert watching.stderr is not None
        watching.stderr.readline()  # "attached"
        try:
            yield found
        finally:
            watching.terminate()
            watching.communicate()
        for line in trace.read().splitlines():
            if "NFNL_MSG_BATCH_BEGIN" in line and line.endswith(">"):
                found.append(float(line.rpartition("<")[2][:-1]) * 1000)


def spread(values: list[float]) -> dict[str, float]:
    """Return the least, the median and the 90th percentile."""
    return {
        "least": min(values),
        "median": statistics.median(values),
        "p90": statistics.quantiles(values, n=10)[8],
    }


def accept(ports: list[int], up: Any) -> None:
    """Accept and close for ever, now and then: who waits in accept(2) would be woken in the middle of each connect."""
    os.sched_setaffinity(0, {CPUS[0]})
    listeners = []
    for port in ports:
        listener = socket.socket(socket.AF_INET6)
        listener.bind(("::", port))
        listener.listen(4096)
        listener.setblocking(False)
        listeners.append(listener)
    up.set()
    while True:
        for listener in listeners:
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
        time.sleep(0.02)


def connects(boxes: Sandbox, port: int, *, count: int) -> list[float]:
    """Connect ``count`` times from as many addresses; gives the microseconds that each took."""
    took = []
    reset = struct.pack("ii", 1, 0)  # SO_LINGER with 0: closed by a reset, so that nothing is left behind
    with network_of(boxes.clients):
        for number in range(count):
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                connection.bind((client4(number * 31 % 120_000), 0))
                began = time.perf_counter()
                connection.connect((HOST4, port))
                took.append((time.perf_counter() - began) * 1e6)
    return took


def in_box(boxes: Sandbox, action: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run ``action`` in a process of its own in the host's network."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        theirs.send(action(*args, **options))

    with network_of(boxes.host):
        process = context.Process(target=child)
        process.start()
    theirs.close()
    result = ours.recv()
    process.join()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench dataplane/scale", description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=40, help="of connects, 1,000 to each fleet (default 40)")
    parser.add_argument("--quick", action="store_true", help="50 services and 4 rounds, to see that it runs")
    args = parser.parse_args()
    services, rounds = (50, 4) if args.quick else (args.services, args.rounds)
    with tempfile.TemporaryDirectory() as directory, sandbox() as large, sandbox() as small:
        memory = Path(directory) / "large.json"
        print(f"loading {services:,} services, draining, connecting ...", file=sys.stderr)
        results = {"load": in_box(large, load, memory, services)}
        in_box(small, load, Path(directory) / "small.json", 1)
        results["drain"] = in_box(large, drains, memory, services, rounds=max(20, rounds))
        os.sched_setaffinity(0, {CPUS[-1]})
        middle = services // 2
        ports = [FIRST_PORT + 8 * middle + number for number in range(4)]
        others = [FIRST_PORT + number for number in range(4)]
        with beside(large.host, accept, ports), beside(small.host, accept, others):
            pairs = []
            for number in range(rounds + 2):
                order = [(large, FIRST_LISTEN + middle), (small, FIRST_LISTEN)]
                found: dict[bool, list[float]] = {True: [], False: []}
                for turns in range(20):  # short turns, so that a disturbance meets both
                    for boxes, port in order if (number + turns) % 2 else reversed(order):
                        found[boxes is large] += connects(boxes, port, count=50)
                # Lower quartiles: what a connect takes while no other process has the processor.
                pairs.append((statistics.quantiles(found[True], n=4)[0], statistics.quantiles(found[False], n=4)[0]))
        pairs = pairs[2:]  # the first fill caches
    ratio = statistics.median(many / one for many, one in pairs)
    results["first_packet"] = {
        "connect_us_large": statistics.median(many for many, _ in pairs),
        "connect_us_one": statistics.median(one for _, one in pairs),
        "ratio": ratio,
        "ratios": [many / one for many, one in pairs],
    }
    for part, values in results.items():
        print(part, {key: value for key, value in values.items() if key != "ratios"})
    drain = results["drain"]["kernel_transaction_ms"]["median"]
    rows = [
        ("ms to drain one instance, the kernel's transaction", drain, DRAIN_MS),
        ("connect to the large fleet / to the small one", ratio, FIRST_PACKET),
    ]
    for what, measured, wanted in rows:
        print(f"{'met   ' if measured <= wanted else 'MISSED'} {what}: {measured:.3f} <= {wanted}")
    if not args.quick:
        print(save("dataplane-scale", results))
    return 0 if args.quick or all(measured <= wanted for _, measured, wanted in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
