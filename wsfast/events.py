"""What long work says while it runs: a bar on a terminal, and events in Python's log "wsfast"."""

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

LOG = logging.getLogger("wsfast")
EVERY = 1.0  # seconds between two events of one piece of work
BAR = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def emit(event: str, **fields: Any) -> None:
    """Log an event at level INFO; a handler finds its fields in the record's `fields`."""
    LOG.info(event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """One line of JSON an event: time (UTC), event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": when, "event": record.getMessage(), **getattr(record, "fields", {})})


class Progress:
    """How far some work is; use it with `with`.

    As an event "progress", once a second and at the end: what, unit, done, total, per_s (since this run began), eta_s
    (None before the first is done) and what `finished` was told. shown: a bar on stderr; None shows it on a terminal
    only. already: how many were done before.
    """

    def __init__(self, what: str, total: int, unit: str, shown: bool | None = None, already: int = 0) -> None:
        hidden = None if shown is None else not shown
        self._bar = tqdm(total=total, initial=already, desc=what, unit=unit, disable=hidden, bar_format=BAR)
        self._what, self._total, self._unit = what, total, unit
        self._already = self._done = already
        self._start = self._said = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def advance(self, amount: float = 1) -> None:
        """Move the bar; amounts may be fractions of a thing."""
        self._bar.update(amount)

    def finished(self, count: int = 1, **known: Any) -> None:
        """So many more are done; known: numbers or words worth showing beside."""
        self._done += count
        shown = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in known.items() if v not in (0, None)}
        self._bar.set_postfix(shown, refresh=False)
        now = time.perf_counter()
        if now - self._said < EVERY and self._done < self._total:
            return
        self._said = now
        rate = (self._done - self._already) / (now - self._start)
        left = (self._total - self._done) / rate if rate else None
        where = {"what": self._what, "unit": self._unit, "done": self._done, "total": self._total}
        emit("progress", **where, per_s=rate, eta_s=left, **known)
