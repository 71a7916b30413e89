"""
Run the benchmarks: `python benchmarks/run.py [WORKLOAD ...]`.

Contenders run interleaved (A B C A B C ...), each time in a fresh process, so that a busy minute of the
machine hits all of them; ratios are taken within a round and their median is shown. Nothing here fails on a
figure. Other packages take part if they are installed: `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import nan
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]  # this tree is what is measured, installed or not

import chart  # noqa: E402  (the path comes first)
import disk  # noqa: E402
from harness import Contender, Workload  # noqa: E402
from workloads import WORKLOADS  # noqa: E402

Figures = dict[str, list[dict[str, float]]]  # contender -> one entry a round, none if it is not installed


def main() -> int:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description="What a message costs.")
    names = ", ".join(WORKLOADS)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {names}; the quick ones when none is named")
    parser.add_argument("--rounds", type=int, help="how often each contender runs (default 5, or what a workload says)")
    parser.add_argument("--messages", type=int, help="messages a run; each workload has a number of its own")
    parser.add_argument("--size", type=int, help="the same, and mailboxes or subscribers where a workload counts those")
    parser.add_argument("--check", action="store_true", help="our reach next to the figures; never fails")
    parser.add_argument("--folder", help="where files lie, of sqlite and nats workloads: on a disk (default /var/tmp)")
    parser.add_argument("--json", action="store_true", help="every figure in one JSON object, no tables")
    parser.add_argument("--svg", metavar="FILE", help="the ratios as a chart, too")
    parser.add_argument("--profile", metavar="WORKLOAD", help="where the time of pipebus goes, step by step")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # WORKLOAD CONTENDER SIZE: one run
    args = parser.parse_args()
    if args.folder:
        os.environ[disk.CHOSEN] = args.folder

    if args.child:
        name, contender, size = args.child
        print(json.dumps(WORKLOADS[name].contenders[contender].run(int(size))))
        return 0
    for name in [*args.workloads, *filter(None, [args.profile])]:
        if name not in WORKLOADS:
            parser.error(f"no workload {name!r}; there are {names}")
    if args.profile:
        import promises_sqlite
        import steps
        import steps_nats
        import steps_sqlite

        of = next((one for one in (promises_sqlite, steps_sqlite, steps_nats) if args.profile in one.RUNS), steps)
        print(of.report(args.profile, args.messages or 10_000))
        return 0

    results: dict[str, Figures] = {}
    for name in args.workloads or [name for name, workload in WORKLOADS.items() if not workload.when_named]:
        workload = WORKLOADS[name]
        size = args.size or (workload.sized_by == "messages" and args.messages) or workload.size
        rounds = args.rounds or workload.rounds
        where = f", {workload.where()}" if workload.where else ""
        results[name] = measure(name, rounds, size)
        if not args.json:
            print(f"\n{name}: {workload.about}")
            print(f"{size:,} {workload.sized_by}, {rounds} rounds, {machine()}{where}\n")
            print(table(workload, results[name], check=args.check), flush=True)
        if args.svg:  # after each workload, since the next one may take long
            groups = [bars(done, figures) for done, figures in results.items()]
            head = f"Times the hand-written limit, less is better. {machine()}"
            Path(args.svg).write_text(chart.draw(groups, head), encoding="utf-8")
    if args.json:
        print(json.dumps({"machine": machine(), "figures": results}))
    return 0


def measure(name: str, rounds: int, size: int) -> Figures:
    """Run all contenders once a round, in order, each in a process of its own."""
    figures: Figures = {contender: [] for contender in WORKLOADS[name].contenders}
    for number in range(1, rounds + 1):
        for contender, runs in figures.items():
            if not installed(WORKLOADS[name].contenders[contender]):
                continue
            progress(f"{name} round {number}/{rounds}: {contender}")
            command = [sys.executable, __file__, "--child", name, contender, str(size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name}: {contender} failed; its error is above")
            runs.append(json.loads(done.stdout))
    progress("")
    return figures


def installed(contender: Contender) -> bool:
    """Whether the package that it is from is there."""
    try:
        return not contender.package or bool(version(contender.package))
    except PackageNotFoundError:
        return False


def points(workload: Workload) -> list[str]:
    """The promises that have a column each."""
    kinds = [one.guarantees._fields for one in workload.contenders.values() if not isinstance(one.guarantees, str)]
    return [name for name in kinds[0] if name not in ("words", "package")] if kinds else []


def progress(text: str) -> None:
    """Say on a terminal what is running; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(workload: Workload, figures: Figures, *, check: bool) -> str:
    """Lay out medians, the range of the first figure, and the median of the ratios that each round gives."""
    first, *others = workload.columns
    head = ["contender", workload.columns[first], "min-max", "ratio"]
    for key in others:
        head += [workload.columns[key], *(["ratio"] if key not in workload.without_ratio else [])]
    promises = points(workload)
    rows = [[*head, *(["reach"] if check else []), *promises, "what it guarantees"]]
    for name, runs in figures.items():
        contender = workload.contenders[name]
        said = [getattr(contender.guarantees, point, "") for point in promises]
        if not runs:
            rows.append([name, "not installed", *[""] * (len(rows[0]) - len(said) - 3), *said, contender.words])
            continue
        values = {key: median(run[key] for run in runs) for key in workload.columns}
        ratios = ratios_of(workload, figures, name)
        least, most = (choose(run[first] for run in runs) for choose in (min, max))
        row = [name, digits(values[first]), f"{digits(least)}-{digits(most)}", f"{ratios[first]:.2f}"]
        for key in others:
            row += [digits(values[key]), *([f"{ratios[key]:.2f}"] if key not in workload.without_ratio else [])]
        row += [reach(contender, first, values, ratios)] if check else []
        words = f"{contender.package} {version(contender.package)}: {contender.words}" if contender.package else contender.words
        rows.append([*row, *said, words])
    return aligned(rows)


def ratios_of(workload: Workload, figures: Figures, name: str) -> dict[str, float]:
    """The median, for each column, of the ratios that each round gives."""
    base = figures[workload.contenders[name].against or next(iter(figures))]
    pairs = list(zip(figures[name], base, strict=True))
    return {key: median(ratio(run[key], least[key]) for run, least in pairs) for key in workload.columns}


def bars(name: str, figures: Figures) -> chart.Group:
    """What the chart shows of a workload: the first column of all but the limits and the variants without a bound."""
    workload = WORKLOADS[name]
    first = next(iter(workload.columns))
    shown = []
    for contender, runs in figures.items():
        if runs and not contender.startswith("limit") and not contender.endswith("-wide"):
            direct = getattr(workload.contenders[contender].guarantees, "queues", "") == "no"
            package = "direct" if direct else "peer" if workload.contenders[contender].package else "ours"
            kind = "simplest" if contender == "simplest" else package
            times = ratios_of(workload, figures, contender)[first]
            shown += [chart.Bar(contender, times, kind)] if times > 0 else []  # no bar for what has no ratio
    return chart.Group(f"{name} ({workload.columns[first]}): {workload.about}", shown)


def ratio(figure: float, base: float) -> float:
    """How many times the base; what is measured against nothing has no ratio."""
    return figure / base if base > 0 else nan


def reach(contender: Contender, first: str, values: Mapping[str, float], ratios: Mapping[str, float]) -> str:
    """Say what we mean to stay under, and whether this run did; columns other than the first are named."""
    said = []
    for found, goals in ((ratios, contender.reach_ratio), (values, contender.reach_value)):
        for key, most in (goals if isinstance(goals, Mapping) else {first: goals}).items():
            if most is not None:
                column = "" if key == first else f"{key} "
                said.append(f"{column}<= {most:g} {'met' if found[key] <= most else 'missed'}")
    return ", ".join(said)


def digits(value: float) -> str:
    """Show three digits where they mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def aligned(rows: list[list[str]]) -> str:
    """Make columns as wide as their widest cell: words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: list[str]) -> str:
        name, *figures, words = cells
        shown = [cell.rjust(width) for cell, width in zip(figures, widths[1:-1], strict=True)]
        return "  ".join([name.ljust(widths[0]), *shown, words])

    return "\n".join([line(rows[0]), "-" * max(len(line(row)) for row in rows), *map(line, rows[1:])])


def machine() -> str:
    """Name what figures may be compared by; the load tells how far to trust them."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
