"""`distar bench`: what training and scoring cost."""

from __future__ import annotations

import argparse
import signal

from distar.commands.output import show


def add_bench(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    bench = commands.add_parser(
        "bench",
        help="measure what training and scoring cost",
        description="Measure a DI* iteration beside its unavoidable parts and beside the plain implementation, "
        "the rewards beside their authors' packages, and the pipeline beside its stages.",
        epilog="Ratios of one run tell more than seconds: run it where nothing else does. See docs/bench.md.",
    )
    bench.add_argument(
        "--network",
        action="append",
        choices=["tiny", "sd15-100m"],
        help="what to measure (tiny); may be repeated: the tiny world's networks and its pipeline, or random networks "
        "of SD1.5's shape; each takes a CPU some minutes",
    )
    bench.add_argument("--json", action="store_true", help="print JSON instead of tables")
    bench.set_defaults(run=_run_bench)


def _run_bench(options: argparse.Namespace) -> None:
    from distar.bench.report import benchmarks_table, run_benchmarks

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured is shown
    networks = list(dict.fromkeys(options.network or ["tiny"]))
    run_benchmarks(networks, lambda found: show(options, found.to_json(), benchmarks_table(found)))
