"""The machine: which core is whose, and what processes use."""

import os
import time
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


class Witness:
    """Sees how much of the machine was used by what this process has not started."""

    def __init__(self) -> None:
        self._since_s, self._all_s, self._own_s = time.monotonic(), _busy_s(), cpu_s(os.getpid())

    def strangers_share(self) -> float:
        """Return their share of all cores since this was made, from 0 to 1; 0 where unknown."""
        all_s, own_s = _busy_s() - self._all_s, cpu_s(os.getpid()) - self._own_s
        return strangers_share(all_s, own_s, seconds=time.monotonic() - self._since_s, cores=os.cpu_count() or 1)


def strangers_share(all_s: float, own_s: float, *, seconds: float, cores: int) -> float:
    """Return what of so many cores was used by others, by the CPU seconds of everybody and one's own."""
    return min(1.0, max(0.0, (all_s - own_s) / (seconds * cores)))


def _busy_s() -> float:
    try:
        user, nice, system, _, _, interrupts, softly, stolen, *_ = Path("/proc/stat").read_text().split()[1:]
    except (OSError, ValueError):
        return 0.0
    return sum(map(int, (user, nice, system, interrupts, softly, stolen))) / _TICKS_PER_S


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
