"""The progress of a run: a line that moves on a terminal, a line now and then in a log, and the causes of failed jobs.

The line counts finished cells, names a running job with the progress that its log tells, and gives the time left.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow_scripts.commands.status import JobState, Work, last_line, planned, seconds_left, state
from workflow_scripts.files.job import FINISHED
from workflow_scripts.plan.forecast import Cost, forecast, job_of, load_constants
from workflow_scripts.plan.layout import LOGS
from workflow_scripts.plan.recipes import Plan

OFTEN, SELDOM = 2.0, 60.0  # seconds between two lines on a terminal, and in a log
PATIENCE = 1.0  # seconds for the last words of a child's children
TAIL = 4096  # bytes of a log's end that are looked at
# Progress as jobs log it: layers, tasks and their documents, tokens.
DONE = re.compile(r"layer \d+/\d+|\[\d+/\d+\] [\w-]+(?:: [\d,]+ of [\d,]+ \w+)?|[\d,]+ of [\d,]+ \w+")
LAYER = re.compile(r"(?<=\d)/(?=\d+$)")  # the stroke of a layer's number
CLEAR = "\r\x1b[K"  # the cursor's line


class Watch:
    """The jobs left of a grid. A result that was found as planned is not read again."""

    def __init__(self, plan: Plan, grid: str):
        self.grid, self.works = grid, planned(plan, grid)
        self.costs: list[Cost] = forecast(plan, grid, load_constants(plan.grid(grid).device))
        self.cells = sum(work.rule == "evaluate_cell" for work in self.works)
        self.done: dict[Work, JobState] = {}

    def line(self) -> str:
        """The state of now, in one line."""
        running = []
        for work in self.works:
            if work not in self.done:
                found = state(self.grid, work, {})
                if found.state == "done":
                    self.done[work] = found
                elif found.state == "running":
                    running.append(work)
        cells = sum(work.rule == "evaluate_cell" for work in self.done)
        parts = [f"{cells} of {self.cells} cells"]
        if running:
            more = f" and {len(running) - 1} more" if len(running) > 1 else ""
            parts.append(f"{running[0].rule} {running[0].name}{_progress(running[0].log)}{more}")
        if len(self.done) < len(self.works):
            done = {job_of(work.result): value for work, value in self.done.items()}
            left = seconds_left(self.costs, done) / max(1, len(running))
            parts.append(f"about {_time(left)} left")
        return "; ".join(parts)


def _progress(log: str) -> str:
    """The progress that a job told last; empty if it told none."""
    steps = DONE.findall(_end(Path(log)))
    return f": {LAYER.sub(' of ', steps[-1])}" if steps else ""


def _end(log: Path) -> str:
    if not log.exists():
        return ""
    with open(log, "rb") as handle:
        handle.seek(max(0, log.stat().st_size - TAIL))
        return handle.read().decode("utf-8", errors="replace")


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds / 3600:.1f} hours" if minutes > 90 else f"{minutes} min" if minutes else "a minute"


@contextmanager
def shown(line: Callable[[], str]) -> Iterator[None]:
    """Show progress while a child process works: a line under its output on a terminal, else a line now and then."""
    ended = threading.Event()
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        with _while(ended, lambda: _say_now_and_then(line, ended)):
            yield
        return
    screen = Screen(terminal := os.dup(2))
    with screen.under(), _while(ended, lambda: _move(line, screen, ended)):
        yield
    os.close(terminal)


@contextmanager
def _while(ended: threading.Event, work: Callable[[], None]) -> Iterator[None]:
    """`work` in a thread, until the block ends."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE)


def _say_now_and_then(line: Callable[[], str], ended: threading.Event) -> None:
    while not ended.wait(SELDOM):
        print(line(), file=sys.stderr, flush=True)


def _move(line: Callable[[], str], screen: "Screen", ended: threading.Event) -> None:
    """Move the line, seldom enough to cost a tenth of a core at most."""
    pause = 0.0
    while not ended.wait(pause):
        started, text = time.monotonic(), line()
        if not ended.is_set():
            screen.move(text)
        pause = max(OFTEN, 10 * (time.monotonic() - started))


class Screen:
    """A terminal with a line at its end that moves; other lines are written above it."""

    def __init__(self, terminal: int):
        self.terminal, self.last, self.lock = terminal, "", threading.Lock()

    def move(self, line: str) -> None:
        """Put `line` in the place of the last one, cut to the terminal's width."""
        with self.lock:
            self.last = line[: (os.get_terminal_size(self.terminal).columns or 80) - 1]
            os.write(self.terminal, f"{CLEAR}{self.last}".encode())

    def above(self, text: bytes) -> None:
        """Write whole lines above the line that moves."""
        with self.lock:
            os.write(self.terminal, CLEAR.encode() + text + self.last.encode())

    @contextmanager
    def under(self) -> Iterator[None]:
        """Inside, all that this process and its children print goes above the line."""
        sys.stdout.flush()
        kept, (source, sink) = [os.dup(1), os.dup(2)], os.pipe()
        for target in (1, 2):
            os.dup2(sink, target)
        os.close(sink)
        reader = threading.Thread(target=self._pass_on, args=(source,), daemon=True)
        reader.start()
        try:
            yield
        finally:
            for target, stream in zip((1, 2), kept):
                os.dup2(stream, target)
                os.close(stream)
            reader.join(PATIENCE)  # a killed run's jobs may hold the pipe's end for longer
            with self.lock:
                os.write(self.terminal, CLEAR.encode())
                self.last = ""

    def _pass_on(self, source: int) -> None:
        rest = b""
        while piece := os.read(source, 65536):
            whole, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                self.above(whole + newline)
        if rest:
            self.above(rest + b"\n")


def failures(since: float) -> list[str]:
    """A line for each job that failed or was killed after `since` (the file system's time): its log, and the cause."""
    lines = []
    for log in sorted(Path(LOGS).glob("*/**/*.log")):
        text = log.read_text(encoding="utf-8", errors="replace") if log.stat().st_mtime >= since else FINISHED
        if FINISHED not in text.splitlines():
            raised = "Traceback (most recent call last)" in text
            lines.append(f"{log}: {last_line(text) if raised else 'stopped without a message (killed?)'}")
    return lines
