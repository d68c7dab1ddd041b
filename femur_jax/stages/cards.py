"""Model and data cards: what whoever is given a model or synthetic radiographs has to know.

After Mitchell et al. 2019 (arXiv 1810.03993) and Gebru et al. 2021 (arXiv 1803.09010), in Markdown.
They hold counts and settings, and nothing of single patients: no name, no pseudonym, no path.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import RadiographEntry
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.measurement import Measurement
from femur_jax.files import write_atomically

MODEL_CARD = "MODEL_CARD.md"
DATA_CARD = "README.md"

_CLASSES = {"AFF": "atypical femur fracture", "NFF": "normal femur fracture"}

_USE = """\
Research: methods of image generation, training and comparing classifiers beside real
radiographs, teaching. Not for diagnosis, and no evidence about any patient or about how often
anything occurs."""

_LIMITS = """\
- What is rare in the training data (unusual views, implants, hospitals) is rarer still, or missing.
- Details that look like anatomy may be impossible; no doctor has checked single images.
- The share of each class was chosen, and is not that of patients.
- No sign of copies is not proof that there are none: details smaller than the parts that were
  compared may be repeated, and held-out patients set the limits."""


def write(
    config: ConfigDict, workdir: Path, made: RadiographDataset, found: Measurement | None = None
) -> None:
    """Writes MODEL_CARD.md into a generator's workdir, and README.md beside what it made.

    Args:
        config: The generator's.
        workdir: Its run.
        made: Its synthetic radiographs.
        found: What a comparison with real ones found, where there was one.
    """
    data = RadiographDataset(config.dataset)
    shares = config.data.draw.label_shares or (1.0,) * len(LABELS)
    labels = [label for label, share in zip(LABELS, shares, strict=True) if share > 0]
    train = [data.entries[n] for n in data.split("train", config.data.draw.by)]
    train = [entry for entry in train if entry.label in labels]
    kind = {"diffusion": "Diffusion model (EDM)", "gan": "GAN (R3GAN)"}[config.task]
    evaluation = ["## Evaluation", "", *_evaluation(found), ""]
    model = [
        f"# {kind} of femur radiographs",
        "",
        f"Learned from {_counts(train)}, of {len({e.patient for e in train})} patients, "
        f"{_sizes(train)}. Classes: {_classes(labels)}.",
        "",
        *_table(
            {
                "model": config.task,
                "strategy for sizes": config.data.get("strategy", "letterbox"),
                "config": run_folder.config_hash(config),
                "seed": config.seed,
                "optimizer steps": config.train.steps,
                "batch size": config.train.batch_size,
            }
        ),
        "",
        *evaluation,
        *_advice(),
    ]
    dataset = [
        "# Synthetic femur radiographs",
        "",
        f"{_counts(made.entries)}, {_sizes(made.entries)}. Classes: {_classes(labels)}. All were "
        "made by a model; none shows a patient. `patient` and `radiograph` are counters, and grey "
        "values have 16 bits, with bone bright.",
        "",
        "## How they were made",
        "",
        *_table(made.provenance),
        "",
        *evaluation,
        *_advice(),
    ]
    write_atomically(workdir / MODEL_CARD, "\n".join(model))
    write_atomically(made.folder / DATA_CARD, "\n".join(dataset))


def _advice() -> list[str]:
    return ["## Intended use", "", _USE, "", "## Limits", "", _LIMITS, ""]


def _classes(labels: Sequence[str]) -> str:
    return ", ".join(f"{label} ({_CLASSES[label]})" for label in labels)


def _counts(entries: Sequence[RadiographEntry]) -> str:
    counts = Counter(entry.label for entry in entries)
    return (
        f"{len(entries)} radiographs (" + ", ".join(f"{n} {la}" for la, n in counts.items()) + ")"
    )


def _sizes(entries: Sequence[RadiographEntry]) -> str:
    sides = [side for entry in entries for side in (entry.height, entry.width)]
    return f"with sides of {min(sides)} to {max(sides)} pixels"


def _table(fields: Mapping[str, Any]) -> list[str]:
    rows = [f"| {name} | {value} |" for name, value in fields.items() if value not in ("", (), [])]
    return ["| | |", "|---|---|", *rows]


def _evaluation(found: Measurement | None) -> list[str]:
    if found is None:
        return ["Not yet compared with real radiographs."]
    lines = ["Too few radiographs to tell distances to real ones."]
    if found.distances:
        lines = [
            f"Distances to real test radiographs; features: {found.features}.",
            "",
            "| class | n real | n synthetic | KID | FID | precision | recall | coverage |",
            "|---|---|---|---|---|---|---|---|",
        ]
    lines += [
        f"| {row.label} | {row.n_real} | {row.n_compared} | {row.kid:.4f} ± {row.kid_error:.4f} "
        f"| {row.fid:.3g} | {row.manifold.precision:.2f} | {row.manifold.recall:.2f} "
        f"| {row.manifold.coverage:.2f} |"
        for row in found.distances
    ]
    if found.judged:
        lines += [
            "",
            "A classifier trained on real radiographs tells AFF from NFF among these with an AUC "
            f"of {found.judged.value:.2f} [{found.judged.low:.2f}, {found.judged.high:.2f}].",
        ]
    for row in found.copies:
        auc = row.membership_auc
        lines += [
            "",
            f"{row.label}: {row.verdict} Membership is inferred with an AUC of {auc.value:.2f} "
            f"[{auc.low:.2f}, {auc.high:.2f}].",
        ]
    return lines
