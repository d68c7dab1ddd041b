"""The whole study: radiographs in, a report out.

    python -m femur_jax.main --config=configs/study.py:demo --workdir=runs/demo

demo: simulated patients, minutes on two CPU cores. smoke: the same in miniature, for CI.
base: the whole grid on GPUs, of a hospital's own radiographs (config.radiographs, config.labels).

config.stage=plan prints the stages that are not done; config.only="train gan-letterbox-joint-0"
does one of them.
"""

from ml_collections import ConfigDict

from configs import classifier, gan, patch_diffusion


def get_config(variant: str = "base") -> ConfigDict:
    """Variants: demo, smoke, base."""
    if variant not in ("demo", "smoke", "base"):
        raise ValueError(f"configs/study.py has the variants demo, smoke and base, not {variant!r}")
    size = "base" if variant == "base" else "tiny"
    config = ConfigDict()
    config.seed = 0  # of simulated patients and of the splits
    config.radiographs = ""  # folder of DICOM or image files; simulated when empty
    config.labels = ""  # its labels.csv
    # Model, strategy for sizes, one model for both classes or one per class; see grid.py.
    config.grid = (
        "diffusion-pyramid-joint",
        "diffusion-pyramid-per_class",
        "diffusion-patch_diffusion-joint",
        "diffusion-patch_diffusion-per_class",
        "diffusion-letterbox-joint",
        "diffusion-letterbox-per_class",
        "gan-letterbox-joint",
        "gan-letterbox-per_class",
    )
    config.seeds = (0, 1, 2)  # each of which trains all of the grid, and its classifiers
    config.weights = ""  # file of Inception-v3 or DINOv2, for features; the judge's when empty
    config.phantom = ConfigDict(
        {
            "patients": 320,
            "hospitals": 4,
            "aff_fraction": 0.4,
            "long_side": (96, 128),  # shortest and longest, in pixels
            "images": 480,
            "coarsest_mm": 0.7,  # of a pixel: images show 7 to 9 cm of the femur
        }
    )
    config.ingest = ConfigDict({"patch": 256, "fractions": (0.12, 0.22), "max_quarantined": 0.05})
    config.diffusion = patch_diffusion.get_config(size)
    config.gan = gan.get_config(size)
    config.classifier = classifier.get_config(size)
    if variant != "base":
        config.ingest.update(patch=32, max_quarantined=0.0)
        config.grid = ("diffusion-pyramid-joint", "gan-letterbox-joint")
        config.seeds = (0,)
    if variant == "smoke":
        config.grid = (
            "diffusion-pyramid-joint",
            "diffusion-letterbox-joint",
            "gan-letterbox-joint",
            "gan-letterbox-per_class",
        )
        config.phantom.update(patients=48, images=72)
        for part in (config.diffusion, config.gan, config.classifier):
            part.train.update(steps=12, checkpoint_every=6, log_every=3)
            part.train.batch_size //= 2
        config.diffusion.train.update(warmup_steps=5)
        config.classifier.train.update(warmup_steps=5)
        config.diffusion.sample.update(per_label=5, steps=(6, 2))
        config.gan.sample.update(per_label=5)
    return config
