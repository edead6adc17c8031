"""Processor time and memory of processes, from /proc."""

import os
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MB = 1_000_000
ENDED = (FileNotFoundError, ProcessLookupError)
"""Errors of reading about a process that has ended."""


def processor_time_s(pid: int) -> float:
    """Returns the processor time of all threads of a process, user and system. Raises one of ENDED."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def tree_processor_time_s(pid: int) -> float:
    """Returns the processor time of a process and its descendants, with those that ended and were waited for."""
    ticks = 0
    for each in process_tree(pid):
        with suppress(*ENDED):
            fields = Path(f"/proc/{each}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


def pss_mb(pid: int) -> float:
    """Returns the proportional set size: a page that several processes share is divided among them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / _MB
    raise LookupError(f"process {pid} has no proportional set size")


def program(pid: int) -> str:
    """Returns the name of the program that a process runs; empty when it has ended."""
    with suppress(*ENDED):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    return ""


def process_tree(pid: int) -> list[int]:
    """Returns a process and all of its descendants."""
    found = [pid]
    for parent in found:
        with suppress(*ENDED):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += [int(child) for child in children.read_text(encoding="ascii").split()]
    return found
