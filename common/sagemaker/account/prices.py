"""What an hour of a machine costs, for an estimate before a job starts; and how many GPUs it has.

On-demand prices of SageMaker training in us-east-1, US dollars an hour, collected from public lists in November
2026 and never checked against a bill. AWS changes them and they differ by region:
https://aws.amazon.com/sagemaker/ai/pricing/ has those that count.
"""

from __future__ import annotations

from dataclasses import dataclass

AS_OF = "November 2026"
PRICE_PAGE = "https://aws.amazon.com/sagemaker/ai/pricing/"


@dataclass(frozen=True)
class Machine:
    """An instance type: US dollars an hour, and its GPUs."""

    hourly: float
    gpus: int = 0


MACHINES = {
    "ml.m5.large": Machine(0.115),
    "ml.m5.xlarge": Machine(0.23),
    "ml.m5.2xlarge": Machine(0.461),
    "ml.m5.4xlarge": Machine(0.922),
    "ml.m5.12xlarge": Machine(2.765),
    "ml.m5.24xlarge": Machine(5.53),
    "ml.c5.large": Machine(0.102),
    "ml.c5.xlarge": Machine(0.204),
    "ml.c5.2xlarge": Machine(0.408),
    "ml.c5.4xlarge": Machine(0.816),
    "ml.c5.9xlarge": Machine(1.836),
    "ml.g4dn.xlarge": Machine(0.736, 1),
    "ml.g4dn.2xlarge": Machine(0.94, 1),
    "ml.g5.xlarge": Machine(1.408, 1),
    "ml.g5.2xlarge": Machine(1.515, 1),
    "ml.g5.4xlarge": Machine(2.03, 1),
    "ml.g5.12xlarge": Machine(7.09, 4),
    "ml.g5.48xlarge": Machine(20.36, 8),
    "ml.g6.xlarge": Machine(1.127, 1),
    "ml.g6.2xlarge": Machine(1.222, 1),
    "ml.g6.4xlarge": Machine(1.654, 1),
    "ml.g6.12xlarge": Machine(5.752, 4),
    "ml.g6.24xlarge": Machine(8.344, 4),
    "ml.g6.48xlarge": Machine(16.688, 8),
    "ml.p3.2xlarge": Machine(3.825, 1),
    "ml.p4d.24xlarge": Machine(25.251, 8),
    "ml.p5.48xlarge": Machine(63.296, 8),
}


def has_gpu(instance_type: str) -> bool:
    """Whether a machine has NVIDIA GPUs, by the letter of its family."""
    return instance_type.startswith(("ml.g", "ml.p", "local_gpu"))


def gpus(instance_type: str) -> int | None:
    """How many GPUs a machine has; None where that is not known."""
    if not has_gpu(instance_type):
        return 0
    return MACHINES[instance_type].gpus if instance_type in MACHINES else None


def cost(instance_type: str, count: int, seconds: float) -> float | None:
    """US dollars for so many machines over so many seconds, on demand; None without a known price."""
    machine = MACHINES.get(instance_type)
    return machine.hourly * count * seconds / 3600 if machine else None


def estimate(instance_type: str, count: int, seconds: float, spot: bool = False) -> str:
    """One line about what a job may cost at the most.

    Args:
        seconds: after which the job is stopped.
        spot: whether spare capacity is asked for.
    """
    machine = MACHINES.get(instance_type)
    if machine is None:
        return f"cost       no price known for {instance_type}; see {PRICE_PAGE}"
    hours = seconds / 3600
    text = (
        f"cost       at most ${machine.hourly * count * hours:.2f}: {count} × {instance_type} at "
        f"${machine.hourly:.3f} an hour for {hours:.2g} h (estimate: on demand, us-east-1, {AS_OF})"
    )
    return text + ("; spot capacity costs less, often by half or more" if spot else "")
