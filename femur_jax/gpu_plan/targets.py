"""GPUs that a training step can be compiled for, with the figures of NVIDIA's data sheets."""

from dataclasses import dataclass

from femur_jax.errors import UserError

GPUS_A_NODE = 8
"""The largest number of GPUs that NVLink joins in a node, as in DGX and HGX systems."""
MOST_NODES = 64

# One H100 reached 798 TFLOP/s in a bfloat16 matrix product and 3.0 TB/s in a copy.
MATRIX_SHARE = 798 / 989
"""The share of a data sheet's matrix rate that the best kernels reach; measured on an H100."""
BANDWIDTH_SHARE = 3.0 / 3.35
"""The share of a data sheet's memory bandwidth that a copy reaches; measured on an H100."""


@dataclass(frozen=True)
class Gpu:
    """A GPU model.

    Attributes:
        name: Name as the CUDA driver reports it.
        capability: CUDA compute capability, major and minor.
        cores: Number of streaming multiprocessors.
        clock_ghz: Boost clock in GHz.
        matrix: Dense bfloat16 operations a second, with sums in float32.
        vector: Float32 operations a second outside of the matrix units.
        bandwidth: Bytes a second between memory and chip.
        memory: Bytes of memory, where 1 GB is 10^9 bytes; a card reports up to 7% more.
        l2: Bytes of the level-2 cache.
        in_node: Bytes a second to other GPUs of the node, in one direction.
        network: Bytes a second to other nodes, in one direction.
        source: Documents of NVIDIA with these figures.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    clock_ghz: float
    matrix: float
    vector: float
    bandwidth: float
    memory: float
    l2: int
    in_node: float
    network: float
    source: str

    @property
    def text(self) -> str:
        """The GPU as XLA's GpuTargetConfigProto, in protobuf's text form.

        Threads, shared memory and registers of a core follow from the compute capability (CUDA
        C++ programming guide, table of technical specifications).
        """
        shared, optin, threads, fpus = _CORES[self.capability]
        major, minor = self.capability
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32
              threads_per_core_limit: {threads} core_count: {self.cores} fpus_per_core: {fpus}
              shared_memory_per_block: 49152 shared_memory_per_core: {shared}
              shared_memory_per_block_optin: {optin}
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              memory_bandwidth: {self.bandwidth:.0f} device_memory_size: {self.memory:.0f}
              l2_cache_size: {self.l2} clock_rate_ghz: {self.clock_ghz}
              cuda_compute_capability {{ major: {major} minor: {minor} }}
            }}
            platform_name: "CUDA" device_description_str: "{self.name}"
            dnn_version_info {{ major: 9 minor: 7 }} runtime_version {{ major: 12 minor: 8 }}
        """


_CORES = {
    (8, 0): (164 << 10, 163 << 10, 2048, 64),
    (8, 9): (100 << 10, 99 << 10, 1536, 128),
    (9, 0): (228 << 10, 227 << 10, 2048, 128),
}
"""Shared memory of a core and of one block in bytes, threads and float32 units of a core."""

_A100 = "data sheet of A100, whitepaper of the Ampere architecture, user guide of DGX A100"
_H100 = "data sheet of H100, whitepaper of the Hopper architecture, user guide of DGX H100"
_PCIE = 32e9  # PCIe 4.0 x 16, in one direction

# The SXM modules of A100, H100 and H200. A DGX A100 has eight adapters of 200 Gb/s, a DGX H100 or
# H200 eight of 400 Gb/s; for cards on PCIe one adapter of 100 Gb/s for each is assumed.
GPUS = {
    "a100-40": Gpu(
        "NVIDIA A100-SXM4-40GB",
        *((8, 0), 108, 1.41, 312e12, 19.5e12, 1.555e12, 40e9, 40 << 20, 300e9, 25e9),
        source=_A100,
    ),
    "a100-80": Gpu(
        "NVIDIA A100-SXM4-80GB",
        *((8, 0), 108, 1.41, 312e12, 19.5e12, 2.039e12, 80e9, 40 << 20, 300e9, 25e9),
        source=_A100,
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3",
        *((9, 0), 132, 1.98, 989e12, 67e12, 3.35e12, 80e9, 50 << 20, 450e9, 50e9),
        source=_H100,
    ),
    "h200": Gpu(
        "NVIDIA H200",
        *((9, 0), 132, 1.98, 989e12, 67e12, 4.8e12, 141e9, 50 << 20, 450e9, 50e9),
        source="data sheet of H200, whitepaper of the Hopper architecture, user guide of DGX H200",
    ),
    "rtx4090": Gpu(
        "NVIDIA GeForce RTX 4090",
        *((8, 9), 128, 2.52, 165.2e12, 82.6e12, 1.008e12, 24e9, 72 << 20, _PCIE, 12.5e9),
        source="whitepaper of the Ada architecture",
    ),
    "l40s": Gpu(
        "NVIDIA L40S",
        *((8, 9), 142, 2.52, 362e12, 91.6e12, 0.864e12, 48e9, 96 << 20, _PCIE, 12.5e9),
        source="data sheet of L40S, whitepaper of the Ada architecture",
    ),
}
"""The GPUs by the name that `femur plan_gpu --gpu` takes."""


def find_gpu(name: str) -> Gpu:
    """The GPU of a name.

    Raises:
        UserError: There is no GPU of this name.
    """
    if name not in GPUS:
        raise UserError(
            f"The GPU {name!r} is not known; name one of {', '.join(GPUS)}, or add its data sheet "
            "to femur_jax/gpu_plan/targets.py."
        )
    return GPUS[name]


def parse_nodes(text: str) -> tuple[int, int]:
    """Numbers of nodes and of GPUs a node, from text such as 2x8.

    Raises:
        UserError: The text has another form, or there cannot be so many.
    """
    nodes, _, gpus = text.partition("x")
    if not (nodes.isdecimal() and gpus.isdecimal()):
        raise UserError(f"{text!r} is not a number of nodes and of GPUs a node; write 2x8.")
    if not (1 <= int(nodes) <= MOST_NODES and 1 <= int(gpus) <= GPUS_A_NODE):
        raise UserError(
            f"{text} is out of range; choose 1 to {MOST_NODES} nodes of 1 to {GPUS_A_NODE} GPUs."
        )
    return int(nodes), int(gpus)
