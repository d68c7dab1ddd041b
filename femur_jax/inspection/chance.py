"""Tests by permutation of whether hospitals or classes differ by more than chance."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from femur_jax.evaluation.statistics import holm

LEVEL = 0.05
"""Probability that a table of random assignments has any fact that counts as a difference."""
_LEAST, _CHUNK, _ENOUGH = 2000, 1 << 20, 20


def differences(
    groups: Sequence[str], facts: Mapping[str, Float[np.ndarray, " unit"]]
) -> dict[tuple[str, str], float]:
    """P values of the differences of each group from all other units, by fact and group.

    The test compares a group's mean rank with those of equally large groups drawn at random from
    all units with a known value: the permutation test of Wilcoxon's rank sum, two-sided, with
    (1 + number as extreme) / (1 + number drawn), which holds its level for any number drawn
    (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010). Holm's correction (Scand. J. Stat.
    6, 1979) covers all groups and facts, so that with a probability of at most LEVEL any value is
    below LEVEL where groups were assigned at random. The draws have a fixed seed; those of a fact
    end early where many were as extreme for every group (Besag and Clifford, Biometrika 78, 1991).

    Args:
        groups: Group of each unit, such as the hospital of each patient.
        facts: Values of each unit by fact, NaN where unknown. A fact that does not vary, or is
            known in one group alone, is left out.
    """
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    tests: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for fact, values in facts.items():
        known = ~np.isnan(values)
        ranks, group = rankdata(values[known]), codes[known]
        if len(set(ranks.tolist())) > 1 and len(set(group.tolist())) > 1:
            tests[fact] = ranks, group
    number = sum(len(set(group.tolist())) for _, group in tests.values())
    draws = max(_LEAST, int(4 * number / LEVEL))
    rng = np.random.default_rng(0)
    keys, p = [], []
    for fact, (ranks, group) in tests.items():
        sizes = np.bincount(group, minlength=len(names))
        present = np.flatnonzero(sizes)
        off = np.abs(np.bincount(group, ranks - ranks.mean(), minlength=len(names)))
        extreme = np.ones(len(names))
        step = max(1, _CHUNK // len(ranks))
        drawn = 0
        while drawn < draws and min(extreme[present]) <= _ENOUGH:
            table = np.tile(ranks - ranks.mean(), (min(step, draws - drawn), 1))
            drawn += len(table)
            sums = np.abs(rng.permuted(table, axis=1).cumsum(1))
            for n in present:
                extreme[n] += np.count_nonzero(sums[:, sizes[n] - 1] >= off[n] - 1e-9)
        for n in present:
            keys.append((fact, str(names[n])))
            p.append(float(extreme[n] / (drawn + 1)))
    return dict(zip(keys, holm(p), strict=True))
