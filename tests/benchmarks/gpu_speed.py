"""GPU speed: the dense path at the sizes of Gemma-2-2b; tokens per second, and the share of the bfloat16 peak.

The peak is measured, not quoted: one large product of bfloat16 matrices, in the same process. A step counts as five
products of B x d x n: encoding, decoding, and the gradients at activities, decoder and encoder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import torch

from benchmarks.jobs import Shape, Training
from benchmarks.lines import Line, Part
from benchmarks.mixtures import Mixture
from benchmarks.settings import Settings
from benchmarks.sides.diffbench_training import trainer
from diffbench.precision import use_fast_matmul

GEMMA = Shape(2304, 18432, 100, 4096)
TINY = Shape(64, 512, 8, 256)
"""In place of it where the benchmark is only tried, on a device without a GPU."""
PRODUCTS = 5
SQUARE = 8192
WARM, TIMED = 10, 40


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one shape on one device.

    Attributes:
        seconds: median of a step, the device waited for.
        peak: floating-point operations per second of a large bfloat16 product.
        share: what a step's products reach of it.
        memory: bytes that the device held at most; None on a CPU.
    """

    seconds: float
    peak: float
    share: float
    memory: int | None


def measure(settings: Settings) -> Part:
    """An SAE and a crosscoder; a state where there is no GPU."""
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return Part([Line("gpu", f"dense path, {GEMMA}", state="no GPU")])
    shape = GEMMA if device.type != "cpu" else TINY
    use_fast_matmul()
    if device.type == "cpu":
        torch.set_num_threads(1)
    part = Part(raw={"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"})
    peak = bfloat16_peak(device, SQUARE if device.type != "cpu" else 512)
    for kind in ("sae", "crosscoder"):
        job = Training("sae" if kind == "sae" else "crosscoder", shape, steps=1000, device=settings.device)
        found = speed(job, peak, 2 if settings.quick else TIMED)
        what = f"{kind}, dense path, {shape}"
        part.raw[what] = asdict(found)
        part.lines += [
            Line("gpu", what, ours=shape.batch / found.seconds, unit="tokens/s"),
            Line(
                "gpu",
                what,
                ours=found.share * peak / 1e12,
                against="bfloat16 peak, measured",
                other=peak / 1e12,
                unit="TFLOP/s",
                ratio=found.share,
            ),
        ]
    return part


def speed(job: Training, peak: float, steps: int) -> Speed:
    """Steps of one job, on whatever device it names."""
    device = torch.device(job.device)
    models = 1 if job.kind == "sae" else 2
    mixture = Mixture(job.shape.width, models, job.seed)
    batches = [mixture.batch(index, job.shape.batch).to(device) for index in range(4)]
    mine = trainer(job)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timed = []
    for step in range(WARM + steps):
        x = batches[step % len(batches)]
        timed.append(_seconds(lambda x=x: mine.step(x), device))  # type: ignore[misc]
    seconds = median(timed[WARM:])
    operations = PRODUCTS * 2 * job.shape.batch * models * job.shape.width * job.shape.latents
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Speed(seconds, peak, operations / seconds / peak, memory)


def bfloat16_peak(device: torch.device, size: int) -> float:
    """Operations per second of a square product."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    timed = [_seconds(lambda: a @ a, device) for _ in range(13)]
    return float(2 * size**3 / median(timed[3:]))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
