"""The GAN baseline: R3GAN on letterboxed radiographs.

    femur train --config=configs/gan.py:tiny --workdir=runs/gan --config.dataset=data/femur
    femur sample runs/gan
    femur evaluate runs/gan

Variants, their cost and the expected result:
    tiny    64 x 64 pixels; four minutes on two CPU cores (600 steps); blurred femurs, not useful
    base    256 x 256 pixels, the published networks of this size with 23 M parameters each; one
            GPU; not trained yet
    large   512 x 512 pixels; several GPUs; not trained yet
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """The config of a variant: tiny, base or large.

    Raises:
        ValueError: There is no such variant.
    """
    config = ConfigDict()
    config.task = "gan"  # model family
    config.dataset = ""  # folder of the radiograph dataset
    config.pretrained = ""  # run directory of such a model to start from, of other data or size
    config.seed = 0  # seed of parameters, data order and latents
    config.mesh = ConfigDict(
        {
            "data": -1,  # devices that share each batch; -1: all that are left
            "fsdp": 1,  # devices that share each parameter
            "model": 1,  # devices that share each layer
        }
    )
    config.profile = 0  # steps to trace with JAX's profiler, after the first ten
    config.data = ConfigDict(
        {
            "draw": {
                "by": "patient",  # split: patient, hospital, or a fold such as 2/5
                "label_shares": (0.5, 0.5),  # shares of NFF and AFF in a batch; () as they are
            }
        }
    )
    config.model = ConfigDict(
        {
            "size": 256,  # side of the square that radiographs are fitted into
            "channels": (768, 768, 768, 768, 384, 192, 96),  # channels at 4, 8, ..., size pixels
            "blocks": 2,  # residual blocks at each size
            "group_width": 16,  # channels of a group; None: dense 3 x 3 convolutions
            "latent": 64,  # length of the latent vector
            "dtype": "bfloat16",  # type of the four finest sizes, except for penalties
        }
    )
    config.train = ConfigDict(
        {
            "steps": 100_000,  # optimizer steps of both networks
            "batch_size": 64,  # radiographs in a step, over all devices
            "accumulate": 1,  # microbatches of a step, for less memory; slower on CPU
            # First and last value of the burn-in, as published for 256 x 256 pixels:
            "learning_rate": (2e-4, 5e-5),  # first and last learning rate
            "beta2": (0.9, 0.99),  # first and last decay of the second moment
            "gamma": (150.0, 15.0),  # first and last weight of the penalties R1 and R2
            "ema_images": (0.0, 500_000.0),  # first and last half-life of the moving average
            # Published for 70,000 training images: 20 million burn-in images of 25 in all.
            "burn_in_images": 5_000_000,  # images until the last values hold
            "ada_target": 0.6,  # E[sign(D(real) - D(fake))] at which augmentation is steady
            "ada_images": 500_000,  # images in which its probability can rise from 0 to 1
            "snapshot_every": 0,  # steps between stored averages, for the audit; 0: none
            "log_every": 100,  # steps between logged losses; 0: only the last
            "checkpoint_every": 5000,  # steps between checkpoints; 0: only the last
            "images_every": 5000,  # steps between logged samples; 0: only the last
        }
    )
    config.sample = ConfigDict(
        {
            "per_label": 500,  # radiographs of each class
            "labels": (),  # classes to generate; all that were trained on when empty
            "sizes": (),  # heights and widths to alternate, the longer within the square
            "seed": 0,  # seed of the latents and of the drawn sizes
            "snapshot": 0,  # step of the snapshot to sample from; 0: the newest checkpoint
            "batch_size": 64,  # radiographs generated at once
        }
    )
    config.evaluate = ConfigDict(
        {
            "weights": "",  # file of Inception-v3 or DINOv2, for features; pixels when empty
            "per_label": 16,  # radiographs of each class for audit, kid_every and copies_every
            "kid_every": 0,  # training steps between KIDs against validation patients; 0: none
            "copies_every": 0,  # training steps between searches for copies; 0: none
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
        # Gamma grows with the number of pixels (StyleGAN2-ADA, arXiv 2006.06676, appendix C).
        config.train.update(batch_size=256, gamma=(600.0, 60.0))
    elif variant != "base":
        raise ValueError(f"configs/gan.py has the variants tiny, base and large, not {variant!r}")
    return config
