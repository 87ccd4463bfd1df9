"""A server under load: latency of reads while jobs run, processor time and memory a job.

    python -m benchmarks.serving [--jobs 20] [--clients 2] [--weights pretrained/nano]

It starts a server of its own on a free port, warms it with one job, lets the clients make the jobs, and asks for a
scene all the time meanwhile. What is printed is of this machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from gen3r_jax.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures a server under load.")
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--weights", default="pretrained/nano")
    parser.add_argument("--image", type=Path, default=Path("pretrained/nano/example.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gen3r_jax", "serve", "--weights", options.weights, "--port", "0"]
        command += ["--output", f"{folder}/store"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stdout
                print(json.dumps(measure(server, options), indent=1))
            finally:
                server.terminate()


def measure(server: subprocess.Popen, options: argparse.Namespace) -> dict[str, object]:
    address = server.stdout.readline().strip() if server.stdout else ""
    client = Client(address)
    start = time.monotonic()
    first = client.make([options.image], "a red table", cameras="orbit_left", seed=0)["id"]
    assert client.wait(first)["status"] == "done"
    cold = time.monotonic() - start
    worker = next(pid for pid in _children(server.pid) if "serve.worker" in _command(pid))
    web = next(pid for pid in _children(server.pid) if "serve.web" in _command(pid))
    before, memory, latencies, compiled = _processor(worker), [], [], []
    running = threading.Event()

    def make(number: int) -> None:
        mine = Client(address)
        for seed in range(number, options.jobs, options.clients):
            id = mine.make([options.image], "a red table", cameras="orbit_left", seed=seed + 1)["id"]
            assert mine.wait(id)["status"] == "done"
            compiled.append(json.loads(mine.read(id, "run.json"))["programs"]["compiled"])
            memory.append(_memory(worker))

    def ask() -> None:
        mine = Client(address)
        while not running.is_set():
            start = time.perf_counter()
            mine.scene(first)
            latencies.append(time.perf_counter() - start)
            time.sleep(0.05)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(options.clients)]
    asking = threading.Thread(target=ask)
    start = time.monotonic()
    for thread in (*threads, asking):
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    running.set()
    asking.join()
    latencies.sort()
    return {
        "jobs": options.jobs,
        "clients": options.clients,
        "first_job_seconds": round(cold, 1),
        "seconds_a_job": round(seconds / options.jobs, 2),
        "worker_cpu_seconds_a_job": round((_processor(worker) - before) / options.jobs, 2),
        "programs_compiled": sum(compiled),
        "get_median_ms": round(1000 * statistics.median(latencies), 1),
        "get_95th_ms": round(1000 * latencies[int(0.95 * len(latencies))], 1),
        "worker_mb_after_a_quarter": memory[len(memory) // 4],
        "worker_mb_after_a_half": memory[len(memory) // 2],
        "worker_mb_at_the_end": memory[-1],
        "web_mb": _memory(web),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def _processor(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    """Resident megabytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1_000_000


if __name__ == "__main__":
    main()
