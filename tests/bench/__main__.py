"""Measures Forecourt beside bare servers of the same models, in one run on one machine: ``scripts/bench``.

===================  ================================================================================
machine.py           cores, and what processes use of them
load.c, load.py      the load generator, compiled, fed and read; load_in_python.py stands in for it
models.py            the models, as every server loads them
bare.py              the baseline: what a tutorial on serving a model builds
processes.py         a server under measurement: started on its core, watched, ended
forecourt.py         ours: a tenant and its keys, migrated stores, ``forecourt serve``
site.py              all of these together
table.py             how servers are measured in interleaved rounds; report.py writes it down
comparisons.py       what is measured against what, and what it has to reach
profile.py           a flame graph, and the microseconds of each stage
peers.py             other model servers, where they are installed
scale.py             other tables: how cost grows with size
isolation.py         another table: what others do to one tenant's p99; turns.py and paced.py ask
estimators.py        another table: which runner each of scikit-learn's estimators gets
===================  ================================================================================
"""

import argparse
import shutil
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

from tests.bench import estimators, isolation
from tests.bench.comparisons import SERVERS, comparisons
from tests.bench.machine import Witness, all_cores, split_cores
from tests.bench.peers import PEERS, peer_comparison, peers_of
from tests.bench.profile import profile
from tests.bench.report import markdown, plot
from tests.bench.scale import Limits, Scale
from tests.bench.site import open_site
from tests.bench.table import Bench

PROJECT = Path(__file__).resolve().parents[2]
OUTPUT = PROJECT / "var" / "bench"


def main(arguments: list[str]) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Forecourt beside bare servers.")
    parser.add_argument(
        "what",
        nargs="?",
        choices=("servers", "scale", "isolation", "estimators"),
        default="servers",
        help="servers (default): beside bare ones; scale: how cost grows with processes, rows, keys, tenants and the "
        "ledger; isolation: what a tenant's flood and a wave of logins do to another tenant's p99; "
        "estimators: which runner each of scikit-learn's gets, and why",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each server's turn in a round")
    parser.add_argument("--only", default="", help="comparisons by their beginning, with commas: A,F")
    parser.add_argument("--profile", action="store_true", help="show where a prediction's time goes, and nothing else")
    parser.add_argument("--model", default="a", choices=("a", "b", "c", "f"), help="the model that is profiled")
    parser.add_argument("--peers", default="", help=f"other servers of A, with commas: {','.join(PEERS)}")
    most = Limits()
    parser.add_argument("--keys", type=int, default=most.keys, help="scale: the most keys, up to 100000")
    parser.add_argument("--tenants", type=int, default=most.tenants, help="scale: the most tenants, up to 10000")
    parser.add_argument("--events", type=int, default=most.events, help="scale: the largest ledger, up to 10000000")
    options = parser.parse_args(arguments)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(dir=OUTPUT))
    try:
        if options.what == "estimators":
            _estimators(workshop)
        elif options.what == "scale":
            _scale(workshop, options)
        elif options.what == "isolation":
            _isolation(workshop, options)
        else:
            (_profile if options.profile else _table)(workshop, options)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _table(workshop: Path, options: argparse.Namespace) -> None:
    began_s = time.monotonic()
    peers, missing = peers_of(tuple(filter(None, options.peers.split(","))))
    for told in missing:
        _say(told)
    cores = split_cores()
    with open_site(workshop, cores, _say) as site:
        bench = Bench(site.generator, site.store_pids, rounds=options.rounds, seconds=options.seconds)
        wanted = tuple(options.only.split(","))
        asked = chain(comparisons(site), peer_comparison(site, peers))
        results = [bench.measure(each, _say) for each in asked if each.name.startswith(wanted)]
        compared = [result.comparison for result in results]
        more = [
            f"; of {each.name} {options.rounds * each.times} of {options.seconds / each.shorter:g} s"
            for each in compared
            if each.times > 1
        ]
        rounds = f"{options.rounds} rounds of {options.seconds:g} s{''.join(more)}"
        facts = (cores.told(), f"load from {site.generator.told}", rounds)
        report = markdown(results, told=facts, servers=SERVERS)
    (OUTPUT / "bench.md").write_text(report)
    plot(results, OUTPUT / "bench.png")
    sys.stdout.write(f"\n{report}\n")
    _say(f"{time.monotonic() - began_s:.0f} s; report in {OUTPUT / 'bench.md'}, plot in {OUTPUT / 'bench.png'}")


def _profile(workshop: Path, options: argparse.Namespace) -> None:
    with open_site(workshop, split_cores(), _say) as site:
        contender = site.ours("server").asked(options.model)
        found = profile(contender, site.generator, OUTPUT, seconds=max(5.0, options.seconds))
    report = f"# Where a prediction of model {options.model.upper()} goes\n\n{found.markdown()}"
    (OUTPUT / "profile.md").write_text(report)
    sys.stdout.write(f"\n{report}\n")
    _say(f"report in {OUTPUT / 'profile.md'}, flame graph in {found.flame_graph}")


def _scale(workshop: Path, options: argparse.Namespace) -> None:
    began_s = time.monotonic()
    limits = Limits(keys=options.keys, tenants=options.tenants, events=options.events)
    with open_site(workshop, split_cores(), _say) as site:
        lines = Scale(site=site, seconds=options.seconds, rounds=options.rounds, limits=limits).report()
        report = "\n".join(lines)
    (OUTPUT / "scale.md").write_text(report)
    sys.stdout.write(f"\n{report}\n")
    _say(f"{time.monotonic() - began_s:.0f} s; report in {OUTPUT / 'scale.md'}")


def _isolation(workshop: Path, options: argparse.Namespace) -> None:
    began_s = time.monotonic()
    with open_site(workshop, all_cores(), _say, models=isolation.MODELS) as site:
        witness = Witness()
        results = list(isolation.results(site, rounds=options.rounds, seconds=options.seconds))
        report = isolation.markdown(results, strangers=witness.strangers_share())
    (OUTPUT / "isolation.md").write_text(report)
    sys.stdout.write(f"\n{report}\n")
    _say(f"{time.monotonic() - began_s:.0f} s; report in {OUTPUT / 'isolation.md'}")


def _estimators(workshop: Path) -> None:
    began_s = time.monotonic()
    found = []
    for each in estimators.outcomes(workshop):
        found.append(each)
        _say(f"{each.estimator}: {each.runner.name if each.runner else each.refusal}")
    report = estimators.markdown(found)
    (OUTPUT / "estimators.md").write_text(report)
    sys.stdout.write(f"\n{report}\n")
    _say(f"{time.monotonic() - began_s:.0f} s; report in {OUTPUT / 'estimators.md'}")


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
