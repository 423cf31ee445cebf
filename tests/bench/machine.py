"""The machine: which core is whose, and what processes use."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The server under measurement has one core of its own; stores and load generator have another."""

    server: frozenset[int]
    others: frozenset[int]

    @property
    def are_apart(self) -> bool:
        return not self.server & self.others

    def turned(self) -> "Cores":
        """Return them with the roles exchanged: for a second server beside the first."""
        return Cores(server=self.others, others=self.server)

    def told(self) -> str:
        """Say it in a report."""
        if not self.are_apart:
            return "the server shares its cores with the stores and the load generator: ratios only mean little here"
        names = ", ".join(str(each) for each in sorted(self.others))
        return f"server on core {min(self.server)}, stores and load generator on {names}"


def all_cores() -> Cores:
    """Give everybody all the cores that this process may use."""
    pinnable = hasattr(os, "sched_setaffinity")
    usable = frozenset(os.sched_getaffinity(0) if pinnable else range(os.cpu_count() or 1))
    return Cores(server=usable, others=usable)


def split_cores() -> Cores:
    """Share out the cores that this process may use; where there is no choice, everybody has all of them."""
    everything = all_cores()
    usable = sorted(everything.server)
    if not hasattr(os, "sched_setaffinity") or len(usable) == 1:
        return everything
    return Cores(server=frozenset(usable[:1]), others=frozenset(usable[1:]))


def pin(pid: int, cores: frozenset[int]) -> None:
    """Hold a process, with all that it starts from now on, to some cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores)


def tree(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    found, waiting = set(), [pid]
    while waiting:
        each = waiting.pop()
        found.add(each)
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process and its descendants have used, the ended ones too; 0 where unknown."""
    ticks = 0
    for each in tree(pid):
        try:
            # The name in parentheses may hold anything; what follows it is numbers.
            numbers = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(number) for number in numbers[11:15])
    return ticks / _TICKS_PER_S


def memory_mb(pid: int) -> float:
    """Return what a process and its descendants hold of the memory; what they share is counted once."""
    kilobytes = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024
