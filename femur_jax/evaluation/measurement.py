"""All that is measured of one set of radiographs beside real ones, as rows that go into JSON."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.comparison import FEWEST, compare
from femur_jax.evaluation.copies import WHOLE, audit_pictures
from femur_jax.evaluation.descriptors import DESCRIPTORS, describe, descriptor_distance
from femur_jax.evaluation.diversity import mean_similarity
from femur_jax.evaluation.features import thumbnails
from femur_jax.evaluation.manifold import Manifold
from femur_jax.evaluation.memorization import verdict
from femur_jax.evaluation.radiograph_set import BOTH, RadiographSet
from femur_jax.evaluation.statistics import Interval, patient_scores, roc_auc

_DESCRIBED = 200
_PAIRS = 4


@dataclass(frozen=True)
class View:
    """How radiographs are looked at; functions of a dataset and positions in it.

    Attributes:
        logits: Of a classifier trained on real radiographs: (n,), the higher, the more like AFF.
        features: What distances are taken of: (n, dim).
        name: Of the features, in words.
    """

    logits: Callable[[RadiographDataset, Sequence[int]], np.ndarray]
    features: Callable[[RadiographDataset, Sequence[int]], np.ndarray]
    name: str


@dataclass(frozen=True)
class DistanceRow:
    """How radiographs of a class lie to the real test radiographs of it.

    Attributes:
        label: A class, or BOTH.
        kid: Kernel distance with its standard error.
        mmd: Unbiased squared MMD of a Gaussian kernel; its width is the median distance of the
            real radiographs.
        fid_infinity: FID extrapolated to infinite sets.
        manifold: Precision, recall, density and coverage.
        ms_ssim: Mean similarity of pairs of the compared radiographs; see `diversity`.
        descriptors: Distances by descriptor, see `descriptors`.
    """

    label: str
    n_real: int
    n_compared: int
    kid: float
    kid_error: float
    mmd: float
    fid: float
    fid_infinity: float
    manifold: Manifold
    ms_ssim: float
    descriptors: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """A synthetic radiograph and the training radiograph nearest to it, by their positions.

    Attributes:
        synthetic: Position in its dataset.
        nearest: The same of the training radiograph.
        ratio: Of their distance, or of that of a part of them where it is the nearer one.
        is_flagged: Whether the ratio is among the smallest 1% of held-out patients'.
    """

    synthetic: int
    nearest: int
    ratio: float
    is_flagged: bool


@dataclass(frozen=True)
class CopiesRow:
    """The memorisation audit of the radiographs of one class; see `memorization.Audit`.

    Attributes:
        n: Number of audited radiographs.
        pairs: The nearest pairs, worst first; positions in their datasets.
        flagged_share: Of all `n`, by whole radiographs.
        chance_share: Share of real held-out radiographs that would be flagged, in expectation.
        copies: Radiographs that are too near for any chance, as a whole or in part.
        authentic_share: Share of all `n`, 0 to 1, by whole radiographs.
        membership_auc: How well membership is inferred from the synthetic set; 0.5 is a coin.
        tpr_at_1_fpr: Share of training patients found at 1% false accusations.
        is_accused: Whether the verdict says that training radiographs are repeated.
        verdict: In one sentence, with its thresholds.
    """

    label: str
    n: int
    pairs: Sequence[Pair]
    flagged_share: Interval
    chance_share: float
    copies: int
    authentic_share: float
    membership_auc: Interval
    tpr_at_1_fpr: Interval
    is_accused: bool
    verdict: str


@dataclass(frozen=True)
class Measurement:
    """What `measure` finds.

    Attributes:
        features: Of what the distances are, in words.
        judged: Area under the curve of a classifier trained on real radiographs, on the compared
            ones; None where a class is missing.
        distances: For both classes and each; none for sets that are too small.
        copies: For each class; none where nothing was said to be the training set.
    """

    features: str
    judged: Interval | None
    distances: Sequence[DistanceRow]
    copies: Sequence[CopiesRow]

    def by_label(self, label: str) -> "Measurement":
        """The part on a model that makes this class alone, or ("") both."""
        return dataclasses.replace(
            self,
            judged=None if label else self.judged,
            distances=[row for row in self.distances if row.label == (label or BOTH)],
            copies=[row for row in self.copies if not label or row.label == label],
        )

    def to_json(self) -> dict[str, Any]:
        """Fields and their fields, as dictionaries, lists, numbers and strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Measurement":
        """Inverts `to_json`."""
        return cls(
            features=fields["features"],
            judged=Interval(**fields["judged"]) if fields["judged"] else None,
            distances=[
                DistanceRow(**row | {"manifold": Manifold(**row["manifold"])})
                for row in fields["distances"]
            ],
            copies=[
                CopiesRow(
                    **row
                    | {"pairs": [Pair(**pair) for pair in row["pairs"]]}
                    | {
                        name: Interval(**row[name])
                        for name in ("flagged_share", "membership_auc", "tpr_at_1_fpr")
                    }
                )
                for row in fields["copies"]
            ],
        )


def measure(
    real: RadiographSet,
    compared: RadiographSet,
    view: View,
    *,
    train: RadiographSet | None = None,
    held_out: RadiographSet | None = None,
) -> Measurement:
    """Compares radiographs with real ones, and where `train` is given looks for copies of it.

    Args:
        real: The reference, which neither generators nor features have seen.
        compared: Synthetic radiographs, or other real ones for the floor.
        view: Whose logits and features are used.
        train: What the generators learned from.
        held_out: Real radiographs of other patients, given with `train`.
    """
    sets = {label: (real.of(label), compared.of(label)) for label in (BOTH, *LABELS)}
    features = real.map(view.features), compared.map(view.features)
    distances = [
        _distances(label, pair, (features[0][_is(label, real)], features[1][_is(label, compared)]))
        for label, pair in sets.items()
        if min(map(len, pair)) >= FEWEST
    ]
    copies = []
    if train is not None and held_out is not None:
        copies = [
            _copies(label, compared.of(label), train.of(label), held_out.of(label))
            for label in LABELS
            if len(compared.of(label))
        ]
    return Measurement(view.name, _judged(compared, view), distances, copies)


def _is(label: str, radiographs: RadiographSet) -> np.ndarray:
    return (radiographs.positive == (label == LABELS[1])) | (label == BOTH)


def _judged(radiographs: RadiographSet, view: View) -> Interval | None:
    positive = radiographs.positive
    if positive.all() or not positive.any():
        return None
    return roc_auc(patient_scores(radiographs.map(view.logits), positive, radiographs.patients))


def _distances(
    label: str,
    sets: tuple[RadiographSet, RadiographSet],
    features: tuple[Float[np.ndarray, "real dim"], Float[np.ndarray, "compared dim"]],
) -> DistanceRow:
    found = compare(*features)
    real, compared = (s.thinned(_DESCRIBED) for s in sets)
    return DistanceRow(
        label=label,
        n_real=found.n_real,
        n_compared=found.n_compared,
        kid=found.kid.value,
        kid_error=found.kid.standard_error,
        mmd=found.mmd.value,
        fid=found.fid,
        fid_infinity=found.fid_infinity,
        manifold=found.manifold,
        ms_ssim=mean_similarity(compared.map(thumbnails) / 65535),
        descriptors={
            name: descriptor_distance(_described(function, real), _described(function, compared))
            for name, function in DESCRIPTORS.items()
        },
    )


def _described(function: Callable, radiographs: RadiographSet) -> np.ndarray:
    return radiographs.map(lambda dataset, positions: describe(function, dataset, positions))


def _copies(
    label: str, made: RadiographSet, train: RadiographSet, held_out: RadiographSet
) -> CopiesRow:
    audits, attack = audit_pictures(made, train, held_out)
    whole, told = audits[WHOLE], verdict(audits)
    # Beside the ratio that makes a copy, so that audits of different things can be compared.
    nearness = np.stack([found.ratio / abs(found.copy_ratio) for found in audits.values()])
    nearest = [list(audits.values())[n] for n in nearness.argmin(axis=0)]
    return CopiesRow(
        label=label,
        n=len(made),
        pairs=[
            Pair(
                synthetic=made.members[n][1],
                nearest=train.members[int(nearest[n].index[n])][1],
                ratio=float(nearest[n].ratio[n]),
                is_flagged=bool(nearest[n].flagged[n]),
            )
            for n in np.argsort(nearness.min(axis=0))[:_PAIRS]
        ],
        flagged_share=whole.flagged_share,
        chance_share=whole.chance_share,
        copies=int(np.any([found.copies for found in audits.values()], axis=0).sum()),
        authentic_share=float(whole.authentic.mean()),
        membership_auc=attack.auc,
        tpr_at_1_fpr=attack.tpr_at_1_fpr,
        is_accused=told.found_copies,
        verdict=told.sentence,
    )
