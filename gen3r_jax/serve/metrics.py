"""/metrics: what Prometheus reads."""

from collections import Counter
from collections.abc import Iterator

from gen3r_jax.serve.queue import Queue

ALIVE = 15.0
"""Seconds since a worker was last seen after which it is taken for gone."""


class Requests:
    """Counts answers since the start."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()

    def count(self, method: str, status: int) -> None:
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
        self.counts[known, status] += 1


def alive(queue: Queue) -> dict[int, str]:
    """What each worker works on that lives."""
    return {slot: device for slot, (device, ago) in queue.workers().items() if ago < ALIVE}


def render(queue: Queue, requests: Requests) -> str:
    """The text of the page."""
    return "\n".join(_lines(queue, requests)) + "\n"


def _lines(queue: Queue, requests: Requests) -> Iterator[str]:
    yield "# HELP gen3r_jobs Jobs in the store, by status."
    yield "# TYPE gen3r_jobs gauge"
    for status, count in queue.counts().items():
        yield f'gen3r_jobs{{status="{status}"}} {count}'
    ends = queue.ends()
    yield "# HELP gen3r_jobs_ended_total Jobs that ended, since the store was made."
    yield "# TYPE gen3r_jobs_ended_total counter"
    for status, (count, _) in ends.items():
        yield f'gen3r_jobs_ended_total{{status="{status}"}} {count}'
    yield "# HELP gen3r_job_seconds_total Seconds that they ran."
    yield "# TYPE gen3r_job_seconds_total counter"
    for status, (_, seconds) in ends.items():
        yield f'gen3r_job_seconds_total{{status="{status}"}} {seconds:.3f}'
    yield "# HELP gen3r_workers Workers that live."
    yield "# TYPE gen3r_workers gauge"
    yield f"gen3r_workers {len(alive(queue))}"
    yield "# HELP gen3r_http_requests_total Answers, by method and status."
    yield "# TYPE gen3r_http_requests_total counter"
    for (method, status), count in sorted(requests.counts.items()):
        yield f'gen3r_http_requests_total{{method="{method}",status="{status}"}} {count}'
