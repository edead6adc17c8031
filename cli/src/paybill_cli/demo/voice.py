"""What the reader of a demo sees: chapters, facts as they land, and what was checked."""

import sys
import time
from typing import Any

from paybill_contracts.envelope import Fact, subject_of
from paybill_runtime.telemetry import trace_id

from paybill_cli.output import Output, is_plain, shown

_SHORT = 8
_SUBJECT_WIDTH = 57
_SLUG_WIDTH = 6


class Voice:
    """Prints to a terminal with colour and short ids; elsewhere a plain line for each thing, nothing cut off."""

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
        """Since the demo began."""
        return time.monotonic() - self._began

    def chapter(self, number: int, title: str) -> None:
        """A new part of the story."""
        if self._console is not None:
            self._console.print(f"\n{number}  {title}", style="bold")
        else:
            self._out.line("chapter", {"number": number, "title": title}, f"== {number} {title}")

    def fact(self, fact: Fact, slug: str) -> None:
        """A fact that has just landed on the bus."""
        self._sequences[fact.id] = fact.sequence
        subject, cause, trace = subject_of(fact.event), fact.origin.cause, trace_id(fact.origin.traceparent)
        known = self._sequences.get(cause)
        data = {
            "elapsed_s": round(self.elapsed_s, 3),
            "sequence": fact.sequence,
            "subject": subject,
            "tenant": slug or None,
            "id": fact.id,
            "cause": cause,
            "cause_sequence": known,
            "trace_id": trace,
            "actor": fact.origin.actor,
        }
        if self._console is None:
            by = f"#{known} {cause}" if known else cause
            text = f"{self.elapsed_s:.3f} s #{fact.sequence} {subject} {slug or '-'} cause {by} trace {trace}"
            self._out.line("fact", data, text)
            return
        from rich.text import Text

        by = f"#{known}" if known else cause[-_SHORT:]
        line = Text(f"{self.elapsed_s:6.2f} s  #{fact.sequence:<4}", style="dim")
        line.append(subject.ljust(_SUBJECT_WIDTH), style="not dim")
        line.append(f" {slug:<{_SLUG_WIDTH}} ", style="not dim cyan")
        line.append(f" cause {by:<{_SHORT}}  trace {trace[:_SHORT]}")
        self._console.print(line)

    def checked(self, what: str, seen: str) -> None:
        """Something that was expected, and observed."""
        if self._console is None:
            text = f"{self.elapsed_s:.3f} s ok {what}{': ' + seen if seen else ''}"
            self._out.line("check", {"elapsed_s": round(self.elapsed_s, 3), "what": what, "seen": seen}, text)
            return
        from rich.text import Text

        line = Text(f"{self.elapsed_s:6.2f} s  ", style="dim")
        line.append("ok", style="not dim bold green")
        line.append(f"  {what}", style="not dim")
        if seen:
            line.append(f": {shown(seen)}")
        self._console.print(line)

    def ended(self, data: dict[str, Any], text: str) -> None:
        """The summary."""
        if self._console is not None:
            self._console.print()
            self._console.print(text, style="bold")
        else:
            self._out.line("summary", data, text)
