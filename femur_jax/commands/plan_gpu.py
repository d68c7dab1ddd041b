"""Predicts memory and time of a training on GPUs that need not be there.

The training step is compiled with JAX's CUDA plugin for each mesh of GPUs; docs/scaling.md says
what the tables hold. A mesh takes some minutes of one core. --config, a run directory and values of
fields (--config.mesh.fsdp=8) are given as for femur train.

Example:
    femur plan_gpu --config=configs/patch_diffusion.py:base --gpu=a100-40,h100 --nodes=1x1,2x8
"""

import os
from collections.abc import Sequence

from femur_jax.commands import run_options
from femur_jax.commands.options import Parser
from femur_jax.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Prints the tables of all pairs of a GPU and a mesh."""
    parser = Parser("plan_gpu", __doc__)
    parser.add_argument("--gpu", default="h100", help="GPUs, such as a100-40,h100 (%(default)s)")
    parser.add_argument("--nodes", default="1x1", help="nodes x GPUs a node (%(default)s)")
    parser.add_argument("--patch", type=int, default=256, help="the dataset's (%(default)s)")
    parser.add_argument(
        "--memory_fraction",
        type=float,
        default=os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75"),
        help="part of a GPU's memory that JAX uses, XLA_PYTHON_CLIENT_MEM_FRACTION (%(default)s)",
    )
    args, others = parser.parse_known_args(argv)
    if not 0 < args.memory_fraction <= 1:
        raise UserError("--memory_fraction is a part of the whole; choose a number up to 1.")
    import jax

    from femur_jax.gpu_plan import plan, targets
    from femur_jax.progress import Progress

    jax.config.update("jax_platforms", "cpu")  # looks for no GPU; the plugin alone compiles

    config, _ = run_options.config_and_file(others)
    meshes = [
        (targets.find_gpu(name), *targets.parse_nodes(nodes))
        for name in args.gpu.split(",")
        for nodes in args.nodes.split(",")
    ]
    plans = [
        plan.make_plan(config, *mesh, patch=args.patch, fraction=args.memory_fraction)
        for mesh in Progress(meshes, desc="compile")
    ]
    print("\n".join(plan.tables(plans)))
    return 0
