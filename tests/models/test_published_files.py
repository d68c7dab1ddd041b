"""The recipes of docs/pretrained.md, with random weights in files of the published shapes."""

import math
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import classifier
from femur_jax.classifier.task import ClassifierTask
from femur_jax.commands import run_options
from femur_jax.errors import UserError
from femur_jax.evaluation.features import network
from femur_jax.models.functional import functional
from femur_jax.models.resnet import ResNet, imported_trunk
from femur_jax.models.torch_file import read_weights
from tests.models.weight_files import save

PAGE = Path(__file__).parents[2] / "docs" / "pretrained.md"
SUFFIXES = [".pth", ".safetensors"]  # as torchvision and DINOv2's authors write, and timm

RESNETS = {
    "ResNet-18": ((2, 2, 2, 2), False, 11_689_512),
    "ResNet-34": ((3, 4, 6, 3), False, 21_797_672),
    "ResNet-50": ((3, 4, 6, 3), True, 25_557_032),
    "ResNet-101": ((3, 4, 23, 3), True, 44_549_160),
    "ResNet-152": ((3, 8, 36, 3), True, 60_192_808),
}
"""Blocks of each stage, whether they are bottlenecks, and the published number of parameters."""


def resnet_shapes(stages, bottleneck):
    """Shapes by the names that torchvision and timm use."""
    shapes, inputs = {"conv1.weight": (64, 3, 7, 7), "bn1": (64,)}, 64
    for stage, count in enumerate(stages, 1):
        inner = 32 * 2**stage
        outputs = 4 * inner if bottleneck else inner
        for n in range(count):
            block = f"layer{stage}.{n}"
            sizes = [(inner, 1), (inner, 3), (outputs, 1)] if bottleneck else [(inner, 3)] * 2
            channels = inputs
            for i, (width, side) in enumerate(sizes, 1):
                shapes[f"{block}.conv{i}.weight"] = (width, channels, side, side)
                shapes[f"{block}.bn{i}"] = (width,)
                channels = width
            if n == 0 and (stage > 1 or bottleneck):
                shapes[f"{block}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes[f"{block}.downsample.1"] = (outputs,)
            inputs = outputs
    norms = {name: shape for name, shape in shapes.items() if len(shape) == 1}
    for name, shape in norms.items():
        del shapes[name]
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = shape
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def vit_shapes(width, depth):
    """Shapes by the names that DINOv2's authors and timm use; only the former's have a mask."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1370, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    layers = {"attn.qkv": (1, 3), "attn.proj": (1, 1), "mlp.fc1": (1, 4), "mlp.fc2": (4, 1)}
    for n in range(depth):
        for name, (inputs, outputs) in layers.items():
            shapes[f"blocks.{n}.{name}.weight"] = (outputs * width, inputs * width)
            shapes[f"blocks.{n}.{name}.bias"] = (outputs * width,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{n}.{name}"] = (width,)
        shapes[f"blocks.{n}.ls1.gamma"] = shapes[f"blocks.{n}.ls2.gamma"] = (width,)
    return shapes


def drawn(shapes):
    """Random numbers above zero, as variances must be."""
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) + 0.1 for name, shape in shapes.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_formats_hold_what_was_saved(tmp_path, suffix):
    tensors = drawn({"a": (2, 3, 4), "b.weight": (5,), "c": ()})
    read = read_weights(save(tmp_path / f"w{suffix}", tensors))
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name], value)


@pytest.mark.parametrize("name", RESNETS)
def test_every_published_size_fits(name):
    stages, bottleneck, published = RESNETS[name]
    shapes = resnet_shapes(stages, bottleneck)
    parameters = [shape for key, shape in shapes.items() if "running" not in key]
    assert sum(map(math.prod, parameters)) == published
    build = functional(lambda rngs: ResNet(stages, 64, 3, bottleneck, norm="fixed", rngs=rngs))
    params = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
        jax.eval_shape(build.init, jax.random.key(0)),
    )
    ones = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
    new = imported_trunk(params, ones, grey=False)
    assert all(layer["conv"]["kernel"].all() for layer in (new["stem"], *_layers(new["blocks"])))


def _layers(blocks):
    for block in blocks.values():
        yield from block["layers"].values()
        if "shortcut" in block:
            yield block["shortcut"]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("ResNet-18", ".pth"), ("ResNet-18", ".safetensors"), ("ResNet-50", ".pth")],
)
def test_a_classifier_starts_from_imagenet(dataset, tmp_path, name, suffix):
    stages, bottleneck, _ = RESNETS[name]
    shapes = resnet_shapes(stages, bottleneck)
    weights = drawn(shapes)
    config = classifier.get_config("base")
    config.weights = str(save(tmp_path / f"weights{suffix}", weights))
    config.model.update(norm="fixed", stage_sizes=stages, bottleneck=bottleneck)
    params = ClassifierTask(config, [dataset]).init(jax.random.key(0)).params
    stem, last = params["stem"]["conv"]["kernel"], params["blocks"][str(sum(stages) - 1)]
    grey = weights["conv1.weight"].sum(axis=1)
    np.testing.assert_allclose(np.moveaxis(stem[:, :, 0], 2, 0), grey, rtol=1e-6)
    kernel = weights[f"layer4.{stages[3] - 1}.conv2.weight"]
    np.testing.assert_array_equal(
        np.transpose(last["layers"]["1"]["conv"]["kernel"], (3, 2, 0, 1)), kernel
    )


@pytest.mark.parametrize(("suffix", "has_mask"), [(".pth", True), (".safetensors", False)])
def test_features_come_from_dinov2(tmp_path, suffix, has_mask):
    weights = drawn(vit_shapes(384, 12) | ({"mask_token": (1, 384)} if has_mask else {}))
    extractor = network(save(tmp_path / f"dinov2{suffix}", weights))
    assert (extractor.name, extractor.side) == ("DINOv2 of width 384", 224)


@pytest.mark.parametrize("token", ["register_tokens", "reg_token"])
def test_a_dinov2_with_registers_is_refused(tmp_path, token):
    weights = drawn(vit_shapes(64, 1) | {token: (1, 4, 64)})
    with pytest.raises(UserError, match="DINOv2 with registers"):
        network(save(tmp_path / "dinov2.safetensors", weights))


# config_flags loads a config's file in a way that Python 3.12 deprecates.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_commands_of_the_page_are_accepted():
    text = re.sub(r"\\\n\s*", "", PAGE.read_text())
    commands = [shlex.split(line) for line in re.findall(r"^    femur (.*)$", text, re.MULTILINE)]
    assert len(commands) == 5
    for command, *arguments in commands:
        if "--config" not in " ".join(arguments).replace("--config.", ""):
            arguments = ["--config=configs/patch_diffusion.py:base", *arguments]
        run_options.parse(command, arguments)
    for setting in re.findall(r"`(--config\.[^`]+)`", text):
        run_options.parse(
            "train", ["--config=configs/classifier.py:base", "x", *shlex.split(setting)]
        )
