"""Pyramid patch diffusion: one denoiser for radiographs of any size.

    python -m femur_jax.main --config=configs/patch_diffusion.py:tiny --workdir=runs/diffusion \
        --config.dataset=DATASET
    python -m femur_jax.main --config=configs/patch_diffusion.py:tiny --workdir=runs/diffusion \
        --config.dataset=DATASET --config.stage=sample

tiny: patches of 32 pixels on CPU, minutes. base: patches of 256 pixels on one GPU.
The patch is the dataset's (tools/preprocess.py --patch).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """Variants: tiny, base."""
    config = ConfigDict()
    config.stage = "train"  # or sample
    config.task = "diffusion"
    config.dataset = ""  # folder of the radiograph dataset
    config.seed = 0
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1})
    config.profile = 0  # steps to trace with JAX's profiler, after the first ten
    draw = {"by": "patient", "label_shares": (0.5, 0.5), "hospital_balance": 0.0}  # see loader.Pool
    config.data = ConfigDict({"level_weights": (1.0, 1.0), "draw": draw})
    config.model = ConfigDict(
        {
            "channels": 128,
            "multipliers": (1, 2, 2, 2, 4),
            "blocks": 2,
            "attention": (False, False, False, True, True),
        }
    )
    config.diffusion = ConfigDict(
        {
            "P_mean": -0.8,
            "P_std": 1.4,
            "sigma_data": 0.5,
            "label_dropout": 0.1,
            "context_sigma": (0.02, 0.5),  # range of the noise put on the coarser level
        }
    )
    config.train = ConfigDict(
        {
            "steps": 200_000,
            "batch_size": 64,
            "learning_rate": 2e-4,
            "warmup_steps": 1000,
            "ema_decay": 0.9999,
            "log_every": 100,
            "checkpoint_every": 5000,
            "images_every": 5000,
        }
    )
    config.sample = ConfigDict(
        {
            "per_label": 500,  # radiographs made of each class
            "seed": 0,
            "guidance": 1.0,
            "sigma_max": 80.0,
            "sigma_min": 0.002,
            "steps": 18,
            "finer_sigma_max": 2.0,
            "finer_steps": 6,
            "context_sigma": 0.05,
            "tile_batch": 64,
            "group": 32,
        }
    )
    if variant == "tiny":
        config.data.level_weights = (2.0, 1.0)
        config.model.update(
            channels=32, multipliers=(1, 2, 2), blocks=1, attention=(False, False, True)
        )
        config.train.update(
            steps=600,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=50,
            ema_decay=0.995,
            log_every=10,
            checkpoint_every=150,
            images_every=300,
        )
        config.sample.update(per_label=32, steps=12, finer_sigma_max=1.0, finer_steps=4)
    elif variant != "base":
        raise ValueError(
            f"configs/patch_diffusion.py has the variants tiny and base, not {variant!r}"
        )
    return config
