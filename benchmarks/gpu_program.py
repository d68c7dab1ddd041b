"""Training steps as JAX's CUDA plugin compiles them, without a GPU."""

from benchmarks.records import Goal, Result, measurement
from configs.patch_diffusion import get_config
from femur_jax.gpu_plan.plan import Plan, make_plan
from femur_jax.gpu_plan.targets import find_gpu

_GIB = 2**30
_FRACTION = 0.9  # of the memory, as in launch/profiles


@measurement("", Goal(">=", 0.6), timed=False, plugin=True)
def gpu_peak_share_base_h100() -> Result:
    """Share of the matrix rate that `base` can reach on one H100, from its compiled program.

    The share is the model's matrix operations over the least time of the program's kernels, at the
    798 TFLOP/s of a matrix product on an H100; docs/scaling.md says how times are predicted.
    """
    plan = _plan("base", "h100", 1)
    return _result(plan, plan.prediction.share)


@measurement("", Goal(">=", 0.6), timed=False, plugin=True)
def gpu_peak_share_large_h100() -> Result:
    """Share of the matrix rate that `large` can reach on a node of eight H100.

    See gpu_peak_share_base_h100.
    """
    plan = _plan("large", "h100", 8)
    return _result(plan, plan.prediction.share)


@measurement("GiB", Goal("<=", _FRACTION * 40e9 / _GIB), timed=False, plugin=True)
def gpu_gib_base_a100_40() -> Result:
    """Memory that `base` needs on one A100 of 40 GB, from its compiled program.

    The goal is the part of the card that JAX may use in the profiles of `launch`.
    """
    plan = _plan("base", "a100-40", 1)
    return _result(plan, plan.compiled.memory / _GIB)


def _plan(variant: str, gpu: str, count: int) -> Plan:
    return make_plan(get_config(variant), find_gpu(gpu), 1, count, patch=256, fraction=_FRACTION)


def _result(plan: Plan, value: float) -> Result:
    classes = plan.prediction.classes
    return Result(
        value=value,
        device=f"compiled for {plan.compiled.devices} x {plan.gpu.name}",
        details={
            "ms a step": 1000 * plan.prediction.seconds,
            "ms of kernels": {name: 1000 * seconds for name, (_, seconds) in classes.items()},
            "ms of the optimizer, among them": 1000 * plan.prediction.optimizer,
            "microbatches": plan.compiled.microbatches,
            "patches of a microbatch on a GPU": plan.compiled.samples,
            "GiB": plan.compiled.memory / _GIB,
            "hours of the training": plan.hours,
        },
    )
