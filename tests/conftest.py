"""Shared by all tests: shapes checked at run time, eight fake devices, tiny data and configs."""

import gc
import importlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.environment import QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices on one CPU.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8" + QUICK
)
# Threads of linear algebra wait for each other for longer than products of small matrices take.
os.environ["OMP_NUM_THREADS"] = "1"
# Tests compile much the same functions, so their processes share what one of them has compiled,
# also what took less than the second from which JAX keeps it by default.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from threadpoolctl import threadpool_limits

from tests.shapes import check_package

check_package("femur_jax")
threadpool_limits(1)  # for NumPy, which a plugin of pytest has imported already

import pytest  # noqa: E402


def pytest_collectstart():
    """Imports libraries first: a checked module compiles all that it is the first to import."""
    for library in (
        "flax.nnx",
        "grain",
        "matplotlib.pyplot",
        "optax",
        "orbax.checkpoint",
        "scipy.stats",
        "sklearn.metrics",
        "tensorflow_datasets",
        "tifffile",
    ):
        importlib.import_module(library)


def pytest_collection_finish():
    """Spares the garbage collector all imported objects, which live to the end."""
    gc.collect()
    gc.freeze()


LONGEST = (
    *("guide", "whole_study", "main", "audit", "generators", "trajectories", "evaluators"),
    *("diffusion_task", "sample", "real_radiographs", "classifier_task", "unet", "degraded_sets"),
    *("loop", "pipeline", "processes", "task", "start"),
)
"""The slowest test files, without test_ and .py."""


def pytest_collection_modifyitems(items):
    """Puts the longest files first, so that no process is left with one at the end."""
    rank = {f"test_{name}.py": n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="module")
def chromium():
    """A browser, for which a test asks `new_page` or `new_context`."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        # The sandbox does not work for root; the pages are trusted.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def real_radiographs() -> Path:
    """The folder of real radiographs, which is read in place and never copied."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "radiographs"
    if not folder.is_dir():
        pytest.skip(f"the real radiographs are not at {folder}")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Bars across (NFF) or along (AFF) the radiograph, of many sizes, in patches of 16 pixels."""
    import numpy as np

    from femur_jax.data.radiograph import LABELS, Radiograph
    from femur_jax.data.records import encode
    from femur_jax.data.shards import DatasetWriter, RadiographDataset

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "dataset"
    with DatasetWriter(folder, patch=16, provenance={"kind": "test"}) as writer:
        for split, count in (("train", 24), ("validation", 8), ("test", 12)):
            for n in range(count):
                height, width = (int(side) for side in rng.integers(14, 60, size=2))
                label = LABELS[n % 2]
                length = width if label == "AFF" else height
                bar = (np.abs(np.arange(length) - length * rng.uniform(0.3, 0.7)) < 3) * 40000
                shape = (1, -1) if label == "AFF" else (-1, 1)
                pixels = bar.reshape(shape) + rng.integers(5000, 9000, size=(height, width))
                radiograph = Radiograph(
                    pixels=pixels.astype(np.uint16),
                    name=f"{split}-{n}",
                    label=label,
                    patient=f"{split}-{n // 2}-{label}",
                    hospital=f"hospital-{n % 3}",
                    spacing_mm=0.2,
                    spacing_source="detector",
                )
                writer.add(encode(radiograph, 16), split)
    return RadiographDataset(folder)


@pytest.fixture(scope="session")
def diffusion_config(dataset):
    """The smallest denoiser."""
    from configs.patch_diffusion import get_config

    config = get_config("tiny")
    config.dataset = str(dataset.folder)
    config.model.update(channels=8, multipliers=(1,), attention=(True,))
    config.train.update(steps=6, batch_size=8, checkpoint_every=2, log_every=2, warmup_steps=1)
    config.sample.update(per_label=1, steps=(2,), guidance=(1.0,), tile_batch=4)
    return config


@pytest.fixture(scope="session")
def gan_config(dataset):
    """The smallest GAN."""
    from configs.gan import get_config

    config = get_config("tiny")
    config.dataset = str(dataset.folder)
    config.model.update(size=16, channels=(8, 8, 8), latent=4)
    config.train.update(steps=4, batch_size=8, checkpoint_every=2, log_every=2, burn_in_images=16)
    config.sample.update(per_label=3, batch_size=4)
    return config


@pytest.fixture(scope="session")
def classifier_config(dataset):
    """The smallest classifier."""
    from configs.classifier import get_config

    config = get_config("tiny")
    config.dataset = str(dataset.folder)
    config.data.shapes = ((32, 32),)
    config.model.update(stage_sizes=(1, 1), width=8)
    config.train.update(
        steps=40, batch_size=16, checkpoint_every=20, log_every=10, ema_decay=0.9, warmup_steps=5
    )
    return config
