"""The tables of docs/benchmarks.md, docs/sizing.md and README.md, as {place: Markdown}."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.lib.sizing import size
from benchmarks.page.results import (
    NAMES,
    WAYS,
    Cell,
    Middle,
    beside,
    designs,
    found,
    of_rounds,
    over_rounds,
    read,
    sized,
    way,
)  # fmt: skip
from benchmarks.page.svg import number

_NONE = "–"
SIZES = (20_000, 50_000, 150_000)
CONNECTIONS = (100, 10_000, 50_000, 150_000)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cell(value: Middle | float | None, unit: str = "") -> str:
    if value is None:
        return _NONE
    if isinstance(value, Middle):
        return f"{number(value.value)}{unit} ({number(value.low)}–{number(value.high)})"
    return number(value) + unit


def measured() -> str:
    """Return the numbers on README's first screen."""
    rows = []
    for what, load, key in (
        ("median round trip, one connection, over a direct one", "requests at 1", "p50"),
        ("requests a second, 50 connections, over a direct one's", "requests at 50", "per_s"),
    ):
        some = {name: way(name, load, key) for name in WAYS if name != "direct"}
        told = {name: f"{value.value:.2f}" for name, value in some.items() if value}
        if "portfleet" in told:
            rest = " · ".join(f"{WAYS[name]} {value}" for name, value in told.items() if name != "portfleet")
            rows.append((what, f"**{told['portfleet']}**", rest))
    left = {name: over_rounds("release", name, "left", max) for name in WAYS}
    lost = over_rounds("release", "portfleet", "lost", max)
    if left["portfleet"] is not None and lost is not None:
        rest = " · ".join(f"{WAYS[name]} {value:,.0f}" for name, value in left.items()
                          if value is not None and name != "portfleet")  # fmt: skip
        rows.append(("2,000 connections in a release: left on the old processes; dropped",
                     f"**{left['portfleet']:,.0f}**; **{lost:,.0f}**", rest))  # fmt: skip
    crowd = {name: beside(cell, "p99") for name, cell in designs(150_000).items()}
    if own := crowd.get("fleet-ours"):
        what = "p99 with 150,000 established connections, over one epoll loop in C with 50"
        near = [f"{NAMES[name]} {value.value:.2f}" for name in ("reuseport", "fleet-c") if (value := crowd.get(name))]
        rows.append((what, f"**{own.value:.2f}**", " · ".join(near)))
    cpu = [found("daemon", "throughput", "50", name, "us_per_request") for name in ("portfleet", "C epoll")]
    if all(cpu):
        rows.append(("CPU of a request through our daemon, system calls included", f"**{cpu[0]:.1f} µs**",
                     f"an epoll loop in C {cpu[1]:.1f} µs"))  # fmt: skip
    moved = found("handoff", "plain") or {}
    if {"connections_per_second", "extra_ms_worst", "lost"} <= moved.keys():
        what = f"{found('handoff', 'connections'):,} connections handed to another process: a second; dropped"
        both = f"**{moved['connections_per_second']:,.0f}**; **{moved['lost']:,}**"
        rows.append((what, both, f"worst latency {moved['extra_ms_worst']:.1f} ms above the usual worst"))
    kills = found("watch-crash", "elsewhere_ms")
    if kills:
        rows.append((f"a process is killed: its clients are led elsewhere after (median of {len(kills)})",
                     f"**{median(kills):.1f} ms**", ""))  # fmt: skip
    return table(["measured", "portfleet", ""], rows)


def speed() -> str:
    """Return rates and latencies of the ways as ratios to the direct one."""
    loads = ("requests at 1", "requests at 50", "connects at 1", "connects at 50")
    rows = []
    for load in loads:
        for name, title in WAYS.items():
            if name != "direct" and way(name, load, "p50"):
                rows.append([load, title, *(_cell(way(name, load, key)) for key in ("per_s", "p50", "p99"))])
    return table(["load, connections", "way", "a second / direct", "p50 / direct", "p99 / direct"], rows)


def direct() -> str:
    """Return what the direct way had, for scale."""
    rounds = found("peers", "speed", "direct", "rounds") or {}
    rows = [
        [load, *(number(median(one[key] for one in some)) for key in ("per_s", "p50", "p99"))]
        for load, some in rounds.items()
    ]
    return table(["direct", "a second", "p50, µs", "p99, µs"], rows)


def release() -> str:
    """Return what a release costs by each way."""
    rows = []
    for name, title in WAYS.items():
        if found("peers", "release", name):
            lost, left = (over_rounds("release", name, key, max) for key in ("lost", "left"))
            worst, calm, extra = (over_rounds("release", name, key) for key in ("worst_ms", "calm_ms", "extra_ms"))
            rows.append([title, _cell(lost), _cell(left), _cell(worst), _cell(calm), _cell(extra)])
    if not rows:
        return "Not measured yet: `script/bench peers --only release`\n"
    return table(["", "dropped", "left on the old daemons", "worst latency, ms", "before it", "more by"], rows)


def kill() -> str:
    """Return what clients that connect notice of a daemon that is killed."""
    rows = []
    for name, title in WAYS.items():
        rounds = found("peers", "kill", name, "rounds")
        if rounds:
            failed = [f"{one['failed']:,}" for one in rounds]
            of, until = median(one["of"] for one in rounds), over_rounds("kill", name, "until_ms", max)
            rows.append([title, f"{', '.join(failed)} of {of:,.0f}", _NONE if until is None else f"{until:,.1f}"])
    if not rows:
        return "Not measured yet: `script/bench peers --only kill`\n"
    return table(["", "connects that failed, in each round", "the last one, ms after the kill"], rows)


def design_table(connections: int) -> str:
    """Return all of the designs with so many connections."""
    if not designs(connections):
        return f"Not measured yet: `script/bench designs --connections {connections}`\n"
    rows = []
    for name, cell in designs(connections).items():
        if "left_out" in cell:
            rows.append([NAMES[name], f"not measured: {cell['left_out']}", *[""] * 7])
        else:
            rows.append([NAMES[name], *_design(cell)])
    return table(
        ["", "processes", "p50, µs", "p99, µs", "p99 / reference", "p99.9, µs", "CPU, µs/request",
         "memory: process + kernel, bytes", "others over 10 ms beside a slow one"],
        rows,
    )  # fmt: skip


def _design(cell: Cell) -> list[str]:
    values = [of_rounds(cell, key) for key in ("p50", "p99", "p999", "cpu_us")]
    p50, p99, p999, cpu = (_NONE if value is None else number(value.value) for value in values)
    memory = cell["memory"]
    return [
        str(cell["processes"]), p50, p99, _cell(beside(cell, "p99")), p999, cpu,
        f"{number(max(0, memory['user']))} + {number(max(0, memory['kernel_both_ends']))}",
        f"{100 * cell['slow']['over_10ms']:.1f} %",
    ]  # fmt: skip


def broken() -> str:
    """Return what a release and a crash cost the designs."""
    rows = []
    for name, cell in designs(10_000).items():
        if "release" in cell:
            one = cell["release"]
            rows.append([
                NAMES[name], f"{one['lost']:,}", f"{one['left']:,}", number(one["worst_ms"]), number(one["calm_ms"]),
                f"{cell['crash']['lost']:,}",
            ])  # fmt: skip
    if not rows:
        return "Not measured yet: `script/bench designs --connections 10000`\n"
    return table(["of 10,000", "release: dropped", "left on the old process", "worst latency, ms", "before it, ms",
                  "killed process: dropped, of the idle ones"], rows)  # fmt: skip


#: What is done with instances that are probed so.
_PROBED = {"ours": "repeat their answer", "connect": "are only connected to", "send": "are sent a question"}


def places() -> str:
    """Return where and when each file was measured."""
    rows = []
    for name in ("peers", "designs", "daemon", "fleet-cutover", "fleet-handoff", "fleet-slices", "dataplane-scale",
                 "control-scale", "watch-rest", "watch-seen", "watch-crash"):  # fmt: skip
        for part, one in _environments(read(name)):
            load = one["load_average"][0]
            rows.append([f"{name}{part}", one["date"][:10], one["commit"], f"{one['cpu']}, {one['cpus']} CPUs",
                         one["kernel"], f"{load:.1f}"])  # fmt: skip
    return table(["result", "day", "commit", "machine", "kernel", "load average at its end"], rows)


def _environments(result: Cell) -> Iterable[tuple[str, Cell]]:
    """Yield (part, environment); of the parts of one kind that were measured together only the last."""
    if "environment" in result:
        yield "", result["environment"]
        return
    for part, cells in result.items():
        own = cells.get("environment")
        several = [cell["environment"] for cell in cells.values() if isinstance(cell, dict) and "environment" in cell]
        if own or several:
            yield f", {part}", own or max(several, key=lambda one: str(one["date"]))


def scale() -> str:
    """Return what grows with services and instances, and what does not."""
    rows = []
    services = found("dataplane-scale", "load", "services")
    if services:
        ratio = found("dataplane-scale", "first_packet", "ratio")
        rows.append([f"first packet with {services:,} services, over one service", number(ratio)])
        drain = found("dataplane-scale", "drain")
        rows.append([f"drain of one of {4 * services:,} instances: in the kernel, ms",
                     number(drain["kernel_transaction_ms"]["median"])])  # fmt: skip
        rows.append(["the same, with libnftables' look at all chains, ms",
                     number(drain["libnftables_and_kernel_ms"]["median"])])  # fmt: skip
        rows.append([f"diversion of one of {4 * services:,}, with which an ejection takes hold: median, ms",
                     number(drain["diversion_ms"]["median"])])  # fmt: skip
    kills = found("watch-crash", "elsewhere_ms")
    if kills:
        rows.append(["ejection of a killed instance, of 4: median, ms", number(median(kills))])
    instances = found("watch-seen", "instances")
    if instances:
        rows.append([f"the same, of {instances:,}", number(1000 * found("watch-seen", "ejection_s", "p50"))])
        rows.append([f"metrics of {instances:,} instances, median, ms",
                     number(1000 * found("watch-seen", "scrape_s", "p50"))])  # fmt: skip
    crowd = found("watch-seen", "crowded")
    if crowd:
        rows.append([f"metrics with {crowd['connections']:,} connections, median, ms",
                     number(1000 * crowd["scrape_s"]["p50"])])  # fmt: skip
    control = found("control-scale")
    if control:
        which = f"{control['services']:,} services of {control['instances']:,} instances"
        for verb, by in control.get("verbs", {}).items():
            rows.append([f"`{verb}`, {which}: CPU, s", number(by["this"]["cpu"])])
        rows.append([f"watcher, {which} that are asked each second: % of a core",
                     number(100 * control["watcher"]["this"]["share"])])  # fmt: skip
    rest = found("watch-rest")
    for kind, one in rest["kinds"].items() if rest else ():
        rows.append([f"watcher at rest, {rest['instances']:,} instances that {_PROBED[kind]}: % of a core",
                     number(100 * one["share"])])  # fmt: skip
    return table(["", ""], [*rows, *_moves()])


def _moves() -> Iterable[list[str]]:
    """Yield what moving connections to a new release takes."""
    for connections, by in (found("fleet-handoff", "counts") or {}).items():
        rate = median(one["connections_per_second"] for one in by["this"])
        yield [f"cutover of {int(connections):,} connections: moved a second", number(rate)]
    extra = [one["extra_ms"] for one in found("fleet-cutover", "rounds", "this") or ()]
    if extra:
        clients = found("fleet-cutover", "connections")
        yield [f"cutover: worst latency of {clients:,} clients, over the worst before it, ms", number(median(extra))]
    starts = found("fleet-slices", "times")
    if starts:
        worst = {kind: number(median(one["worst"] for one in starts[kind])) for kind in ("short", "usual")}
        clients = found("fleet-slices", "connections")
        what = f"four interpreters start: worst latency of {clients:,} clients, ms (usual time slices)"
        yield [what, f"{worst['short']} ({worst['usual']})"]


def sizes() -> str:
    """Return what 20,000 to 150,000 connections need, by the formulae."""
    made = [size(connections) for connections in SIZES]
    rows = [
        ["cores", *(f"{one.cores}" for one in made)],
        ["instances", *(f"{one.instances}" for one in made)],
        ["memory, kernel", *(f"{one.kernel / 1e9:.2f} GB" for one in made)],
        ["memory, daemons, both colours", *(f"{one.user / 1e9:.2f} GB" for one in made)],
        ["descriptors of an instance (`max_connections` + 64)", *(f"{one.descriptors:,}" for one in made)],
        ["`net.netfilter.nf_conntrack_max`", *(f"{one.conntrack:,}" for one in made)],
        ["ports", *(f"{one.ports}" for one in made)],
    ]
    return table(["connections", *(f"{one.connections:,}" for one in made)], rows)


def held() -> str:
    """Return the formulae beside what was measured."""
    rows = [
        [f"{connections:,}", what, number(computed), number(really), "yes" if really <= computed else "**no**"]
        for connections, some in sized().items()
        for what, (computed, really) in some.items()
    ]
    return table(["connections", "what", "computed", "measured", "enough"], rows)


def every() -> dict[str, dict[str, str]]:
    """Return {page: {place: table}} of all that script/docs writes from results."""
    crowds = {f"designs-{count}": design_table(count) for count in CONNECTIONS}
    return {
        "README.md": {"measured": measured()},
        "docs/sizing.md": {"sizes": sizes(), "sizes-held": held()},
        "docs/benchmarks.md": {
            "headline": measured(), "direct": direct(), "speed": speed(), "release": release(), "kill": kill(),
            "broken": broken(), "scale": scale(), "places": places(), **crowds,
        },
    }  # fmt: skip
