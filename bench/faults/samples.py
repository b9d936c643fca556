"""What the fault figures write: winners and records that each carry a number in every part."""

from __future__ import annotations

from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan
from gpu_tune.space.knob import Config
from gpu_tune.store.records import Record
from gpu_tune.store.store import Winner
from gpu_tune.trial import Candidate, Measurement
from gpu_tune.workload import Matmul

WORKLOAD, CHIP, SOURCE = Matmul(64, 48, 32), "nvidia-h200-132sm-141gb", "predicted"


def winner(number: int) -> Winner:
    """A winner whose parts all carry ``number``."""
    step = KernelStep("matmul", (2, 3, 1), (128, 1, 1), (BufferArg("a"),))
    return Winner(
        workload=WORKLOAD, chip=CHIP, device="nvidia-h200", arch="sm_90a", template="t", template_hash="h",
        config=Config(number=number), plan=LaunchPlan((step,)), code=f"// {number}\n" * 2000,
        cubin=b"\x7fELF" + number.to_bytes(4, "little") * 20_000, source=SOURCE, seconds=1e-5, trials=number,
    )  # fmt: skip


def whole(found: Winner) -> bool:
    """Whether all parts of ``found`` are of the same publication."""
    number = int(found.config["number"])
    return found == winner(number)


def record(number: int) -> Record:
    """A record that carries ``number``."""
    candidate = Candidate("t", Config(number=number, padding="x" * (number % 3000)))
    return Record(WORKLOAD, CHIP, "h", Measurement(candidate, "ok", SOURCE, samples=(1e-5,)), float(number), "faults")
