"""Prints the demo: chapters, events as they are recorded, and passed checks."""

import sys
import time
from typing import Any

from paybill_contracts.envelope import Fact, subject_of
from paybill_contracts.sentences import sentence
from paybill_runtime.telemetry import trace_id

from paybill_cli.output import Output, is_plain, printable

_SHORT = 8
_SLUG_WIDTH = 6


class Printer:
    """Prints to a terminal with colour and short ids; elsewhere one plain line per item, nothing shortened."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._began = time.monotonic()
        self._sequences: dict[str, int] = {}
        self._console: Any = None
        if not out.json and not is_plain(sys.stdout):
            from rich.console import Console

            self._console = Console(highlight=False, markup=False, soft_wrap=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the demo."""
        return time.monotonic() - self._began

    def chapter(self, number: int, title: str) -> None:
        """Prints the title of a chapter."""
        if self._console is not None:
            self._console.print(f"\n{number}  {title}", style="bold")
        else:
            self._out.line("chapter", {"number": number, "title": title}, f"== {number} {title}")

    def fact(self, fact: Fact, slug: str) -> None:
        """Prints a new event of the log."""
        self._sequences[fact.id] = fact.sequence
        subject, cause, trace = subject_of(fact.event), fact.origin.cause, trace_id(fact.origin.traceparent)
        cause_sequence = self._sequences.get(cause)
        data = {
            "elapsed_s": round(self.elapsed_s, 3),
            "sequence": fact.sequence,
            "subject": subject,
            "sentence": sentence(fact.event),
            "tenant": slug or None,
            "id": fact.id,
            "cause": cause,
            "cause_sequence": cause_sequence,
            "trace_id": trace,
            "actor": fact.origin.actor,
        }
        if self._console is None:
            by = f"#{cause_sequence} {cause}" if cause_sequence else cause
            head = f"{self.elapsed_s:.3f} s #{fact.sequence} {slug or '-'}: {printable(data['sentence'])}"
            text = f"{head} ({subject} cause {by} trace {trace})"
            self._out.line("fact", data, text)
            return
        from rich.text import Text

        by = f"#{cause_sequence}" if cause_sequence else cause[-_SHORT:]
        line = Text(f"{self.elapsed_s:6.2f} s  #{fact.sequence:<4}", style="dim")
        line.append(f" {slug:<{_SLUG_WIDTH}} ", style="not dim cyan")
        line.append(printable(data["sentence"]), style="not dim")
        line.append(f"  {subject.removeprefix('paybill.events.')}  cause {by}  trace {trace[:_SHORT]}")
        self._console.print(line)

    def passed(self, check: str, observed: str) -> None:
        """Prints a check that passed."""
        if self._console is None:
            text = f"{self.elapsed_s:.3f} s ok {check}{': ' + observed if observed else ''}"
            self._out.line("check", {"elapsed_s": round(self.elapsed_s, 3), "what": check, "seen": observed}, text)
            return
        from rich.text import Text

        line = Text(f"{self.elapsed_s:6.2f} s  ", style="dim")
        line.append("ok", style="not dim bold green")
        line.append(f"  {check}", style="not dim")
        if observed:
            line.append(f": {printable(observed)}")
        self._console.print(line)

    def summary(self, data: dict[str, Any], text: str) -> None:
        """Prints the summary."""
        if self._console is not None:
            self._console.print()
            self._console.print(text, style="bold")
        else:
            self._out.line("summary", data, text)

    def next(self, hint: str) -> None:
        """Prints where to look next."""
        self._out.info(f"next: {hint}")
