"""Does a generator repeat its training set? The audits of one synthetic set, and their verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt16

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.alignment import CANDIDATES, fitted_distances, shifted_distances
from femur_jax.evaluation.copy_audit import Audit, Distances, audit
from femur_jax.evaluation.features import (
    LONGEST,
    Extractor,
    crops,
    overview,
    radiograph_features,
    thumbnail,
)
from femur_jax.evaluation.membership import (
    MembershipInference,
    density_inference,
    membership_inference,
    strongest,
)
from femur_jax.evaluation.neighbours import euclidean_distances
from femur_jax.evaluation.planted import UNCHANGED, planted_copies
from femur_jax.evaluation.radiograph_set import RadiographSet, of_split

FALSE_COPIES = 0.01 / 3
"""Expected number of samples of an honest set that each of the three audits calls copies."""

SIGNIFICANCE = 0.01
"""p-value below which chance does not explain flagged samples, or an attack on membership."""

PLANTED = 20
"""Training radiographs that are planted with each change, at most."""

LEAST_POWER = 0.9
"""Share of unchanged planted copies that an audit must find, or it decides nothing."""

WHOLE, CROPS = "correlation", "correlation of crops"
"""The two audits of pictures, as verdicts call them."""

SEARCHED = (
    "Compared are whole radiographs, also mirrored, rotated, zoomed, shifted and stretched, and "
    "three large crops, also mirrored and shifted. Not searched are smaller details, bent or "
    "rotated crops, and exchanged black and white."
)
"""Sentence on what is compared, and what is not searched."""


@dataclass(frozen=True)
class Pictures:
    """Radiographs as the two audits of pictures compare them.

    Attributes:
        whole: Thumbnails of whole radiographs.
        crops: The crops of each radiograph.
    """

    whole: Float32[np.ndarray, "n side side"]
    crops: Float32[np.ndarray, "n crop crop_side crop_side"]

    @classmethod
    def of(cls, images: Iterable[UInt16[np.ndarray, "_ _"]], longest: int) -> "Pictures":
        """Views of images.

        Args:
            images: Radiographs at the scale of `overview`.
            longest: Longest side of a crop, see `Scope`.
        """
        views = [(thumbnail(image), crops(image, longest)) for image in images]
        whole, squares = zip(*views, strict=True)
        return cls(np.stack(whole), np.stack(squares))

    def distances(
        self,
        references: "Pictures",
        ignored: Bool[np.ndarray, "query reference"] | None = None,
        *,
        candidates: int = CANDIDATES,
    ) -> dict[str, Float32[np.ndarray, "part query reference"]]:
        """Distances from other pictures by audit; for the arguments see `fitted_distances`."""
        squares = range(self.crops.shape[1])
        of_crops = [
            shifted_distances(self.crops[:, n], references.crops[:, n], ignored) for n in squares
        ]
        return {
            WHOLE: fitted_distances(self.whole, references.whole, ignored, candidates=candidates)[
                None
            ],
            CROPS: np.stack(of_crops),
        }


@dataclass(frozen=True)
class Power:
    """Shares of planted copies that the audits of pictures call copies.

    Attributes:
        planted: Number of training radiographs that were planted with each change.
        found: Shares from 0 to 1 by change, see `planted.CHANGES`.
    """

    planted: int
    found: Mapping[str, float]

    @classmethod
    def of(cls, changes: Sequence[str], is_found: Bool[np.ndarray, " copy"]) -> "Power":
        """Power from which copies were found, equally many of each change, one after the other."""
        by_change = is_found.reshape(len(changes), -1)
        shares = by_change.mean(axis=1).tolist()
        return cls(by_change.shape[1], dict(zip(changes, shares, strict=True)))

    @property
    def sentence(self) -> str:
        """The shares in words."""
        shares = ", ".join(f"{share:.0%} {change}" for change, share in self.found.items())
        return f"Of {self.planted} training radiographs planted with each change it finds {shares}."


@dataclass(frozen=True)
class Verdict:
    """Whether a set may be shared.

    Attributes:
        found_copies: Whether training radiographs are repeated.
        reveals_members: Whether the set reveals who was in the training set.
        sentence: The verdict in words, with its thresholds and what was searched.
    """

    found_copies: bool
    reveals_members: bool
    sentence: str

    @property
    def accuses(self) -> bool:
        """Whether the set should not be shared."""
        return self.found_copies or self.reveals_members


def conclude(audits: Mapping[str, Audit], membership: MembershipInference, power: Power) -> Verdict:
    """Verdict on one synthetic set from its audits, by the name of what was compared.

    It accuses where any audit has a copy, or more flagged samples than chance explains (with
    Bonferroni's correction for several audits), and where the attacker on membership is better
    than a coin. It acquits only if planted copies without any change would have been found.
    """
    level = SIGNIFICANCE / len(audits)
    findings, accused = [], False
    for name, result in audits.items():
        many = result.p_value < level
        copies = int(result.copies.sum())
        accused |= many or copies > 0
        share = result.flagged_share
        findings.append(
            f"by {name}, {copies} of {len(result.ratio)} have a distance ratio of at most "
            f"{result.copy_ratio:.2f} (copies) and {share.value:.1%} [{share.low:.1%}, "
            f"{share.high:.1%}] one of at most {result.threshold:.2f}, like "
            f"{result.chance_share:.1%} of {result.calibrated_on} real ones of other patients "
            f"({'more than' if many else 'as'} chance explains, p = {result.p_value:.2g}, "
            f"limit {level:.2g})"
        )
    reveals = membership.p_value < SIGNIFICANCE
    auc = membership.auc
    findings.append(
        f"who was in the training set is inferred with an AUC of {auc.value:.2f} "
        f"[{auc.low:.2f}, {auc.high:.2f}] ({'better than' if reveals else 'as'} a coin, "
        f"p = {membership.p_value:.2g}, limit {SIGNIFICANCE:g})"
    )
    reasons = ["training radiographs are repeated"] * accused
    reasons += ["the set reveals who was in the training set"] * reveals
    if reasons:
        opening = f"Do not share: {' and '.join(reasons)}"
    elif power.found[UNCHANGED] < LEAST_POWER:
        opening = "Not decided, since this audit would miss copies"
    else:
        opening = "No sign of copies"
    return Verdict(
        accused, reveals, f"{opening}: {'; '.join(findings)}. {SEARCHED} {power.sentence}"
    )


@dataclass(frozen=True)
class Copies:
    """The audits of one synthetic set.

    Attributes:
        audits: The audits, by what was compared.
        membership: Success of the better of two attackers: one compares whole radiographs, one
            densities of features.
        power: Shares of planted copies that the audits of pictures find.
        verdict: Verdict over all audits.
        train: The training radiographs that `Audit.index` counts.
    """

    audits: Mapping[str, Audit]
    membership: MembershipInference
    power: Power
    verdict: Verdict
    train: RadiographSet


@dataclass(frozen=True)
class Scope:
    """What a search needs to know of a synthetic set before it is looked up.

    Attributes:
        labels: Classes in it; only training radiographs of these count.
        longest: Longest side of its radiographs at the scale of `overview`, at most `LONGEST`: a
            generator may know small ones alone.
    """

    labels: tuple[str, ...]
    longest: int

    @classmethod
    def of(cls, synthetic: RadiographSet) -> "Scope":
        """The scope of a set; empty where the set is."""
        longest = max((max(overview(*m).shape) for m in synthetic.members), default=0)
        return cls(tuple(synthetic.labels), min(longest, LONGEST))


class CopySearch:
    """The search for synthetic radiographs, and crops of them, among the training radiographs.

    Pictures are correlated, whole ones after a fit (see `alignment`) and crops at native scale;
    features are compared by their distance. Thresholds are set on other patients: those of the
    validation and the test split together, and each training radiograph's own among the others.
    What real radiographs alone decide is computed once, and serves one synthetic set after another.

    Attributes:
        scope: The scope of the synthetic sets that it takes.
    """

    def __init__(
        self, real: RadiographDataset, scope: Scope, extractor: Extractor, *, by: str = "patient"
    ):
        """Compares real radiographs with each other.

        Args:
            real: The dataset that the generator was trained on.
            scope: The scope of the synthetic sets.
            extractor: Features that were not learned from `real`.
            by: The split that the generator was trained on, see `RadiographDataset.split`.

        Raises:
            UserError: There are too few radiographs.
        """
        train, held_out = (
            of_split([real], *splits, by=by).of(*scope.labels)
            for splits in (("train",), ("validation", "test"))
        )
        if not (scope.labels and train and held_out):
            raise UserError(
                "The memorisation audit needs training and held-out radiographs of the synthetic "
                f"radiographs' classes ({', '.join(scope.labels) or 'none'}), and there are "
                f"{len(train)} and {len(held_out)}: sample some, or use a larger split."
            )
        self.scope = scope
        self._extractor, self._train, self._held_out = extractor, train, held_out
        self._seen_train, self._seen_held_out = self._seen(train), self._seen(held_out)
        number = np.unique(train.patients, return_inverse=True)[1]
        self._near_held_out = self._distances(self._seen_held_out)
        self._near_train = self._distances(self._seen_train, number[:, None] == number)
        planted = planted_copies(train.thinned(PLANTED))
        self._changes = list(planted)
        images = (image for of_change in planted.values() for image in of_change)
        changed = Pictures.of(images, scope.longest)
        self._near_planted = changed.distances(self._seen_train.pictures)

    def copies(self, synthetic: RadiographSet) -> Copies:
        """The audits of one synthetic set."""
        seen = self._seen(synthetic)
        near = self._distances(seen)
        audits = {
            name: audit(
                Distances(near[name], self._near_held_out[name], self._near_train[name]),
                FALSE_COPIES,
            )
            for name in near
        }
        train, held_out = self._seen_train, self._seen_held_out
        patients = self._train.patients, self._held_out.patients
        everyone = np.concatenate([train.pictures.whole, held_out.pictures.whole])
        score = fitted_distances(seen.pictures.whole, everyone).min(axis=0)
        count = len(self._train)
        attack = strongest(
            membership_inference(score[:count], score[count:], *patients),
            density_inference(seen.features, train.features, held_out.features, *patients),
        )
        power = Power.of(self._changes, finds(audits, self._near_planted))
        return Copies(audits, attack, power, conclude(audits, attack, power), self._train)

    def _seen(self, radiographs: RadiographSet) -> "_Seen":
        pictures = Pictures.of((overview(*m) for m in radiographs.members), self.scope.longest)
        return _Seen(pictures, radiographs.map(partial(radiograph_features, self._extractor)))

    def _distances(
        self, queries: "_Seen", ignored: Bool[np.ndarray, "query train"] | None = None
    ) -> dict[str, Float[np.ndarray, "part query train"]]:
        """Distances of radiographs from the training radiographs, by audit."""
        train = self._seen_train
        distances = queries.pictures.distances(train.pictures, ignored)
        of_features = euclidean_distances(queries.features, train.features)
        if ignored is not None:
            of_features[ignored] = np.inf
        return distances | {self._extractor.name: of_features[None]}


class _Seen(NamedTuple):
    """Radiographs as the audits of pictures see them, and their features."""

    pictures: Pictures
    features: Float32[np.ndarray, "n dim"]


def find_copies(
    real: RadiographDataset, synthetic: RadiographSet, extractor: Extractor, *, by: str = "patient"
) -> Copies:
    """Looks for each radiograph of one synthetic set among the training radiographs.

    For the arguments and errors see `CopySearch`.
    """
    return CopySearch(real, Scope.of(synthetic), extractor, by=by).copies(synthetic)


class CopySearches:
    """Searches for many synthetic sets among the training radiographs of one dataset.

    Sets of one scope share a search, which is prepared for the first of them.
    """

    def __init__(self, real: RadiographDataset, extractor: Extractor):
        self._real, self._extractor = real, extractor
        self._prepared: dict[tuple[Scope, str], CopySearch] = {}

    def copies(self, synthetic: RadiographSet, *, by: str = "patient") -> Copies:
        """The audits of one synthetic set; for the arguments and errors see `CopySearch`."""
        scope = Scope.of(synthetic)
        if (scope, by) not in self._prepared:
            self._prepared[scope, by] = CopySearch(self._real, scope, self._extractor, by=by)
        return self._prepared[scope, by].copies(synthetic)


def finds(
    audits: Mapping[str, Audit], distances: Mapping[str, Float[np.ndarray, "part copy train"]]
) -> Bool[np.ndarray, " copy"]:
    """Whether any audit would call further radiographs copies, by their distances."""
    return np.any([audits[name].finds(near) for name, near in distances.items()], axis=0)
