"""The GAN baseline: R3GAN on letterboxed radiographs.

    python -m femur_jax.main --config=configs/gan.py:tiny --workdir=runs/gan \
        --config.dataset=DATASET
    python -m femur_jax.main --config=configs/gan.py:tiny --workdir=runs/gan \
        --config.dataset=DATASET --config.stage=sample

tiny: 64 x 64 pixels on CPU, minutes. base: 256 x 256 pixels on one GPU, the published networks of
that size (23 M parameters each). large: 512 x 512 pixels on several GPUs.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """Variants: tiny, base, large."""
    config = ConfigDict()
    config.task = "gan"
    config.dataset = ""  # folder of the radiograph dataset
    config.seed = 0
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1})
    config.profile = 0  # steps to trace with JAX's profiler, after the first ten
    draw = {"by": "patient", "label_shares": (0.5, 0.5)}  # see loader.Pool
    config.data = ConfigDict({"draw": draw})
    config.model = ConfigDict(
        {
            "size": 256,
            "channels": (768, 768, 768, 768, 384, 192, 96),  # at 4, 8, ..., size
            "blocks": 2,
            "group_width": 16,  # None: dense 3 x 3 convolutions
            "latent": 64,
            "dtype": "bfloat16",  # of the four finest sizes, but for penalties
        }
    )
    config.train = ConfigDict(
        {
            "steps": 100_000,
            "batch_size": 64,
            "accumulate": 1,  # parts of a batch in turn, for less memory; not on CPU
            # First and last value of the burn-in, as published for 256 x 256 pixels.
            "learning_rate": (2e-4, 5e-5),
            "beta2": (0.9, 0.99),
            "gamma": (150.0, 15.0),
            "ema_images": (0.0, 500_000.0),  # the moving average's half-life
            # Published for 70,000 images: 20 million, of 25 to train on.
            "burn_in_images": 5_000_000,
            # Adaptive augmentation: p rises where D prefers the real one in more than 80% of pairs.
            "ada_target": 0.6,  # their share less that of the others
            "ada_images": 500_000,  # in which p can go from 0 to 1
            "snapshot_every": 0,  # steps between stored averages, for the audit; 0: none
            "log_every": 100,
            "checkpoint_every": 5000,
            "images_every": 5000,
        }
    )
    config.sample = ConfigDict(
        {
            "per_label": 500,  # radiographs made of each class
            "labels": (),  # classes to be made; all that the model was trained on when empty
            # ((height, width), ...) to take turns, the longer side as in the square; as in training
            # when empty
            "sizes": (),
            "seed": 0,
            "snapshot": 0,  # step of the snapshot to sample from; 0: the newest checkpoint
            "batch_size": 64,
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
        config.model.update(
            size=64,
            channels=(64, 64, 32, 16, 8),
            blocks=1,
            group_width=None,
            latent=32,
            dtype="float32",
        )
        config.train.update(
            steps=600,
            batch_size=16,
            learning_rate=(1e-3, 3e-4),
            gamma=(2.0, 0.2),
            ema_images=(0.0, 600.0),
            burn_in_images=6000,
            ada_images=20_000,
            log_every=10,
            checkpoint_every=100,
            images_every=200,
        )
        config.sample.update(per_label=32, batch_size=32)
    elif variant == "large":
        config.model.update(size=512, channels=(768, 768, 768, 768, 384, 192, 96, 48))
        # In proportion to the pixels, the rule of StyleGAN2-ADA (arXiv 2006.06676, appendix C).
        config.train.update(batch_size=256, gamma=(600.0, 60.0))
    elif variant != "base":
        raise ValueError(f"configs/gan.py has the variants tiny, base and large, not {variant!r}")
    return config
