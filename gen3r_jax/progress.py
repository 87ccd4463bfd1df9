"""How far a work is, and what of its time went into compiling programs."""

import dataclasses
import sys
import time
from typing import Any, Self

import jax
from tqdm import tqdm

SECONDS = 30.0
"""Between two lines in a log, at least."""


@dataclasses.dataclass(frozen=True)
class Programs:
    """compiled: how many programs were compiled. seconds: what that took. kept: how many the cache had from before."""

    compiled: int = 0
    seconds: float = 0.0
    kept: int = 0

    def __sub__(self, other: "Programs") -> "Programs":
        return Programs(self.compiled - other.compiled, self.seconds - other.seconds, self.kept - other.kept)

    def __str__(self) -> str:
        return f"{self.compiled} programs compiled in {self.seconds:.1f} s, {self.kept} kept from before"


class Compiler:
    """Counts programs since the import. JAX tells of the reading of a kept one as if it had been compiled."""

    seconds, compiled, kept = 0.0, 0, 0
    _hit = False

    def on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            if self._hit:
                self.kept += 1
            else:
                self.compiled += 1
                self.seconds += duration_secs
            self._hit = False

    def on_event(self, event: str, **_: Any) -> None:
        if event.endswith("compilation_cache/cache_hits"):
            self._hit = True

    def programs(self) -> Programs:
        return Programs(self.compiled, self.seconds, self.kept)


COMPILER = Compiler()
jax.monitoring.register_event_duration_secs_listener(COMPILER.on_duration)
jax.monitoring.register_event_listener(COMPILER.on_event)


class Progress:
    """Tells on standard error how far a work of many items is; a context manager.

    On a terminal that is a bar. A log, which bars would fill, gets a line after the first item, then one every
    ``SECONDS``, or after every item where items take longer, and one after the last. A line says what is under way, how
    much of it is done, how long an item takes without compilation, and when the next line is due.

    Args:
      doing: what is under way.
      total: number of items, those done before included.
      unit: what an item is, in the singular.
      done: items that were done before.
      quiet: whether nothing is told.
      bar: whether there is a bar on a terminal; without, there are lines, too, between those that others print.
      within: the line that is being printed while the work goes on. A bar gives it back at the end, and a log gets
        lines only of work that takes longer than ``SECONDS``.
    """

    def __init__(
        self,
        doing: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        quiet: bool = False,
        bar: bool = True,
        within: str = "",
    ):
        bar = bar and not quiet and sys.stderr.isatty()
        self.done = done
        self._doing, self._total, self._unit = doing, total, unit
        self._logs = not quiet and not bar
        how: dict[str, Any] = {"disable": not bar, "dynamic_ncols": True, "leave": not within}
        self._bar = tqdm(total=total, initial=done, desc=doing, unit=unit, **how)
        self._within = within
        self._wait = SECONDS if within else 0.0
        self._mark()
        if self._logs and done < total and not within:
            self._print(f"{self._state()}; the next line is due after one more {unit}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._within and not self._bar.disable:
            self._bar.close()
            print(f"\r{self._within}", end=" ", flush=True, file=sys.stderr)
        self._bar.close()

    def advance(self, count: int = 1, **values: str) -> None:
        """Counts items that are done; `values` of the last one are told with them."""
        self.done += count
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(count)
        last = self.done >= self._total and not self._within
        if not self._logs or not (last or time.monotonic() - self._told >= self._wait):
            return
        compiling = COMPILER.seconds - self._compiled
        each = max(0.0, time.monotonic() - self._told - compiling) / max(1, self.done - self._before)
        told = [self._state(), f"{each:.3g} s a {self._unit}"]
        told += [f"{compiling:.1f} s of compiling beside that"] * (compiling > 0.1)
        told += [f"{name} {value}" for name, value in values.items()]
        self._wait = max(SECONDS, each)
        due = f"; about {_duration(each * (self._total - self.done))} left, the next line is due in {self._wait:.0f} s"
        self._print(", ".join(told) + ("" if last else due))
        self._mark()

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        tqdm.write(line, file=sys.stderr)

    def _state(self) -> str:
        return f"{self._doing}: {self.done} of {self._total} {self._unit}s"

    def _mark(self) -> None:
        self._told, self._before, self._compiled = time.monotonic(), self.done, COMPILER.seconds

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
