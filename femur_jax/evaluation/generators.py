"""Evaluation of a generator's radiographs: how far from real ones, and whether copied.

The stage `evaluate` and the study both call `evaluate_generator`. Distances compare three sets with
equally many radiographs of each class: real test radiographs, synthetic ones, and, as the floor, as
many real validation radiographs, which neither the generator nor the features have learned from.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.descriptors import (
    DESCRIPTORS,
    describe,
    descriptor_distance,
    mean_similarity,
)
from femur_jax.evaluation.distances import FEWEST, Comparison, Manifold, compare
from femur_jax.evaluation.features import (
    Extractor,
    patch_features,
    radiograph_features,
    thumbnails,
)
from femur_jax.evaluation.kernels import MIN_SAMPLES
from femur_jax.evaluation.memorization import WHOLE, Copies, find_copies
from femur_jax.evaluation.radiograph_set import BOTH, PerRadiograph, RadiographSet, of_split
from femur_jax.evaluation.statistics import Interval, patient_scores, roc_auc

_DESCRIBED = 200
_PAIRS = 4

LookUp = Callable[[RadiographSet], np.ndarray]
"""Functions of a set that return one row for each radiograph."""


@dataclass(frozen=True)
class View:
    """Functions by which radiographs are compared.

    Attributes:
        name: Name of the features, for people.
        features: Features of whole radiographs, (n, dim), for distances.
        extractor: Features of patches and for the audit, which were not learned from the real
            dataset.
        logits: Logits of a classifier trained on real radiographs, (n,), the higher, the more like
            AFF; None without such a judge.
        published: Whether the features are those of a published network, which keep their scale so
            that distances can be compared with published ones. Others are centred and divided by
            the root mean square deviation of real test radiographs.
    """

    name: str
    features: PerRadiograph
    extractor: Extractor
    logits: PerRadiograph | None = None
    published: bool = False

    @classmethod
    def of(cls, extractor: Extractor, *, published: bool = False) -> "View":
        """The view of one extractor, without a judge."""
        features = partial(radiograph_features, extractor)
        return cls(extractor.name, features, extractor, published=published)

    def scale_of(self, reference: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The function that puts features, (n, dim), on the scale of those of a real set."""
        if self.published:
            return lambda features: features
        middle = reference.mean(axis=0)
        deviation = float(np.sqrt(np.mean((reference - middle) ** 2))) or 1.0
        return lambda features: (features - middle) / deviation


@dataclass(frozen=True, kw_only=True)
class DistanceRow(Comparison):
    """Distances of radiographs of a class from the real test radiographs of it.

    Attributes:
        label: A class, or BOTH.
        ms_ssim: Mean similarity of pairs of the compared radiographs, see `mean_similarity`.
        descriptors: Distances by descriptor, see `descriptors`.
    """

    label: str
    ms_ssim: float
    descriptors: Mapping[str, float]


@dataclass(frozen=True)
class CopyPair:
    """A synthetic radiograph and the training radiograph nearest to it.

    Attributes:
        synthetic: Position of the synthetic radiograph in its dataset.
        nearest: Position of the training radiograph in the real dataset.
        ratio: Distance ratio of the two, or of the part that is nearer.
        is_flagged: Whether the ratio is among the smallest 1% of other patients'.
    """

    synthetic: int
    nearest: int
    ratio: float
    is_flagged: bool


@dataclass(frozen=True)
class CopiesRow:
    """The memorisation audit of the radiographs of one class; see `copy_audit.Audit`.

    Attributes:
        label: A class of fractures.
        n: Number of audited radiographs.
        pairs: The nearest pairs, worst first.
        flagged_share: Share of flagged whole radiographs, of all `n`.
        chance_share: Share of other patients' real ones that would be flagged, in expectation.
        copies: Radiographs that are too near for any chance, whole or in a part.
        authentic_share: Share of authentic whole radiographs, of all `n`, 0 to 1.
        membership_auc: AUC of inferring membership from the synthetic set; 0.5 is a coin.
        membership_p: P value of the null hypothesis that the set reveals nothing.
        tpr_at_1_fpr: Share of training patients found at 1% false accusations; None with too few
            held-out patients.
        planted: Number of training radiographs that were planted with each change.
        found: Share of them that the audit calls copies, 0 to 1, by change.
        is_accused: Whether the verdict says that the set should not be shared.
        verdict: The verdict in words, with its thresholds and what was searched.
    """

    label: str
    n: int
    pairs: Sequence[CopyPair]
    flagged_share: Interval
    chance_share: float
    copies: int
    authentic_share: float
    membership_auc: Interval
    membership_p: float
    tpr_at_1_fpr: Interval | None
    planted: int
    found: Mapping[str, float]
    is_accused: bool
    verdict: str


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a synthetic set, without anything that names a patient.

    Attributes:
        features: Name of the features of whole radiographs.
        patch_features: Name of the features of patches and of the audit.
        judged: AUC on the synthetic radiographs of a classifier trained on real ones; None without
            such a judge, or where a class is missing.
        distances: Distances of whole radiographs, for both classes and for each; sets that are
            too small are left out.
        floor: The same rows for real validation radiographs, where there are enough.
        patches: Distances of patches at native scale; None for sets that are too small.
        patch_floor: The same distances for real validation radiographs.
        copies: The audit of each class.
    """

    features: str
    patch_features: str
    judged: Interval | None
    distances: Sequence[DistanceRow]
    floor: Sequence[DistanceRow]
    patches: Comparison | None
    patch_floor: Comparison | None
    copies: Sequence[CopiesRow]

    def of(self, label: str) -> "Evaluation":
        """The numbers of one class, or of BOTH, for the card of a model of this class."""
        return (
            self
            if label == BOTH
            else dataclasses.replace(
                self,
                judged=None,
                distances=[row for row in self.distances if row.label == label],
                floor=[row for row in self.floor if row.label == label],
                copies=[row for row in self.copies if row.label == label],
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Fields and their fields, as dictionaries, lists, numbers and strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Evaluation":
        """Inverts `to_json`."""

        def rows(kind: type, name: str) -> list[Any]:
            return [kind(**row | {"manifold": Manifold(**row["manifold"])}) for row in fields[name]]

        def comparison(name: str) -> Comparison | None:
            row = fields[name]
            return row and Comparison(**row | {"manifold": Manifold(**row["manifold"])})

        intervals = ("flagged_share", "membership_auc", "tpr_at_1_fpr")
        return cls(
            features=fields["features"],
            patch_features=fields["patch_features"],
            judged=Interval(**fields["judged"]) if fields["judged"] else None,
            distances=rows(DistanceRow, "distances"),
            floor=rows(DistanceRow, "floor"),
            patches=comparison("patches"),
            patch_floor=comparison("patch_floor"),
            copies=[
                CopiesRow(
                    **row
                    | {"pairs": [CopyPair(**pair) for pair in row["pairs"]]}
                    | {name: row[name] and Interval(**row[name]) for name in intervals}
                )
                for row in fields["copies"]
            ],
        )


def open_synthetic(folder: Path) -> RadiographDataset:
    """A dataset of synthetic radiographs.

    Raises:
        UserError: There is none, it is empty, or it does not name its model.
    """
    dataset = RadiographDataset(folder)
    if dataset.provenance.get("kind") != "synthetic" or "model" not in dataset.provenance:
        raise UserError(
            f"{folder} does not name the model that generated it (the provenance in "
            "dataset.json), so it cannot be evaluated as synthetic; generate it with femur "
            "sample."
        )
    if not dataset.split("train"):
        raise UserError(f"{folder} has no radiographs; sample some.")
    return dataset


def evaluate_generator(
    real: RadiographDataset,
    synthetic: RadiographSet,
    view: View,
    *,
    by: str = "patient",
    audits: Mapping[str, Copies] | None = None,
) -> Evaluation:
    """Compares synthetic radiographs with real ones, and looks for copies of training radiographs.

    Args:
        real: The dataset that the generator was trained on.
        synthetic: Radiographs of a generator, or of one generator for each class.
        view: Features, and the judge where there is one.
        by: The split that the generator was trained on, see `RadiographDataset.split`.
        audits: Audits of each class where they are known already.

    Raises:
        UserError: There are too few radiographs for the audit.
    """
    classes = synthetic.labels
    audits = audits or {
        label: find_copies(real, synthetic.of(label), view.extractor, by=by) for label in classes
    }
    labels = [BOTH, *classes] if len(classes) > 1 else classes
    triples = {label: _triple(real, synthetic.of(label), by) for label in labels}
    triples = {
        label: sets
        for label, sets in triples.items()
        if _is_enough(sets.real) and _is_enough(sets.synthetic)
    }
    features = _by_member(view.features, triples.values())
    if labels[0] in triples:
        features = _scaled(features, view.scale_of(features(triples[labels[0]].real)))
    thinned = [Triple(*(s.thinned(_DESCRIBED) for s in sets)) for sets in triples.values()]
    descriptors = {
        name: _by_member(partial(describe, f), thinned) for name, f in DESCRIPTORS.items()
    }

    def row(label: str, real: RadiographSet, compared: RadiographSet) -> DistanceRow:
        return _distances(label, real, compared, features, descriptors)

    patches = patch_floor = None
    if labels[0] in triples:
        sets = triples[labels[0]]
        reference = _patches(view.extractor, sets.real)
        scale = view.scale_of(reference.reshape(-1, reference.shape[-1]))
        patches = _patch_distances(view.extractor, reference, sets.real, sets.synthetic, scale)
        if sets.floor:
            patch_floor = _patch_distances(view.extractor, reference, sets.real, sets.floor, scale)
    return Evaluation(
        features=view.name,
        patch_features=view.extractor.name,
        judged=_judged(synthetic, view.logits),
        distances=[row(label, s.real, s.synthetic) for label, s in triples.items()],
        floor=[row(label, s.real, s.floor) for label, s in triples.items() if s.floor],
        patches=patches,
        patch_floor=patch_floor,
        copies=[_copies(label, synthetic.of(label), audits[label]) for label in classes],
    )


class Triple(NamedTuple):
    """Sets with equally many radiographs of each class.

    Attributes:
        real: Real test radiographs.
        synthetic: Synthetic radiographs, as many as the floor has.
        floor: Validation radiographs; none where they are too few, and all synthetic ones are used.
    """

    real: RadiographSet
    synthetic: RadiographSet
    floor: RadiographSet


def _triple(real: RadiographDataset, synthetic: RadiographSet, by: str) -> Triple:
    """Random subsets of the test split, the synthetic radiographs and the validation split."""
    test, validation = (of_split([real], split, by=by) for split in ("test", "validation"))
    labels = synthetic.labels

    def counts(*pools: RadiographSet) -> dict[str, int]:
        return dict.fromkeys(labels, min(len(pool.of(la)) for pool in pools for la in labels))

    compared = counts(synthetic, validation)
    floor = validation.drawn(compared)
    if not _is_enough(floor):
        floor, compared = RadiographSet([]), counts(synthetic)
    return Triple(test.drawn(counts(test)), synthetic.drawn(compared), floor)


def _is_enough(radiographs: RadiographSet) -> bool:
    """Whether a set has radiographs and patients enough for distances."""
    return len(radiographs) >= FEWEST and len(set(_people(radiographs))) >= MIN_SAMPLES


def _people(radiographs: RadiographSet) -> list[str]:
    """The patient of each radiograph; those of a synthetic dataset hold only in its folder."""
    return [f"{d.folder} {d.entries[n].patient}" for d, n in radiographs.members]


def _classes(radiographs: RadiographSet) -> list[str]:
    return [d.entries[n].label for d, n in radiographs.members]


def _by_member(function: PerRadiograph, triples: Iterable[Triple]) -> LookUp:
    """Computes a function once for each radiograph, and returns it as a look-up."""
    members = list(dict.fromkeys(m for sets in triples for s in sets for m in s.members))
    values = RadiographSet(members).map(function) if members else []
    by_member = dict(zip(members, values, strict=True))
    return lambda radiographs: np.stack([by_member[member] for member in radiographs.members])


def _scaled(features: LookUp, scale: Callable[[np.ndarray], np.ndarray]) -> LookUp:
    return lambda radiographs: scale(features(radiographs))


def _patches(extractor: Extractor, radiographs: RadiographSet) -> np.ndarray:
    """Features of the patches of each radiograph, (radiograph, patch, dim)."""

    def patches(dataset: RadiographDataset, positions: Sequence[int]) -> np.ndarray:
        rows = patch_features(extractor, dataset, positions)
        return rows.reshape(len(positions), -1, rows.shape[-1])

    return radiographs.map(patches)


def _patch_distances(
    extractor: Extractor,
    reference: np.ndarray,
    real: RadiographSet,
    compared: RadiographSet,
    scale: Callable[[np.ndarray], np.ndarray],
) -> Comparison:
    rows = reference, _patches(extractor, compared)
    first, second = (scale(r.reshape(-1, r.shape[-1])) for r in rows)

    def repeated(names: list[str]) -> list[str]:
        return [name for name in names for _ in range(reference.shape[1])]

    return compare(
        first,
        second,
        patients=(repeated(_people(real)), repeated(_people(compared))),
        labels=(repeated(_classes(real)), repeated(_classes(compared))),
    )


def _distances(
    label: str,
    real: RadiographSet,
    compared: RadiographSet,
    features: LookUp,
    descriptors: Mapping[str, LookUp],
) -> DistanceRow:
    comparison = compare(
        features(real),
        features(compared),
        patients=(_people(real), _people(compared)),
        labels=(_classes(real), _classes(compared)),
    )
    real, compared = (s.thinned(_DESCRIBED) for s in (real, compared))
    return DistanceRow(
        label=label,
        **vars(comparison),
        ms_ssim=mean_similarity(compared.map(thumbnails) / 65535),
        descriptors={
            name: descriptor_distance(described(real), described(compared))
            for name, described in descriptors.items()
        },
    )


def _judged(radiographs: RadiographSet, logits: PerRadiograph | None) -> Interval | None:
    if logits is None or len(radiographs.labels) < len(LABELS):
        return None
    scores = patient_scores(radiographs.map(logits), radiographs.positive, radiographs.patients)
    return roc_auc(scores)


def _copies(label: str, synthetic: RadiographSet, result: Copies) -> CopiesRow:
    audits = list(result.audits.values())
    # Ratios are divided by the one that makes a copy, so that different audits can be compared.
    nearness = np.stack([audit.ratio / abs(audit.copy_ratio) for audit in audits])
    nearest = [audits[n] for n in nearness.argmin(axis=0)]
    whole = result.audits[WHOLE]
    return CopiesRow(
        label=label,
        n=len(synthetic),
        pairs=[
            CopyPair(
                synthetic=synthetic.members[n][1],
                nearest=result.train.members[int(nearest[n].index[n])][1],
                ratio=float(nearest[n].ratio[n]),
                is_flagged=bool(nearest[n].flagged[n]),
            )
            for n in np.argsort(nearness.min(axis=0))[:_PAIRS]
        ],
        flagged_share=whole.flagged_share,
        chance_share=whole.chance_share,
        copies=int(np.any([audit.copies for audit in audits], axis=0).sum()),
        authentic_share=float(whole.authentic.mean()),
        membership_auc=result.membership.auc,
        membership_p=result.membership.p_value,
        tpr_at_1_fpr=result.membership.tpr_at_1_fpr,
        planted=result.power.planted,
        found=result.power.found,
        is_accused=result.verdict.accuses,
        verdict=result.verdict.sentence,
    )


def evaluation_table(evaluation: Evaluation) -> str:
    """Table of the distances with their floor, caveats, and the verdicts, for a terminal."""
    lines = [
        f"Compared with real test radiographs; features: {evaluation.features}; of patches: "
        f"{evaluation.patch_features}.",
        f"{'':38}  KID                   p      FID  FID-infinity  precision  recall",
    ]
    rows = [(f"{row.label}, synthetic", row) for row in evaluation.distances]
    rows += [(f"{row.label}, real: the floor", row) for row in evaluation.floor]
    rows += [
        (f"patches, {kind}", row)
        for kind, row in (
            ("synthetic", evaluation.patches),
            ("real: the floor", evaluation.patch_floor),
        )
        if row
    ]
    for name, row in rows:
        kid = f"{row.kid:.4f} +- {row.kid_error:.4f}"
        infinity = "-" if row.fid_infinity is None else f"{row.fid_infinity:.3f}"
        lines.append(
            f"{f'{name} ({row.n_compared})':38}  {kid:18} {row.kid_p:4.2g}  {row.fid:7.3f}  "
            f"{infinity:>12}  {row.manifold.precision:9.2f}  {row.manifold.recall:6.2f}"
        )
    if not rows:
        lines[1:] = [f"Sets of fewer than {FEWEST} radiographs are too small for distances."]
    lines += dict.fromkeys(row.caveat for _, row in rows if row.caveat)
    if evaluation.judged:
        auc = evaluation.judged
        lines.append(
            "AUC of the classifier trained on real radiographs, on the synthetic ones: "
            f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
        )
    return "\n".join([*lines, *(f"{row.label}: {row.verdict}" for row in evaluation.copies)])
