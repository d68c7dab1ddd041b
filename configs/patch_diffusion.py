"""Pyramid patch diffusion: one denoiser for radiographs of any size.

    femur train --config=configs/patch_diffusion.py:tiny --workdir=runs/diffusion \
        --config.dataset=data/femur
    femur sample runs/diffusion
    femur evaluate runs/diffusion

Variants, their cost and the expected result:
    tiny    patches of 32 pixels; a few minutes on two CPU cores (1800 steps); after 3600 steps on
            radiographs of 900 simulated patients, classifiers trained on 300 synthetic ones had
            AUCs of 0.93 to 0.94 on held-out simulated patients (one training)
    base    patches of 256 pixels; one GPU; not trained yet
    large   the same with twice the channels; many nodes of eight GPUs; not trained yet

The side of a patch is the dataset's (femur ingest --patch).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """The config of a variant: tiny, base or large.

    Raises:
        ValueError: There is no such variant.
    """
    config = ConfigDict()
    config.task = "diffusion"  # model family
    config.dataset = ""  # folder of the radiograph dataset
    # Run directory of such a model to start from, of other data or size; example: the model of
    # femur example.
    config.pretrained = ""
    config.seed = 0  # seed of parameters, data order and noise
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
            "strategy": "pyramid",  # pyramid, patch_diffusion or letterbox; see data/strategies.py
            "level_weights": (1.0, 1.0),  # weights of the levels; the last for all finer ones
            "patch_shares": (0.5, 0.3, 0.2),  # patch_diffusion: wholes, halves, quarters
            "mirror": True,  # whether half of the patches are mirrored, which is a condition
            "draw": {
                "by": "patient",  # split: patient, hospital, or a fold such as 2/5
                "label_shares": (0.5, 0.5),  # shares of NFF and AFF in a batch; () as they are
            },
        }
    )
    config.model = ConfigDict(
        {
            "channels": 128,  # channels at the finest resolution
            "multipliers": (1, 2, 2, 2, 4),  # factor of the channels at each resolution
            "blocks": 2,  # residual blocks at each resolution
            "attention": (False, False, False, True, True),  # resolutions with attention
            "head_channels": 64,  # channels of an attention head
            "dropout": 0.1,  # dropout rate within blocks
            "uncertainty": True,  # whether weights of noise levels are learned (EDM2)
            "dtype": "bfloat16",  # type of convolutions and attention; or float32
            "remat": False,  # recomputes activations: less memory, more work
        }
    )
    config.diffusion = ConfigDict(
        {
            # By level, where the last value holds for all finer ones. A finer level differs from
            # the interpolated coarser one by a standard deviation of about 0.1.
            "P_mean": (-0.4, -2.0),  # mean of log sigma in training
            "P_std": (1.6, 1.2),  # standard deviation of log sigma in training
            "sigma_data": 0.5,  # standard deviation of the data
            "label_dropout": 0.1,  # share of patches without a class, for guidance
            "context_sigma": (0.02, 0.5),  # range of the noise on the coarser level's crop
        }
    )
    config.train = ConfigDict(
        {
            "steps": 200_000,  # optimizer steps
            "batch_size": 64,  # patches in a step, over all devices
            "accumulate": 2,  # microbatches of a step, for less memory; slower on CPU
            "optimizer": "muon",  # muon or adam; see training/optimizers.py
            "learning_rate": 2e-4,  # highest learning rate; a cosine falls to a tenth
            "warmup_steps": 1000,  # steps until the highest learning rate
            "ema_widths": (0.05, 0.1),  # widths of the moving averages; see training/ema.py
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
            "sizes": (),  # heights and widths to alternate; those of training when empty
            "longest": 0,  # stops at the last level whose longer side is at most this; 0: all
            "seed": 0,  # seed of the noise and of the drawn sizes
            "ema": 0.05,  # width of the moving average, one of train.ema_widths
            "snapshot": 0,  # step of the snapshot to sample from; 0: the newest checkpoint
            "guidance": (1.0,),  # weight of guidance by level, the last for all finer; 1: none
            "autoguidance": "",  # run directory of a weaker model that guides in place of no class
            "solver": "dpm_solver_2m",  # dpm_solver_2m or heun; see diffusion/solvers.py
            "sigma_max": (80.0, 0.6),  # highest sigma by level; the last for all finer ones
            "sigma_min": 0.002,  # lowest sigma
            "steps": (24, 8),  # solver steps by level; heun evaluates twice a step
            "context_sigma": 0.05,  # noise on the coarser level's crop
            "overlap": 0.25,  # share of a tile that overlaps its neighbour
            "tile_batch": 64,  # tiles at once on each device
            "megapixels": 16.0,  # megapixels solved together, on one device; 24 to 32 MB each
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
        config.data.level_weights = (3.0, 2.0, 1.0)
        config.model.update(
            channels=32,
            multipliers=(1, 2, 2),
            blocks=1,
            attention=(False, False, True),
            dropout=0.0,
            uncertainty=False,
            dtype="float32",
        )
        config.train.update(
            steps=1800,
            batch_size=16,
            accumulate=1,
            learning_rate=2e-3,
            warmup_steps=50,
            log_every=10,
            checkpoint_every=150,
            images_every=300,
        )
        config.sample.update(per_label=32, guidance=(1.5, 1.0), steps=(20, 6))
    elif variant == "large":
        config.mesh.fsdp = 8  # the GPUs of a node
        config.model.update(channels=256, blocks=3)
        config.train.update(
            batch_size=1024,
            accumulate=8,
            steps=500_000,
            warmup_steps=10_000,
            snapshot_every=5000,
        )
    elif variant != "base":
        raise ValueError(
            f"configs/patch_diffusion.py has the variants tiny, base and large, not {variant!r}"
        )
    return config
