"""What a classifier knows of a patient in addition to the radiograph: age, sex, drug exposure."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from femur_jax.data.records import RadiographEntry


@dataclass(frozen=True)
class Standardisation:
    """Standardises columns to zero mean and unit variance over the training patients.

    Attributes:
        mean: The mean of each column.
        deviation: The standard deviation of each column; 1 for a column that does not vary.
    """

    mean: Float[np.ndarray, " columns"]
    deviation: Float[np.ndarray, " columns"]

    @classmethod
    def over_patients(
        cls, entries: Sequence[RadiographEntry], columns: Sequence[str]
    ) -> "Standardisation":
        """Of the entries' patients; each counts once, with the mean of what is known."""
        rows_by_patient: dict[str, list[np.ndarray]] = {}
        for entry in entries:
            rows_by_patient.setdefault(entry.patient, []).append(entry.column_values(columns))
        patients = np.array(
            [_known_mean(np.array(rows, float)) for rows in rows_by_patient.values()]
        )
        mean = np.nan_to_num(_known_mean(patients))
        deviation = np.sqrt(np.nan_to_num(_known_mean((patients - mean) ** 2)))
        return cls(mean, np.where(deviation > 0, deviation, 1.0))

    def __call__(
        self, values: Float[Array, "batch columns"]
    ) -> Float[Array, "batch twice_the_columns"]:
        """Returns standardised values, 0 where unknown (NaN), and then flags, 1 where unknown."""
        unknown = jnp.isnan(values)
        standard = (values - jnp.asarray(self.mean, jnp.float32)) / self.deviation
        return jnp.concatenate(
            [jnp.where(unknown, 0.0, standard), unknown.astype(jnp.float32)], axis=-1
        )


def _known_mean(rows: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " columns"]:
    """The mean of each column without NaNs; NaN where nothing is known."""
    known = ~np.isnan(rows)
    count = known.sum(axis=0)
    return np.where(
        count > 0, np.where(known, rows, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan
    )
