"""The classifier AFF against NFF: trained on any datasets, tested on real held-out patients.

    python -m femur_jax.main --config=configs/classifier.py:tiny --workdir=runs/classifier \
        --config.dataset=DATASET --config.train_datasets="('SYNTHETIC',)"
    python -m femur_jax.main --config=configs/classifier.py:tiny --workdir=runs/classifier \
        --config.dataset=DATASET --config.train_datasets="('SYNTHETIC',)" --config.stage=evaluate

Train on real, test on real (TRTR): no train_datasets. Train on synthetic (TSTR): one. Both: two, at
chosen ratios with data.dataset_shares. First on synthetic, then on real: name the first run in
pretrained. Train on real, test on synthetic (TRTS): test_dataset. data.draw.by deals out patients,
whole hospitals, or a fold of patients; stage cross_validate goes through all folds.

Real and synthetic together must beat two controls. Real radiographs repeated to the same count:
TRTR itself, for a run draws steps x batch_size radiographs whatever the datasets' size, so the
fewer there are, the more often each comes; train_datasets=('REAL', 'REAL') draws the same. And
classical augmentation: TRTR as it is, against TRTR without (all of train.augment at zero).

After each checkpoint the loss over the validation patients of the real dataset is taken, whatever
is trained on; the checkpoint with the lowest is the one that is used.

tiny: 64 x 64 pixels on CPU, a minute. base: ResNet-50 at 512 x 512 pixels on one GPU.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
    """Variants: tiny, base."""
    config = ConfigDict()
    config.task = "classifier"
    config.dataset = ""  # real dataset, whose test split is tested on
    config.train_datasets = ()  # trained on; the real dataset when empty
    config.test_dataset = ""  # tested on, whole if synthetic; the real test split when empty
    config.pretrained = ""  # workdir of a classifier, of the same model, to start from
    config.weights = ""  # ResNet of ImageNet from torchvision or timm; takes model.norm = 'fixed'
    config.folds = 5  # of cross_validate
    config.seed = 0
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1})
    config.profile = 0  # steps to trace with JAX's profiler, after the first ten
    draw = {"by": "patient", "label_shares": (0.5, 0.5)}  # see loader.Pool
    # dataset_shares: how often each of train_datasets is drawn; as often as it is large when empty
    # columns: of the label table, such as ("age", "sex"), beside the radiograph; see preprocess.py
    config.data = ConfigDict(
        {"shapes": ((512, 512),), "draw": draw, "dataset_shares": (), "columns": ()}
    )
    config.model = ConfigDict(
        {
            "stage_sizes": (3, 4, 6, 3),
            "width": 64,
            "bottleneck": True,
            "sharpness": 0.0,
            "norm": "group",
        }
    )
    config.train = ConfigDict(
        {
            "steps": 10_000,
            "batch_size": 32,
            "accumulate": 1,  # parts of a batch in turn, for less memory; not on CPU
            "learning_rate": 3e-4,
            "warmup_steps": 500,
            "weight_decay": 0.05,
            "ema_decay": 0.999,
            # grey: standard deviation of gain and offset
            "augment": {"mirror": True, "zoom": 0.1, "shift": 0.05, "grey": 0.1},
            "patience": 5,  # validations without a better one before the end; 0 for none
            "log_every": 50,
            "checkpoint_every": 500,
            "images_every": 1000,
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
