"""All that is said of one generator's radiographs: how far from real ones, and whether copied."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.comparison import Comparison, compare, drawn_alike
from femur_jax.evaluation.copies import audit_pictures
from femur_jax.evaluation.features import Extractor, patch_features, radiograph_features
from femur_jax.evaluation.memorization import (
    Audit,
    MembershipInference,
    Verdict,
    audit,
    verdict,
)
from femur_jax.evaluation.neighbours import k_nearest
from femur_jax.evaluation.radiograph_set import RadiographSet


class Compared(NamedTuple):
    """A synthetic set's distance from held-out patients, and that of real training radiographs."""

    synthetic: Comparison
    floor: Comparison


class Copies(NamedTuple):
    """What the audits of one synthetic set found.

    Attributes:
        audits: By what was compared.
        membership: Of the attacker who compares whole radiographs.
        verdict: In a sentence.
        train: Positions of the radiographs that `Audit.index` counts.
    """

    audits: dict[str, Audit]
    membership: MembershipInference
    verdict: Verdict
    train: list[int]


def open_synthetic(folder: Path) -> RadiographDataset:
    """A dataset of synthetic radiographs.

    Raises:
        UserError: There is none, it is empty, or does not say what made it.
    """
    dataset = RadiographDataset(folder)
    if dataset.provenance.get("kind") != "synthetic" or "model" not in dataset.provenance:
        raise UserError(
            f"{folder} does not say which model made it (the provenance in dataset.json), so it "
            "cannot be judged as synthetic; make it with femur sample."
        )
    if not dataset.split("train"):
        raise UserError(f"{folder} has no radiographs; sample some.")
    return dataset


def distances(
    real: RadiographDataset,
    synthetic: RadiographDataset,
    extractor: Extractor,
    *,
    by: str = "patient",
) -> dict[str, Compared]:
    """Distances to held-out patients, of whole radiographs and of patches at native scale.

    All sets have the synthetic one's class shares. The floor is of as many training radiographs
    as there are synthetic ones, or fewer, so that FID's bias is as large in both.

    Args:
        real: Radiographs, of which the test split is compared with.
        synthetic: Radiographs of a generator.
        extractor: Of features that were not learned from `real`.
        by: Which split the generator was trained on, see `RadiographDataset.split`.

    Raises:
        UserError: A set is too small, or lacks a class.
    """
    made = synthetic.split("train")
    labels = [synthetic.entries[n].label for n in made]
    held_out = drawn_alike(real, real.split("test", by), labels)
    floor = drawn_alike(real, real.split("train", by), labels, most=len(made))
    kinds: dict[str, Callable[..., np.ndarray]] = {
        "radiographs": radiograph_features,
        "patches": patch_features,
    }
    result = {}
    for kind, features in kinds.items():
        reference = features(extractor, real, held_out)
        result[kind] = Compared(
            synthetic=compare(reference, features(extractor, synthetic, made)),
            floor=compare(reference, features(extractor, real, floor)),
        )
    return result


def copies(
    real: RadiographDataset,
    synthetic: RadiographDataset,
    extractor: Extractor,
    *,
    by: str = "patient",
) -> Copies:
    """Looks for each synthetic radiograph, and each part of it, among the training radiographs.

    Pictures are correlated under small shifts, and features compared by their distance. Thresholds
    are set on the patients that were held out, the validation and the test split together. Only
    training radiographs of the classes that were made count.

    Raises:
        UserError: There are too few radiographs.
    """
    made = synthetic.split("train")
    labels = {synthetic.entries[n].label for n in made}
    train, validation, test = (
        [n for n in real.split(split, by) if real.entries[n].label in labels]
        for split in ("train", "validation", "test")
    )
    held_out = validation + test
    audits, attack = audit_pictures(
        RadiographSet([(synthetic, n) for n in made]),
        RadiographSet([(real, n) for n in train]),
        RadiographSet([(real, n) for n in held_out]),
    )
    features = (
        radiograph_features(extractor, dataset, chosen)
        for dataset, chosen in ((synthetic, made), (real, train), (real, held_out))
    )
    audits[extractor.name] = audit(*features, search=k_nearest)
    return Copies(audits, attack, verdict(audits), train)


def as_json(compared: dict[str, Compared], found: Copies) -> dict[str, Any]:
    """The numbers, without anything that names a patient."""
    return {
        "distances": {
            kind: {name: dataclasses.asdict(one) for name, one in pair._asdict().items()}
            for kind, pair in compared.items()
        },
        "caveats": sorted({pair.synthetic.caveat for pair in compared.values()} - {""}),
        "copies": {
            name: {
                "copies": int(a.copies.sum()),
                "flagged_share": dataclasses.asdict(a.flagged_share),
                "chance_share": a.chance_share,
                "p_value": a.p_value,
                "authentic_share": float(a.authentic.mean()),
                "threshold": a.threshold,
                "copy_ratio": a.copy_ratio,
            }
            for name, a in found.audits.items()
        },
        "membership": dataclasses.asdict(found.membership),
        "verdict": found.verdict.sentence,
        "found_copies": found.verdict.found_copies,
    }


def as_text(compared: dict[str, Compared], found: Copies, features: str) -> str:
    """A table of the distances, what to mind, and the verdict."""
    lines = [
        f"{f'against held-out patients, {features}':44}  KID                  FID  FID-infinity"
    ]
    for kind, pair in compared.items():
        for name, one in (("synthetic", pair.synthetic), ("real, the floor", pair.floor)):
            kid = f"{one.kid.value:.4f} +- {one.kid.standard_error:.4f}"
            title = f"{kind}, {name} ({one.n_compared})"
            lines.append(f"{title:44}  {kid:18} {one.fid:7.3f}  {one.fid_infinity:7.3f}")
    lines += sorted({pair.synthetic.caveat for pair in compared.values()} - {""})
    return "\n".join([*lines, found.verdict.sentence])
