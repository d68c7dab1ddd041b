"""Predicts on paper how a training step scales: nothing is run, the step is only compiled.

For each number of devices and each mesh, the step is compiled for as many fake CPU devices. From
the program come the floating-point operations, a device's part of the state and the batch, and
every collective with its size and the devices it joins; from data sheets the speed of GPUs and of
what joins them. A step takes as long as its arithmetic at a stated share of the peak, plus its
collectives, one after the other: overlapping them would do better. XLA for GPUs may choose other
collectives than for CPUs, and keeps other amounts of activations, so these are left out.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # configs/ is not installed

from ml_collections import ConfigDict

from femur_jax.errors import UserError

GPUS_OF_A_NODE = 8


@dataclass(frozen=True)
class Machine:
    """Speeds of one GPU.

    Attributes:
        flops: Dense bfloat16, a second.
        node: Bytes a second to other GPUs of the node, in one direction.
        network: Bytes a second to other nodes, in one direction.
    """

    flops: float
    node: float
    network: float


MACHINES = {
    # NVIDIA A100 data sheet: 312 TFLOP/s, NVLink 600 GB/s in both directions; DGX A100 user guide:
    # eight 200 Gb/s adapters for eight GPUs.
    "A100": Machine(312e12, 300e9, 25e9),
    # NVIDIA H100 data sheet: 989 TFLOP/s, NVLink 900 GB/s in both directions; DGX H100 user guide:
    # eight 400 Gb/s adapters for eight GPUs.
    "H100": Machine(989e12, 450e9, 50e9),
}

_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
_COLLECTIVE = re.compile(
    r"= (?P<shapes>\S.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: Name of the operation in HLO.
        bytes: Size of the result on one device.
        devices: Number of devices that it joins.
        in_node: Whether they are all of one node.
    """

    kind: str
    bytes: int
    devices: int
    in_node: bool

    @property
    def sent(self) -> float:
        """Bytes that a device sends, when the devices form a ring."""
        others = self.devices - 1
        if self.kind == "all-reduce":
            return 2 * self.bytes * others / self.devices
        if self.kind == "reduce-scatter":  # its result is one part of what is reduced
            return self.bytes * others
        if self.kind == "collective-permute":
            return self.bytes
        return self.bytes * others / self.devices


def collectives(hlo: str, devices: int) -> Iterator[Collective]:
    """The collectives of a compiled program, those in a loop's body as often as it runs."""
    for line, times in executed_lines(hlo):
        found = _COLLECTIVE.search(line)
        if not found:
            continue
        if not times:
            raise ValueError(f"XLA does not tell how often this runs: {line.strip()[:200]}")
        size = sum(
            _BYTES.get(kind, 4) * int(np.prod([int(n) for n in sides.split(",") if n]))
            for kind, sides in re.findall(r"(\w+)\[([\d,]*)\]", found["shapes"])
        )
        groups = replica_groups(line, devices)
        in_node = bool((groups // GPUS_OF_A_NODE == groups[:, :1] // GPUS_OF_A_NODE).all())
        yield from [Collective(found["kind"], size, groups.shape[1], in_node)] * times


def executed_lines(hlo: str) -> Iterator[tuple[str, int]]:
    """The instructions of a compiled program, and how often each runs.

    Bodies of loops run as often as XLA's `known_trip_count` says, 0 times where it does not know;
    of a conditional all branches are counted.
    """
    computations: dict[str, list[str]] = {}
    for line in hlo.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            computations[header[1]] = []
        elif computations:
            computations[next(reversed(computations))].append(line)
    times = dict.fromkeys(computations, 0)
    times[next(reversed(computations))] = 1  # the entry; what is called stands before its callers
    for name, lines in reversed(computations.items()):
        for line in lines:
            yield line, times[name]
            trips = times[name]
            if " while(" in line:
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                trips *= int(known[1]) if known else 0
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            for called in (
                *re.findall(r"\w=%([\w.-]+)", line),
                *re.findall(r"%([\w.-]+)", branches[1] if branches else ""),
            ):
                times[called] += trips


def replica_groups(line: str, devices: int) -> np.ndarray:
    """The device numbers that a collective joins, one row a group, from its line of HLO.

    The form [2,4]<=[4,2]T(1,0) counts to 8, as 4 x 2, transposed, as 2 x 4. The form
    mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'} counts likewise, as 4 x 2, and joins along a.

    Raises:
        ValueError: They are written in another form.
    """
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        return _counted(found[2], found[3]).reshape(_integers(found[1]))
    if found := re.search(
        r"replica_groups=mesh\[([^\]]+)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
        r" \{((?:'\w+',?)+)\}",
        line,
    ):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        numbers = _counted(found[2] or str(devices), found[3]).reshape(list(sizes.values()))
        joined = re.findall(r"'(\w+)'", found[4])
        order = [*(name for name in sizes if name not in joined), *joined]
        together = int(np.prod([sizes[name] for name in joined]))
        return numbers.transpose([list(sizes).index(name) for name in order]).reshape(-1, together)
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]+\})\}", line):
        groups = re.findall(r"\{([\d,]+)\}", found[1])
        return np.array([_integers(group) for group in groups])
    if "replica_groups={}" in line:
        return np.arange(devices)[None]
    raise ValueError(f"no replica groups in {line.strip()[:200]}")


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _counted(sides: str, order: str | None) -> np.ndarray:
    numbers = np.arange(np.prod(_integers(sides))).reshape(_integers(sides))
    return numbers.transpose(_integers(order)) if order else numbers


def main(argv: list[str]) -> int:
    """A user's mistake ends with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python tools/predict_scaling.py --config configs/patch_diffusion.py:base",
    )
    parser.add_argument("--config", default="configs/patch_diffusion.py:base", help="(%(default)s)")
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--per-device", type=int, default=8, help="samples (%(default)s)")
    parser.add_argument("--patch", type=int, default=256, help="the dataset's (%(default)s)")
    parser.add_argument(
        "--share", type=float, default=0.4, help="of the peak that arithmetic reaches (%(default)s)"
    )
    parser.add_argument("--mesh", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        if args.mesh:
            print(row(args))
            return 0
        print(
            "| devices | data x fsdp x model | state, GiB a device | sent in the node, MB "
            "| over the network, MB | A100 ms | efficiency | H100 ms | efficiency |\n"
            + "|---" * 9
            + "|"
        )
        for devices, mesh in tqdm(list(meshes(args.devices)), desc="compile"):
            # Each in a process of its own, with so many devices; its code is never run.
            flags = (
                f"--xla_force_host_platform_device_count={devices} "
                "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
            )
            subprocess.run(
                [sys.executable, __file__, *argv, "--mesh", *map(str, mesh)],
                env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                check=True,
            )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def meshes(counts: list[int]) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """For each number of devices: data alone, fsdp within nodes, fsdp over all."""
    for devices in counts:
        node = min(devices, GPUS_OF_A_NODE)
        for mesh in dict.fromkeys([(devices, 1, 1), (devices // node, node, 1), (1, devices, 1)]):
            yield devices, mesh


def row(args: argparse.Namespace) -> str:
    """The line of the table for `args.mesh`, on as many fake devices."""
    file, _, variant = args.config.partition(":")
    config = importlib.import_module(file.removesuffix(".py").replace("/", ".")).get_config(variant)
    compiled = compile_step(config, tuple(args.mesh), args.per_device, args.patch)
    devices = int(np.prod(args.mesh))
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    assert memory is not None and cost is not None  # XLA gives both on CPU
    flops = cost["flops"] * config.train.get("accumulate", 1)  # XLA counts a loop's body once
    found = list(collectives(compiled.as_text() or "", devices))
    in_node = sum(c.sent for c in found if c.in_node)
    network = sum(c.sent for c in found if not c.in_node)
    cells = [
        str(devices),
        " x ".join(map(str, args.mesh)),
        f"{memory.argument_size_in_bytes / 2**30:.2f}",
        f"{in_node / 1e6:.0f}",
        f"{network / 1e6:.0f}",
    ]
    for machine in MACHINES.values():
        arithmetic = flops / (args.share * machine.flops)
        seconds = arithmetic + in_node / machine.node + network / machine.network
        cells += [f"{1000 * seconds:.0f}", f"{arithmetic / seconds:.0%}"]
    return "| " + " | ".join(cells) + " |"


def compile_step(config: ConfigDict, mesh_sizes: tuple[int, ...], per_device: int, patch: int):
    """The compiled training step of a config on a mesh of all devices."""
    import jax

    from femur_jax.parallel.mesh import AXES, batch_sharding, make_mesh
    from femur_jax.stages.tasks import make_task
    from femur_jax.training.program import Program

    config.mesh.update(dict(zip(AXES, mesh_sizes, strict=True)))
    mesh = make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as name:
        config.dataset = noise_dataset(Path(name) / "dataset", patch)
        task = make_task(config)
        sample = task.streams()[0].samples[0]
        assert sample is not None  # the streams are endless
        batch = {
            name: jax.ShapeDtypeStruct(
                (per_device * mesh.shape["data"] * mesh.shape["fsdp"], *np.shape(value)),
                np.asarray(value).dtype,
                sharding=batch_sharding(mesh),
            )
            for name, value in sample.items()
        }
        return Program(task, mesh).compile(batch)


def noise_dataset(folder: Path, patch: int) -> str:
    """Four radiographs of two levels: the task wants a dataset, the program only its shapes."""
    from femur_jax.data.radiograph import LABELS, Radiograph
    from femur_jax.data.records import encode
    from femur_jax.data.shards import DatasetWriter

    with DatasetWriter(folder, patch=patch, provenance={"kind": "noise"}) as writer:
        for n in range(4):
            pixels = np.full((2 * patch, 2 * patch), n, np.uint16)
            radiograph = Radiograph(pixels, f"{n}", LABELS[n % 2], f"{n}", "hospital", 0.2)
            writer.add(encode(radiograph, patch), "train")
    return str(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
