"""Names for files, patients and hospitals that follow from what their radiographs show.

Orders and splits go by these names. Whoever has a list of paths, patients and hospitals but not the
radiographs cannot compute them, so an order or a split reveals nobody. They do not depend on the
key either: two datasets of the same files have the same splits and order, and reports on them the
same numbers.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from femur_jax.data.records import RadiographEntry


@dataclass(frozen=True)
class ContentKeys:
    """Digests of 64 hexadecimal digits.

    Attributes:
        file: Digest of each file, by its number.
        patient: Digest of each patient's files, by the patient's name in the label table.
        hospital: Digest of each hospital's files, by the hospital's name in the label table.
    """

    file: dict[int, str]
    patient: dict[str, str]
    hospital: dict[str, str]


def content_keys(
    entries: Mapping[int, RadiographEntry], patients: Sequence[str], hospitals: Sequence[str]
) -> ContentKeys:
    """Computes the digests of files, patients and hospitals.

    Files that show the same differ by the other files of their patients and hospitals. Patients or
    hospitals with equal digests have the same files.

    Args:
        entries: Entry of each readable file, by its number.
        patients: Patient of each number.
        hospitals: Hospital of each number.
    """
    facts = {n: _digest(_facts(entry)) for n, entry in entries.items()}
    of_patient = _by_owner(facts, patients)
    of_hospital = _by_owner(facts, hospitals)
    of_file = {
        n: _digest([fact, of_patient[patients[n]], of_hospital[hospitals[n]]])
        for n, fact in facts.items()
    }
    return ContentKeys(of_file, of_patient, of_hospital)


def _facts(entry: RadiographEntry) -> dict:
    """The entry without pseudonyms, which depend on the key."""
    source = dataclasses.replace(entry.source, vendor="")
    unnamed = dataclasses.replace(entry, name="", patient="", hospital="", source=source)
    return dataclasses.asdict(unnamed)


def _by_owner(facts: Mapping[int, str], owners: Sequence[str]) -> dict[str, str]:
    owned: dict[str, list[str]] = {}
    for n, fact in facts.items():
        owned.setdefault(owners[n], []).append(fact)
    return {owner: _digest(sorted(some)) for owner, some in owned.items()}


def _digest(value: dict | list[str]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
