"""Where a prediction's time goes: a flame graph, and microseconds a stage, from samples of the running server.

Nothing is built into the server for this. py-spy looks at its stacks some hundred times a second while it is under
load; each sample belongs to the stage of its innermost frame that names one, and the CPU time that a prediction took is
shared out by samples.
"""

import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import LoadGenerator, Measured
from tests.bench.report import markdown_table
from tests.bench.table import Contender

SAMPLES_PER_S = 400
CONNECTIONS = 64
SLACK_S = 1.5
"""py-spy takes a moment to begin; the load goes on so much longer than it looks."""

STAGES = (
    ("service", r"services/predictions\.py|direct_predictions\.py|domain/"),
    ("parse", r"(data_received|on_\w+|_start_asgi_task|receive|__init__) .*httptools_impl|_body .*direct_predictions"),
    ("parse", r"read_question|command_of|_content|bounded|api/questions|idempotency\.py"),
    ("authenticate", r"authentication\.py|callers\.py|key_hashes|key_directory|domain/api_keys|stranger|key_use"),
    ("admit", r"adapters/(redis|memory|fallback)/|quota_rebuild|domain/(limits|admission)|/redis/"),
    ("encode", r"model_service/(encod|values)|cache_keys|prepared_rows"),
    ("lane", r"backend/model_service/"),
    ("ledger", r"backend/adapters/db/|usage_spill|domain/usage|_event .*predictions|sqlalchemy/|psycopg/"),
    ("respond", r"RequestResponseCycle\.send |write .*prediction_wire|write_answer|limit_headers|access_log|logs\.py"),
)
"""Frames by the stage they belong to, matched against ``function (file)``. Of several the last one named wins."""

LOOP = "loop and sockets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was seen."""

    stages_us: dict[str, float]
    others_us: float
    load: Measured
    flame_graph: Path

    def markdown(self) -> str:
        """Return the table of stages."""
        total = sum(self.stages_us.values())
        rows = [(stage, f"{spent:.0f}", f"{spent / total:.0%}") for stage, spent in self.stages_us.items()]
        told = f"{CONNECTIONS} connections, {self.load.per_s:,.0f} predictions/s under the profiler"
        table = markdown_table(("stage", "µs a prediction", "share"), [*rows, ("all", f"{total:.0f}", "")])
        return "\n".join(
            [f"{told}; threads beside the main one took {self.others_us:.0f} µs more.", "", *table, ""],
        )


def profile(contender: Contender, generator: LoadGenerator, folder: Path, *, seconds: float) -> Profile:
    """Look at a server under load.

    Raises:
        RuntimeError: py-spy may not look at another process here; its own words are in the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph, stacks = folder / "flame.svg", folder / "stacks.txt"
    _watch(contender, generator, seconds, "flamegraph", graph)
    used_s, began_s = contender.served.cpu_s(), time.monotonic()
    load = _watch(contender, generator, seconds, "raw", stacks)
    used_s, took_s = contender.served.cpu_s() - used_s, time.monotonic() - began_s
    busy = used_s / took_s
    cpu_us = busy * 1e6 / load.per_s
    main, others = _samples(stacks.read_text().splitlines())
    # The loop waits in its own frame: what the process did not spend on the CPU is taken from there.
    main[LOOP] = max(0, main[LOOP] - round(sum(main.values()) * max(0.0, 1 - busy)))
    each_us = cpu_us / (sum(main.values()) + sum(others.values()))
    stages = {stage: main[stage] * each_us for stage in dict.fromkeys(name for name, _ in (*STAGES, (LOOP, "")))}
    return Profile(stages_us=stages, others_us=sum(others.values()) * each_us, load=load, flame_graph=graph)


def _watch(contender: Contender, generator: LoadGenerator, seconds: float, style: str, output: Path) -> Measured:
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
    options = ("--rate", str(SAMPLES_PER_S), "--duration", str(int(seconds)), "--format", style, "--threads")
    command = (program, "record", *options, "--output", str(output), "--pid", str(contender.served.pid))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            generator.run,
            contender.served.port,
            contender.requests,
            connections=CONNECTIONS,
            seconds=seconds + SLACK_S,
            warmup_s=0.2,
        )
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        load = running.result().require_clean(contender.name)
    if ended.returncode:
        raise RuntimeError(f"py-spy: {ended.stderr.strip()}")
    return load


def _samples(lines: Iterable[str]) -> tuple["Counter[str]", "Counter[str]"]:
    """Return samples by stage: of the main thread, and of the others as far as they were at work."""
    main: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if "MainThread" in thread:
            main[_stage(frames)] += int(count)
        elif frames and not re.search(r"\b(wait|dequeue|_worker|select|accept)\b", frames[-1]):
            others[_stage(frames)] += int(count)
    return main, others


def _stage(frames: Iterable[str]) -> str:
    for frame in reversed(list(frames)):
        for stage, pattern in reversed(STAGES):
            if re.search(pattern, frame):
                return stage
    return LOOP
