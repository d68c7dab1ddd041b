"""The GAN baseline: R3GAN on letterboxed radiographs.

    python -m femur_jax.main --config=configs/gan.py:tiny --workdir=runs/gan \
        --config.dataset=DATASET
    python -m femur_jax.main --config=configs/gan.py:tiny --workdir=runs/gan \
        --config.dataset=DATASET --config.stage=sample

tiny: 64 x 64 pixels on CPU, minutes. base: 256 x 256 pixels on one GPU.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """Variants: tiny, base."""
    config = ConfigDict()
    config.stage = "train"  # or sample, evaluate
    config.task = "gan"
    config.dataset = ""  # folder of the radiograph dataset
    config.seed = 0
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1})
    config.profile = 0  # steps to trace with JAX's profiler, after the first ten
    draw = {"by": "patient", "label_shares": (0.5, 0.5), "hospital_balance": 0.0}  # see loader.Pool
    config.data = ConfigDict({"draw": draw})
    config.model = ConfigDict(
        {
            "size": 256,
            "channels": (768, 768, 768, 768, 512, 256, 128),  # at 4, 8, ..., size
            "blocks": 2,
            "latent": 64,
        }
    )
    config.train = ConfigDict(
        {
            "steps": 100_000,
            "batch_size": 64,
            "accumulate": 1,  # parts of a batch, one after the other: less memory, as much work
            "learning_rate": (2e-4, 5e-5),  # first and last value of the burn-in
            "gamma": (150.0, 15.0),
            "beta2": (0.9, 0.99),
            "burn_in_steps": 20_000,
            "ema_decay": 0.9995,
            "log_every": 100,
            "checkpoint_every": 5000,
            "images_every": 5000,
        }
    )
    config.sample = ConfigDict({"per_label": 500, "seed": 0, "batch_size": 64})
    if variant == "tiny":
        config.model.update(size=64, channels=(64, 64, 32, 16, 8), blocks=1, latent=32)
        config.train.update(
            steps=300,
            batch_size=16,
            learning_rate=(1e-3, 3e-4),
            gamma=(2.0, 0.2),
            burn_in_steps=200,
            ema_decay=0.98,
            log_every=10,
            checkpoint_every=100,
            images_every=150,
        )
        config.sample.update(per_label=32, batch_size=32)
    elif variant != "base":
        raise ValueError(f"configs/gan.py has the variants tiny and base, not {variant!r}")
    return config
