"""The whole study: radiographs in, a report out.

    python -m femur_jax.main --config=configs/study.py:demo --workdir=runs/demo

demo: simulated patients, minutes on two CPU cores. smoke: the same in miniature, for CI.
base: a hospital's own radiographs on a GPU; set config.radiographs and config.labels.
"""

from ml_collections import ConfigDict

from configs import classifier, gan, patch_diffusion


def get_config(variant: str = "base") -> ConfigDict:
    """Variants: demo, smoke, base."""
    if variant not in ("demo", "smoke", "base"):
        raise ValueError(f"configs/study.py has the variants demo, smoke and base, not {variant!r}")
    size = "base" if variant == "base" else "tiny"
    config = ConfigDict()
    config.stage = "study"
    config.seed = 0
    config.radiographs = ""  # folder of DICOM or image files; simulated when empty
    config.labels = ""  # its labels.csv
    config.inception = (
        ""  # weights file of pytorch-fid, for FID; the classifier's features if empty
    )
    config.phantom = ConfigDict(
        {
            "patients": 320,
            "hospitals": 4,
            "aff_fraction": 0.4,
            "long_side": (64, 128),  # shortest and longest, in pixels
            "images": 480,
            "coarsest_mm": 1.2,  # of a pixel: the smallest images show 8 cm of the femur
        }
    )
    config.ingest = ConfigDict({"patch": 256, "fractions": (0.12, 0.22), "max_quarantined": 0.05})
    config.diffusion = patch_diffusion.get_config(size)
    config.gan = gan.get_config(size)
    config.classifier = classifier.get_config(size)
    if variant == "demo":
        config.ingest.update(patch=32, max_quarantined=0.0)
    if variant == "smoke":
        config.ingest.update(patch=32, max_quarantined=0.0)
        config.phantom.update(patients=48, images=72)
        for part, steps in ((config.diffusion, 30), (config.gan, 20), (config.classifier, 30)):
            part.train.update(steps=steps, checkpoint_every=10, log_every=5)
        config.diffusion.train.update(warmup_steps=5)
        config.classifier.train.update(warmup_steps=5)
        config.diffusion.sample.update(per_label=4)
        config.gan.sample.update(per_label=4)
    return config
