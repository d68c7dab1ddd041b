"""The classifier of AFF against NFF: trained on any datasets, tested on real held-out patients.

    femur train --config=configs/classifier.py:tiny --workdir=runs/tstr \
        --config.dataset=data/femur --config.train_datasets="('runs/diffusion/synthetic',)"
    femur evaluate runs/tstr

Variants, their cost and the expected result:
    tiny   64 x 64 pixels; a minute on two CPU cores; AUC 0.91 after training on the 326 real
           radiographs of the demo's simulated patients
    base   ResNet-50 at 512 x 512 pixels; one GPU; not trained yet

Train on real, test on real (TRTR): no train_datasets. Train on synthetic, test on real (TSTR): one
dataset. Both: two datasets, at a ratio given by data.dataset_shares. Synthetic first, then real:
pretrained names the first run. Train on real, test on synthetic (TRTS): test_dataset.
data.draw.by divides patients, whole hospitals, or folds of patients; `femur cross_validate` runs
all folds.

Real and synthetic radiographs together must beat two controls. The first is the real radiographs
repeated to the same count: a run draws steps x batch_size radiographs whatever the size of the
datasets, so TRTR itself is this control, as is train_datasets=('REAL', 'REAL'). The second is
classical augmentation: TRTR as it is, against TRTR with all of train.augment at zero.

The loss over the validation patients of the real dataset is computed at each checkpoint, whatever
the training data. The checkpoint with the lowest loss is the one that is tested. With
data.validated_on='rest' the radiographs that data.per_label leaves out choose it, as where a
hospital has synthetic radiographs alone; patients of the validation still set the threshold.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """The config of a variant: tiny or base.

    Raises:
        ValueError: There is no such variant.
    """
    config = ConfigDict()
    config.task = "classifier"  # model family
    config.dataset = ""  # real dataset, whose validation and test patients are used
    config.train_datasets = ()  # datasets to train on; the real dataset when empty
    config.test_dataset = ""  # dataset to test on, whole if synthetic; the real one when empty
    config.pretrained = ""  # run directory of a classifier of the same model to start from
    config.weights = ""  # file of a torchvision or timm ResNet; needs model.norm = 'fixed'
    config.folds = 5  # number of folds of cross_validate
    config.seed = 0  # seed of parameters, data order and augmentation
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
            "shapes": ((512, 512),),  # heights and widths that radiographs are fitted into
            "draw": {
                "by": "patient",  # split: patient, hospital, or a fold such as 2/5
                "label_shares": (0.5, 0.5),  # shares of NFF and AFF in a batch; () as they are
            },
            "dataset_shares": (),  # shares of train_datasets in a batch; () by their size
            "per_label": (),  # most radiographs of each class from each of train_datasets; () all
            "validated_on": "real",  # validation patients, or rest: what per_label leaves out
            "columns": (),  # columns of the label table as further input, such as ("age", "sex")
        }
    )
    config.model = ConfigDict(
        {
            "stage_sizes": (3, 4, 6, 3),  # blocks of each stage
            "width": 64,  # channels of the first stage
            "bottleneck": True,  # bottleneck blocks of ResNet-50, or basic ones
            "sharpness": 0.0,  # weight of large activations in the last pooling; 0: mean
            "norm": "group",  # normalisation: group, or fixed for imported weights
        }
    )
    config.train = ConfigDict(
        {
            "steps": 10_000,  # optimizer steps
            "batch_size": 32,  # radiographs in a step, over all devices
            "accumulate": 1,  # microbatches of a step, for less memory; slower on CPU
            "learning_rate": 3e-4,  # highest learning rate; a cosine falls to zero
            "warmup_steps": 500,  # steps until the highest learning rate
            "weight_decay": 0.05,  # weight decay of AdamW
            "ema_decay": 0.999,  # decay of the moving average that is tested
            "augment": {
                "mirror": True,  # whether half of the images are mirrored
                "zoom": 0.1,  # standard deviation of the logarithm of the scale
                "shift": 0.05,  # standard deviation of the shift, relative to the side
                "grey": 0.1,  # standard deviation of gain and offset
            },
            "patience": 5,  # validations without a lower loss before training ends; 0: never
            "log_every": 50,  # steps between logged losses; 0: only the last
            "checkpoint_every": 500,  # steps between checkpoints and validations; 0: the last
            "images_every": 1000,  # steps between logged images; 0: only the last
        }
    )
    if variant == "tiny":
        config.data.shapes = ((64, 64),)
        config.model.update(stage_sizes=(1, 1, 1), width=16, bottleneck=False, sharpness=4.0)
        config.train.update(
            steps=400,
            learning_rate=3e-3,
            warmup_steps=30,
            ema_decay=0.98,
            log_every=10,
            checkpoint_every=50,
            images_every=150,
        )
    elif variant != "base":
        raise ValueError(f"configs/classifier.py has the variants tiny and base, not {variant!r}")
    return config
