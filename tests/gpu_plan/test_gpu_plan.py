"""Plans of small denoisers, compiled for this CPU and, with JAX's CUDA plugin, for GPUs."""

import importlib.metadata
import sys

import jax
import pytest

from femur_jax.diffusion.conditioning import CHANNELS, vector_length
from femur_jax.errors import UserError
from femur_jax.gpu_plan.collectives import collectives
from femur_jax.gpu_plan.compiler import Compiled, check_plugin, compile_step, gpus
from femur_jax.gpu_plan.hlo import parse
from femur_jax.gpu_plan.kernels import kernels
from femur_jax.gpu_plan.plan import Plan, more_microbatches, tables
from femur_jax.gpu_plan.roofline import predict
from femur_jax.gpu_plan.targets import GPUS, find_gpu, parse_nodes

PATCH = 16
WIDTH = 8


@pytest.fixture(scope="module")
def config(diffusion_config):
    """A denoiser of one resolution, with Adam."""
    config = diffusion_config.copy_and_resolve_references()
    config.train.update(optimizer="adam", batch_size=16, accumulate=2)
    config.mesh.update(data=2, fsdp=4)
    return config


@pytest.fixture(scope="module")
def on_cpu(config):
    return compile_step(config, jax.devices(), patch=PATCH)


@pytest.fixture(scope="module")
def plugin():
    try:
        check_plugin()
    except UserError as error:
        pytest.skip(str(error))


def test_state_is_five_copies_of_the_parameters_over_fsdp(on_cpu, config):
    # Parameters, two moving averages, and Adam's two moments, in float32.
    whole = 5 * 4 * on_cpu.parameters
    assert whole / 4 <= on_cpu.state <= 0.3 * whole  # arrays that 4 does not divide stay whole
    assert on_cpu.memory > on_cpu.arguments > on_cpu.state
    assert on_cpu.outputs < 0.1 * on_cpu.state  # the new state takes the memory of the old one
    assert (on_cpu.samples, on_cpu.microbatches) == (1, 2)
    assert "bf16" not in on_cpu.text


def test_model_flops_are_those_of_its_layers(on_cpu):
    w, pixels = WIDTH, PATCH**2
    stem, first = pixels * 9 * CHANNELS * w, (2 * w + vector_length(2)) * 4 * w
    blocks = 2 * (18 * w * w) + (27 * w * w + 2 * w * w)  # down and middle; up, with its skip
    attention = 3 * (4 * w * w + 2 * pixels * w)
    modulations = 3 * (4 * w * 2 * w)
    head = 9 * w
    others = pixels * (blocks + attention + head) + (4 * w) ** 2 + modulations
    # A product has two gradients; those of the network's inputs are not needed.
    by_image = 2 * (3 * others + 2 * (stem + first))
    assert on_cpu.model_flops * 8 / 16 == by_image


def test_a_plan_has_a_row_in_each_table(on_cpu):
    module = parse(on_cpu.text)
    joined = list(collectives(module, devices=8, gpus_a_node=4))
    prediction = predict(
        list(kernels(module)), joined, GPUS["h100"], model_flops=on_cpu.model_flops
    )
    plan = Plan(GPUS["h100"], 2, 4, 16, 3600, on_cpu, prediction)
    assert plan.hours == pytest.approx(prediction.seconds)
    lines = list(tables([plan, plan]))
    assert sum(line.startswith("| NVIDIA H100") for line in lines) == 6
    columns = [line.count("|") for line in lines if line]
    assert columns == [columns[0]] * 4 + [columns[4]] * 4 + [columns[8]] * 4


def with_memory(samples, microbatches, *, fixed, temporary):
    return Compiled("", 1, 0, samples, microbatches, fixed, fixed, temporary, 0, 0)


def test_microbatches_are_as_large_as_memory_permits():
    step = with_memory(64, 1, fixed=2, temporary=64)
    assert more_microbatches(step, 34.0, name="GPU") == 2
    assert more_microbatches(step, 33.0, name="GPU") == 4
    assert more_microbatches(step, 3.0, name="GPU") == 64
    with pytest.raises(UserError, match="One sample needs"):
        more_microbatches(with_memory(1, 64, fixed=2, temporary=1), 1.0, name="GPU")


def test_a_plugin_of_another_version_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "jax_cuda12_plugin-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: jax-cuda12-plugin\nVersion: 0.0.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    version = importlib.metadata.version("jax")
    with pytest.raises(UserError, match=rf"0\.0\.1 and JAX {version}; .* pip install"):
        check_plugin()


def test_without_the_plugin_one_sentence_says_how_to_install_it():
    installed = {found.name for found in importlib.metadata.distributions()}
    if installed & {"jax-cuda12-plugin", "jax-cuda13-plugin"}:
        pytest.skip("JAX's CUDA plugin is installed")
    with pytest.raises(UserError, match=r'pip install "jax\[cuda12\]=='):
        check_plugin()


def test_on_one_gpu_nothing_is_sent_and_attention_is_fused(plugin, config):
    alone = config.copy_and_resolve_references()
    alone.mesh.update(data=1, fsdp=1)
    alone.model.dtype = "bfloat16"
    compiled = compile_step(alone, gpus(find_gpu("h100"), *parse_nodes("1x1")), patch=PATCH)
    module = parse(compiled.text)
    groups = [kernel.group for kernel in kernels(module)]
    # Eight convolutions with three passes each; the network's input needs no gradient.
    assert groups.count("convolutions") == 3 * 8 - 1
    assert groups.count("attention") == 2 * 3
    assert not list(collectives(module, devices=1, gpus_a_node=1))


def test_two_nodes_gather_within_and_reduce_between(plugin, config):
    compiled = compile_step(config, gpus(find_gpu("h100"), *parse_nodes("2x4")), patch=PATCH)
    found = list(collectives(parse(compiled.text), devices=8, gpus_a_node=4))
    assert {c.in_node for c in found if c.kind == "all-gather"} == {True}
    between = [c for c in found if not c.in_node]
    assert {c.kind for c in between} == {"all-reduce"}
    # Each device has a quarter of the gradient to share with the other node.
    assert sum(c.bytes for c in between) >= 4 * compiled.parameters / 4
