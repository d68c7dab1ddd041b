"""The GAN's training step in eager PyTorch: the peer of GanTask.step.

    .bench-venv/bin/python benchmarks/peers/r3gan_torch.py FOLDER cpu
    .bench-venv/bin/python benchmarks/peers/r3gan_torch.py FOLDER gpu

FOLDER holds the same inputs as femur_jax has: config.json (a config of gan.py), weights.npz (both
networks' weights by path) and inputs.npz (real, mask, condition and two latents of each image). On
CPU the script first writes losses and their gradients at these weights, in float64, to outputs.npz.
Then, for each number n read from standard input, it takes n training steps: in float32, on a GPU in
TF32, and with bfloat16 by autocast for what is not differentiated twice. Each answer is a line of
JSON on standard output.

torch.compile does not trace through a gradient of a gradient, which the penalties need, so the
step runs eagerly. It leaves out femur_jax's augmentation.
"""

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EMBEDDING = 64
CALIBRATION_STEPS = 2


class Linear(nn.Module):
    """A linear layer without bias; on images a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return functional.linear(x, self.kernel)
        return functional.conv2d(x, self.kernel[:, :, None, None])


class Convolution(nn.Module):
    """A 3 x 3 convolution in groups, without bias."""

    def __init__(self, channels: int, group_width: int):
        super().__init__()
        self.groups = channels // group_width
        self.kernel = nn.Parameter(torch.empty(channels, group_width, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, padding=1, groups=self.groups)


class BiasedActivation(nn.Module):
    """A bias for each channel, then leaky ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x + self.bias[:, None, None], 0.2)


class ResidualBlock(nn.Module):
    """An inverted bottleneck."""

    def __init__(self, channels: int, group_width: int | None):
        super().__init__()
        inner = 2 * channels
        self.widen = Linear(channels, inner)
        self.activation1 = BiasedActivation(inner)
        self.spatial = Convolution(inner, group_width or inner)
        self.activation2 = BiasedActivation(inner)
        self.narrow = Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.widen(x))
        return x + self.narrow(self.activation2(self.spatial(y)))


class Resample(nn.Module):
    """Resampling by a factor, with a 1 x 1 convolution at the smaller size if channels change."""

    def __init__(self, inputs: int, outputs: int, factor: float):
        super().__init__()
        self.mix = Linear(inputs, outputs) if inputs != outputs else None
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if self.mix and self.factor > 1:
            x = self.mix(x)
        # A border of zeros, whose share of the result is cut off.
        border, excess = (1, 2) if self.factor > 1 else (2, 1)
        x = functional.interpolate(
            functional.pad(x, [border] * 4),
            scale_factor=self.factor,
            mode="bilinear",
            antialias=self.factor < 1,
        )[..., excess:-excess, excess:-excess]
        return self.mix(x) if self.mix and self.factor < 1 else x


class Basis(nn.Module):
    """A map from a vector to 4 x 4 images, or back."""

    def __init__(self, channels: int, vector: int, *, generative: bool):
        super().__init__()
        self.generative = generative
        self.basis = nn.Parameter(torch.empty(channels, 4, 4))
        self.weight = Linear(vector, channels) if generative else Linear(channels, vector)

    def forward(self, x: Tensor) -> Tensor:
        if self.generative:
            return self.basis * self.weight(x)[:, :, None, None]
        return self.weight((x * self.basis).sum((2, 3)))


class Generator(nn.Module):
    """Images from latents and conditions."""

    def __init__(self, model: dict[str, Any], conditions: int):
        super().__init__()
        channels, blocks = model["channels"], (model["blocks"], model["group_width"])
        self.embed = Linear(conditions, EMBEDDING)
        layers = [Basis(channels[0], model["latent"] + EMBEDDING, generative=True)]
        layers += residual_blocks(channels[0], *blocks)
        for inputs, outputs in pairwise(channels):
            layers += [Resample(inputs, outputs, 2), *residual_blocks(outputs, *blocks)]
        self.layers = nn.Sequential(*layers, Linear(channels[-1], 1))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.layers(torch.cat([z, self.embed(condition)], dim=1))


class Discriminator(nn.Module):
    """Logits of images under conditions."""

    def __init__(self, model: dict[str, Any], conditions: int):
        super().__init__()
        channels, blocks = model["channels"], (model["blocks"], model["group_width"])
        layers: list[nn.Module] = [Linear(2, channels[-1])]
        for inputs, outputs in pairwise(reversed(channels)):
            layers += [*residual_blocks(inputs, *blocks), Resample(inputs, outputs, 0.5)]
        layers += residual_blocks(channels[0], *blocks)
        self.layers = nn.Sequential(*layers, Basis(channels[0], channels[0], generative=False))
        self.embed = Linear(conditions, channels[0])

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return (self.layers(image) * self.embed(condition)).sum(1)


def residual_blocks(channels: int, count: int, group_width: int | None) -> list[nn.Module]:
    return [ResidualBlock(channels, group_width) for _ in range(count)]


class Trainer:
    """Both networks in training on one batch."""

    def __init__(
        self,
        config: dict[str, Any],
        weights: dict[str, np.ndarray],
        inputs: dict[str, np.ndarray],
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        device: torch.device,
    ):
        self.train, self.memory_format, self.device = config["train"], memory_format, device
        self.inputs = {
            name: self._formatted(torch.from_numpy(value).to(device, dtype))
            for name, value in inputs.items()
        }
        conditions = self.inputs["condition"].shape[1]
        self.generator = Generator(config["model"], conditions)
        self.discriminator = Discriminator(config["model"], conditions)
        for name in ("generator", "discriminator"):
            network = getattr(self, name).to(device, dtype)
            load(network, {k: v for k, v in weights.items() if k.startswith(name + "/")})
            network.to(memory_format=memory_format)
        settings = {"lr": self.train["learning_rate"][0], "betas": (0.0, self.train["beta2"][0])}
        self.optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), **settings, fused=True)
            for name in ("generator", "discriminator")
        }
        self.ema = [p.detach().clone() for p in self.generator.parameters()]

    def _formatted(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.memory_format) if x.ndim == 4 else x

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")

    def _discriminate(self, images: Tensor) -> Tensor:
        """Logits of images, which are masked and concatenated with the mask."""
        each = len(images) // len(self.inputs["mask"])
        mask = self.inputs["mask"].repeat(each, 1, 1, 1)
        seen = self._formatted(torch.cat([images * mask, mask], dim=1))
        return self.discriminator(seen, self.inputs["condition"].repeat(each, 1))

    def discriminator_loss(self) -> dict[str, Tensor]:
        """The loss and its penalties (arXiv 2501.05441)."""
        real, condition = self.inputs["real"], self.inputs["condition"]
        with torch.no_grad(), self._autocast():
            fake = self.generator(self.inputs["z"], condition)
        images = torch.cat([real, fake.to(real.dtype)]).requires_grad_()
        logits = self._discriminate(images)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        r1, r2 = gradient.square().sum((1, 2, 3)).view(2, -1).mean(1)
        d_real, d_fake = logits.view(2, -1)
        adversarial = functional.softplus(d_fake - d_real).mean()
        loss = adversarial + self.train["gamma"][0] / 2 * (r1 + r2)
        return {"discriminator_loss": loss, "r1": r1, "r2": r2}

    def generator_loss(self) -> Tensor:
        with torch.no_grad(), self._autocast():
            d_real = self._discriminate(self.inputs["real"])
        with self._autocast():
            fake = self.generator(self.inputs["z2"], self.inputs["condition"])
            d_fake = self._discriminate(fake)
        return functional.softplus(d_real - d_fake).mean()

    def step(self) -> None:
        """Updates the discriminator, the generator and the moving average."""
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        self.discriminator_loss()["discriminator_loss"].backward()
        self.optimizers["discriminator"].step()
        self.discriminator.requires_grad_(False)
        self.optimizers["generator"].zero_grad(set_to_none=True)
        self.generator_loss().backward()
        self.optimizers["generator"].step()
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, list(self.generator.parameters()), 0.1)

    def answer(self) -> dict[str, np.ndarray]:
        """Losses, and gradients by path in the layout of femur_jax."""
        terms = self.discriminator_loss()
        terms["discriminator_loss"].backward()
        answers = {name: value.detach().numpy() for name, value in terms.items()}
        answers |= gradients("discriminator", self.discriminator)
        loss = self.generator_loss()
        loss.backward()
        answers["generator_loss"] = loss.detach().numpy()
        return answers | gradients("generator", self.generator)


def load(network: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Copies weights that are laid out channels last into a network."""
    parameters = dict(network.named_parameters())
    assert len(parameters) == len(weights)
    for path, value in weights.items():
        name = path.partition("/")[2].replace("/", ".")
        with torch.no_grad():
            parameters[name].copy_(torch.from_numpy(outputs_first(value)))


def gradients(name: str, network: nn.Module) -> dict[str, np.ndarray]:
    """A network's gradients by path, channels last."""
    result = {}
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None
        result[f"{name}/{path.replace('.', '/')}"] = outputs_last(parameter.grad.numpy().copy())
    return result


def outputs_first(value: np.ndarray) -> np.ndarray:
    """Kernels as (outputs, inputs, height, width); other arrays with channels first."""
    first = np.moveaxis(value, -1, 0)
    return np.ascontiguousarray(np.moveaxis(first, -1, 1) if value.ndim == 4 else first)


def outputs_last(value: np.ndarray) -> np.ndarray:
    """The inverse of `outputs_first`."""
    return np.moveaxis(np.moveaxis(value, 1, -1) if value.ndim == 4 else value, 0, -1)


def seconds(trainer: Trainer, steps: int) -> float:
    """Wall time of some steps."""
    start_time = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start_time


def main() -> None:
    folder, device = Path(sys.argv[1]), torch.device("cuda" if sys.argv[2] == "gpu" else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.set_num_threads(os.cpu_count() or 1)
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "weights.npz") as weights, np.load(folder / "inputs.npz") as inputs:
        given = config, dict(weights), dict(inputs)
    if device.type == "cpu":
        exact = Trainer(*given, torch.float64, torch.contiguous_format, device)
        np.savez(folder / "outputs.npz", **exact.answer())
    about: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(value.size for value in given[1].values()),
    }
    print(json.dumps(about), flush=True)
    trainers: dict[float, Trainer] = {}
    for line in sys.stdin:
        if not trainers:
            for memory_format in (torch.contiguous_format, torch.channels_last):
                trainer = Trainer(*given, torch.float32, memory_format, device)
                seconds(trainer, 1)
                trainers[seconds(trainer, CALIBRATION_STEPS)] = trainer
        print(json.dumps(seconds(trainers[min(trainers)], int(line))), flush=True)


if __name__ == "__main__":
    main()
