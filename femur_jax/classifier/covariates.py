"""What a classifier knows of a patient beside the radiograph: age, sex, drug exposure."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from femur_jax.data.records import RadiographEntry


@dataclass(frozen=True)
class Standardisation:
    """Columns to zero mean and unit variance over the training patients.

    Attributes:
        mean, deviation: Of each column; a column that does not vary has the deviation 1.
    """

    mean: Float[np.ndarray, " columns"]
    deviation: Float[np.ndarray, " columns"]

    @classmethod
    def over_patients(
        cls, entries: Sequence[RadiographEntry], columns: Sequence[str]
    ) -> "Standardisation":
        """Of the entries' patients; each counts once, with the mean of what is known."""
        own: dict[str, list[np.ndarray]] = {}
        for entry in entries:
            own.setdefault(entry.patient, []).append(entry.column_values(columns))
        patients = np.array([_known_mean(np.array(rows, float)) for rows in own.values()])
        mean = np.nan_to_num(_known_mean(patients))
        deviation = np.sqrt(np.nan_to_num(_known_mean((patients - mean) ** 2)))
        return cls(mean, np.where(deviation > 0, deviation, 1.0))

    def __call__(
        self, values: Float[Array, "batch columns"]
    ) -> Float[Array, "batch twice_the_columns"]:
        """Standardised values, 0 where unknown (NaN); then 1 for each that is unknown, else 0."""
        unknown = jnp.isnan(values)
        standard = (values - jnp.asarray(self.mean, jnp.float32)) / self.deviation
        return jnp.concatenate(
            [jnp.where(unknown, 0.0, standard), unknown.astype(jnp.float32)], axis=-1
        )


def _known_mean(rows: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " columns"]:
    """Of each column over what is no NaN; NaN where nothing is known."""
    known = ~np.isnan(rows)
    count = known.sum(axis=0)
    return np.where(
        count > 0, np.where(known, rows, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan
    )
