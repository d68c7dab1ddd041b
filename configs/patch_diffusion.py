"""Pyramid patch diffusion: one denoiser for radiographs of any size.

    python -m femur_jax.main --config=configs/patch_diffusion.py:tiny --workdir=runs/diffusion \
        --config.dataset=DATASET
    python -m femur_jax.main --config=configs/patch_diffusion.py:tiny --workdir=runs/diffusion \
        --config.dataset=DATASET --config.stage=sample

tiny: patches of 32 pixels on CPU, minutes. base: patches of 256 pixels on one GPU. large: the same
on many nodes of eight GPUs.
The patch is the dataset's (femur ingest --patch).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """Variants: tiny, base, large."""
    config = ConfigDict()
    config.task = "diffusion"
    config.dataset = ""  # folder of the radiograph dataset
    config.seed = 0
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1})
    config.profile = 0  # steps to trace with JAX's profiler, after the first ten
    draw = {"by": "patient", "label_shares": (0.5, 0.5)}  # see loader.Pool
    config.data = ConfigDict(
        {
            "strategy": "pyramid",  # or patch_diffusion, letterbox; see data/strategies.py
            "level_weights": (1.0, 1.0),  # how often levels are drawn; the last for all finer ones
            "patch_shares": (0.5, 0.3, 0.2),  # patch_diffusion: whole images, halves, quarters
            "mirror": True,  # every second patch is of the mirror image, and the model is told
            "draw": draw,
        }
    )
    config.model = ConfigDict(
        {
            "channels": 128,
            "multipliers": (1, 2, 2, 2, 4),
            "blocks": 2,
            "attention": (False, False, False, True, True),
            "head_channels": 64,
            "dropout": 0.1,
            "uncertainty": True,  # learns how to weigh noise levels (EDM2)
            "dtype": "bfloat16",  # of convolutions and attention; or float32
            "remat": True,  # keeps a ninth of the memory, for a fifth more computation
        }
    )
    config.diffusion = ConfigDict(
        {
            "P_mean": -0.8,
            "P_std": 1.4,
            "sigma_data": 0.5,
            "label_dropout": 0.1,
            "context_sigma": (0.02, 0.5),  # range of the noise put on the coarser levels
        }
    )
    config.train = ConfigDict(
        {
            "steps": 200_000,
            "batch_size": 64,
            "accumulate": 1,  # parts of a batch in turn, for less memory; not on CPU
            "learning_rate": 2e-4,
            "warmup_steps": 1000,
            "ema_widths": (0.05, 0.1),  # relative to the steps so far; see training/ema.py
            "snapshot_every": 0,  # steps between stored averages, for other widths; 0: none
            "log_every": 100,
            "checkpoint_every": 5000,
            "images_every": 5000,
        }
    )
    config.sample = ConfigDict(
        {
            "per_label": 500,  # radiographs made of each class
            "labels": (),  # classes to be made; all that the model was trained on when empty
            "sizes": (),  # ((height, width), ...) to take turns; as in training when empty
            "seed": 0,
            "ema": 0.05,  # one of train.ema_widths
            "snapshot": 0,  # step of the snapshot to sample from; 0: the newest checkpoint
            "guidance": 1.0,
            "autoguidance": "",  # workdir of a worse model to guide with, instead of no class
            "solver": "dpm_solver_2m",  # or heun; see diffusion/solvers.py
            "sigma_max": (80.0, 2.0),  # by level, coarsest first; the last holds for finer ones
            "sigma_min": 0.002,
            "steps": (24, 8),  # by level; heun evaluates the model about twice a step
            "context_sigma": 0.05,
            "overlap": 0.25,  # of neighbouring tiles
            "tile_batch": 64,  # on each device
            "megapixels": 16.0,  # solved together; takes 40 bytes a pixel on the host
        }
    )
    config.evaluate = ConfigDict(
        {
            "weights": "",  # file of Inception-v3 or DINOv2, for features; pixels when empty
            "per_label": 16,  # radiographs of each class for audit, kid_every and copies_every
            "kid_every": 0,  # training steps from one KID against validation patients to the next
            "copies_every": 0,  # training steps from one search for copies to the next; 0: none
        }
    )
    if variant == "tiny":
        config.data.level_weights = (2.0, 1.0)
        config.model.update(
            channels=32,
            multipliers=(1, 2, 2),
            blocks=1,
            attention=(False, False, True),
            dropout=0.0,
            uncertainty=False,
            dtype="float32",
            remat=False,
        )
        config.train.update(
            steps=900,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=50,
            log_every=10,
            checkpoint_every=150,
            images_every=300,
        )
        config.sample.update(per_label=32, sigma_max=(80.0, 1.0), steps=(20, 6))
    elif variant == "large":
        config.mesh.fsdp = 8  # of each node's GPUs
        config.model.update(channels=256, blocks=3)
        config.train.update(
            batch_size=1024, steps=500_000, warmup_steps=10_000, snapshot_every=5000
        )
    elif variant != "base":
        raise ValueError(
            f"configs/patch_diffusion.py has the variants tiny, base and large, not {variant!r}"
        )
    return config
