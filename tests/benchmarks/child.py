"""Child: one side's process. Reads commands from its standard input, answers on its standard output in JSON lines.

Started as ``python -m benchmarks.child SIDE JOB-FILE CORE`` by the environment's own Python.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.jobs import Built, Harvesting, Learning, Steps, Training, Work, read_job

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Build the side's work, then do as told until the input ends."""
    side, job_file, core = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    job = read_job(job_file)
    _prepare_torch(job)
    build = importlib.import_module(f"benchmarks.sides.{side}").build
    work: Work = build(job, _forget_peak)

    def answer(document: object) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    answer(asdict(Built(facts=work.facts())))
    for line in sys.stdin:
        command = json.loads(line)
        if command == "held_out":
            assert isinstance(work, Learning)
            answer(asdict(work.held_out()))
        else:
            answer(asdict(_block(work, int(command))))


def _prepare_torch(job: Training | Harvesting) -> None:
    import torch

    torch.set_num_threads(1)
    if job.matmul is not None:
        torch.set_float32_matmul_precision(job.matmul)


def _block(work: Work, count: int) -> Steps:
    done = Steps()
    for _ in range(count):
        work.feed()
        wall, processor = time.perf_counter(), time.process_time()
        loss = work.step()
        done.processor.append(time.process_time() - processor)
        done.wall.append(time.perf_counter() - wall)
        done.losses.append(loss)
    return Steps(done.wall, done.processor, done.losses, _peak())


_base = 0


def _forget_peak() -> None:
    """From here on, memory counts: called by a side when it holds its inputs and libraries, and no work."""
    global _base
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return
    _base = _status("VmRSS") or 0


def _peak() -> int | None:
    """Bytes over the base, or None where the system does not say."""
    peak = _status("VmHWM")
    return peak - _base if peak and _base else None


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


if __name__ == "__main__":
    main()
