"""The denoiser's training step in PyTorch: the peer of DiffusionTask.step.

    .bench-venv/bin/python benchmarks/peers/train_torch.py FOLDER same cpu
    .bench-venv/bin/python benchmarks/peers/train_torch.py FOLDER diffusers gpu

same: the same network. diffusers: the U-Net of diffusers that comes nearest to it in parameters and
floating-point operations. On a GPU the network computes in bfloat16, by autocast, else in float32.
FOLDER holds the same inputs as femur_jax has: config.json (a config of patch_diffusion.py),
batch.npz (one batch of `loader.Patch`), weights.npz (weights by path) and inputs.npz (the network's
inputs). The same network first writes its output for these weights and inputs, and the gradient
with respect to the noisy patch, to outputs.npz. Both describe themselves; then, for each number n
read from standard input, they take n training steps. Each answer is a line of JSON on standard
output.
"""

import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from unet_torch import UNet, load_flax_weights

LABELS = 2
CHANNELS = 5
NUMBERS = 6
JITTER = 0.03
SHAPE = ("channels", "multipliers", "blocks", "attention", "head_channels")
CALIBRATION_STEPS = 3


class Trainer:
    """A network in training."""

    def __init__(
        self,
        network: nn.Module,
        config: dict[str, Any],
        memory_format: torch.memory_format,
        compiled: bool,
        device: torch.device,
        levels: int,
    ):
        self.levels = levels
        network = network.to(device=device, memory_format=memory_format)
        self.device = device
        self.network = torch.compile(network) if compiled else network
        self.memory_format = memory_format
        self.mode = f"{'compiled' if compiled else 'eager'}, {str(memory_format)[6:]}"
        self.config = config
        self.params = [p for p in network.parameters() if p.requires_grad]
        self.averages = {
            gamma_of(width): [p.detach().clone() for p in self.params]
            for width in config["train"]["ema_widths"]
        }
        self.steps = 0
        self.optimizer = torch.optim.Adam(
            self.params, lr=config["train"]["learning_rate"], betas=(0.9, 0.99), fused=True
        )

    def step(self, batch: dict[str, Tensor]) -> None:
        """Updates the parameters and the moving averages: forward, backward, clipping, Adam."""
        self.optimizer.zero_grad(set_to_none=True)
        self.losses(batch).mean().backward()
        nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.steps += 1
        with torch.no_grad():
            for gamma, average in self.averages.items():
                share = 1 - (1 - 1 / self.steps) ** (gamma + 1)
                torch._foreach_lerp_(average, self.params, share)

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each patch (Karras et al. 2022, arXiv 2206.00364, equation 2)."""
        c = self.config["diffusion"]
        mask, coordinates = mask_and_coordinates(batch)
        y = to_unit(batch["pixels"]) * mask
        low, high = np.log(c["context_sigma"])
        context_sigma = torch.empty(len(y), device=y.device).uniform_(low, high).exp()
        context = to_unit(batch["context"][..., 0])
        context = context + context_sigma[:, None, None, None] * torch.randn_like(context)
        finer = batch["level"] > 0
        context = torch.where(finer[:, None, None, None], context, 0) * mask
        kept = torch.rand(len(y), device=y.device) >= c["label_dropout"]
        vector = self.conditions(batch, kept, torch.where(finer, context_sigma, 0))

        sigma_data = c["sigma_data"]
        P_mean, P_std = (
            torch.tensor(values, device=y.device)[batch["level"].clamp(max=len(values) - 1)]
            for values in (c["P_mean"], c["P_std"])
        )
        sigma = (P_mean + P_std * torch.randn(len(y), device=y.device)).exp()
        s = sigma[:, None, None, None]
        x = y + s * torch.randn_like(y) * mask
        total = s**2 + sigma_data**2
        channels = torch.cat([x * total.rsqrt(), context, mask, coordinates], dim=1)
        channels = channels.contiguous(memory_format=self.memory_format)
        with torch.autocast("cuda", torch.bfloat16, enabled=y.is_cuda):
            F = self.network(channels, sigma.log() / 4, vector).float()
        D = sigma_data**2 / total * x + s * sigma_data * total.rsqrt() * F
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        return weight * (mask * (D - y) ** 2).sum((1, 2, 3)) / mask.sum((1, 2, 3))

    def conditions(self, batch: dict[str, Tensor], kept: Tensor, context_sigma: Tensor) -> Tensor:
        """The conditioning vector; labels that are not `kept` are zeros."""
        count = len(batch["level"])
        jitter = (JITTER * torch.randn(count, 3, device=context_sigma.device)).exp()
        size = (batch["size"] * jitter[:, :2]).round()
        known = (batch["spacing_mm"] > 0).float()
        spacing = torch.where(batch["spacing_mm"] > 0, batch["spacing_mm"] * jitter[:, 2], 1.0)
        reduction = size.amax(dim=1) / batch["level_size"].amax(dim=1)
        numbers = [
            size[:, 0].log2() - 8,
            size[:, 1].log2() - 8,
            known * (spacing * reduction).log(),
            known,
            context_sigma.clamp(min=1e-3).log() / 4,
            batch["mirrored"].float(),
        ]
        label = functional.one_hot(batch["label"], LABELS) * kept[:, None]
        level = functional.one_hot(batch["level"], self.levels)
        return torch.cat([label, level, torch.stack(numbers, dim=1) / NUMBERS**0.5], dim=1).float()


def gamma_of(width: float) -> float:
    """Exponent of a power-function average (Karras et al. 2023, arXiv 2312.02696, section 3)."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def to_unit(pixels: Tensor) -> Tensor:
    """Grey values 0..65535, (batch, patch, patch), to -1..1, (batch, 1, patch, patch)."""
    return pixels[:, None].float() / 32767.5 - 1


def mask_and_coordinates(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mask and coordinates, shapes (batch, 1, patch, patch) and (batch, 2, patch, patch)."""
    patch = batch["pixels"].shape[1]
    size = batch["level_size"][:, :, None]
    pixel = torch.arange(patch, device=size.device)
    index = batch["origin"][:, :, None] + pixel  # batch (y, x) patch
    inside = (index < size).float()
    position = (index + 0.5 - size / 2) / (size / 2).amax(dim=1, keepdim=True)
    mask = inside[:, 0, :, None] * inside[:, 1, None, :]
    y, x = position[:, 0, :, None].expand_as(mask), position[:, 1, None, :].expand_as(mask)
    return mask[:, None], torch.stack([y, x], dim=1)


def read(path: Path) -> dict[str, Tensor]:
    """Arrays as tensors; integers become int64, which PyTorch indexes with."""
    with np.load(path) as arrays:
        return {
            name: torch.from_numpy(
                value.astype(np.int64) if np.issubdtype(value.dtype, np.integer) else value
            )
            for name, value in arrays.items()
        }


def answer_for_weights(network: UNet, folder: Path) -> None:
    """Writes the network's output F and the gradient of sum(cotangent F)."""
    inputs = read(folder / "inputs.npz")
    x = inputs["x"].requires_grad_()
    F = network(x, inputs["c_noise"], inputs["conditions"])
    (F * inputs["cotangent"]).sum().backward()
    assert x.grad is not None
    np.savez(folder / "outputs.npz", F=F.detach().numpy(), gradient=x.grad.numpy())


def seconds(trainer: Trainer, batch: dict[str, Tensor], steps: int) -> float:
    """Wall time of some steps."""
    start_time = time.perf_counter()
    for _ in range(steps):
        trainer.step(batch)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start_time


class DiffusersUNet(nn.Module):
    """UNet2DModel, with the conditions where it takes the class."""

    # By the denoiser's channels. Compared with tiny: 678,257 parameters and 2% more operations;
    # compared with base: 2% fewer parameters and 3% more operations.
    SETTINGS: ClassVar = {
        32: {
            "block_out_channels": (24, 40, 56),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": None,
            "attention": 1,
        },
        128: {
            "block_out_channels": (96, 224, 224, 192, 448),
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "attention_head_dim": 64,
            "attention": 2,
        },
    }

    def __init__(self, channels: int, patch: int, conditions: int):
        from diffusers.utils import import_utils

        # torchvision's build on PyPI does not load with PyTorch's CPU build.
        import_utils._torchvision_available = False
        from diffusers import UNet2DModel

        super().__init__()
        settings = dict(self.SETTINGS[channels])
        widths, attention = settings["block_out_channels"], settings.pop("attention")
        plain = len(widths) - attention
        self.embed = nn.Linear(conditions, 4 * widths[0])
        self.network = UNet2DModel(
            sample_size=patch,
            in_channels=CHANNELS,
            out_channels=1,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * attention,
            up_block_types=("AttnUpBlock2D",) * attention + ("UpBlock2D",) * plain,
            class_embed_type="identity",
            **settings,
        )

    def forward(self, x: Tensor, c_noise: Tensor, conditions: Tensor) -> Tensor:
        """The same as `UNet.forward`."""
        return self.network(x, c_noise, class_labels=self.embed(conditions)).sample


def same_network(folder: Path, config: dict[str, Any]) -> UNet:
    """The denoiser with the weights in FOLDER, after `answer_for_weights`."""
    chosen = {name: config["model"][name] for name in SHAPE}
    conditions = read(folder / "inputs.npz")["conditions"].shape[1]
    network = UNet(in_channels=CHANNELS, conditions=conditions, **chosen)
    with np.load(folder / "weights.npz") as weights:
        load_flax_weights(network, weights)
    answer_for_weights(network, folder)
    return network


def megaflops(network: nn.Module, folder: Path, device: torch.device) -> float:
    """Floating-point operations of the forward pass of one patch, in millions."""
    inputs = {name: array.to(device) for name, array in read(folder / "inputs.npz").items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs["x"], inputs["c_noise"], inputs["conditions"])
    return counter.get_total_flops() / len(inputs["x"]) / 1e6


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    device = torch.device("cuda" if sys.argv[3] == "gpu" else "cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config = json.loads((folder / "config.json").read_text())
    batch = {name: array.to(device) for name, array in read(folder / "batch.npz").items()}
    # torch.compile writes C++ for CPUs, and what launches its kernels on GPUs in C.
    compilations = (False, True) if shutil.which("g++") else (False,)
    trainers, conditions = {}, read(folder / "inputs.npz")["conditions"].shape[1]
    for compiled, memory_format in itertools.product(
        compilations, (torch.contiguous_format, torch.channels_last)
    ):
        if kind == "same":
            network = same_network(folder, config)
        else:
            network = DiffusersUNet(
                config["model"]["channels"], batch["pixels"].shape[1], conditions
            )
        levels = conditions - LABELS - NUMBERS
        trainer = Trainer(network, config, memory_format, compiled, device, levels)
        seconds(trainer, batch, 1)
        trainers[seconds(trainer, batch, CALIBRATION_STEPS)] = trainer
    trainer = trainers[min(trainers)]
    about = {
        "torch": torch.__version__,
        "mode": trainer.mode,
        "ms of each mode": {
            t.mode: round(1000 * s / CALIBRATION_STEPS) for s, t in trainers.items()
        },
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "megaflops": megaflops(network, folder, device),
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(seconds(trainer, batch, int(line))), flush=True)


if __name__ == "__main__":
    main()
