"""The page on which a surgeon accepts or rejects each radiograph of a future release.

It is the page of the reader study, with one question: `femur readers serve` shows it, and saves
each answer before the next radiograph appears.
"""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from femur_jax.data.cohort import seeded_hash
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.files import new_folder, write_checksums
from femur_jax.progress import Progress
from femur_jax.reader_study import pictures
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.design import Case, Design
from femur_jax.reader_study.questions import VERDICTS
from femur_jax.reader_study.study import IMAGES, SCHEMA, STUDY_FILE, open_study

_BLOCK = "selection"


def build_review(folder: Path, dataset: RadiographDataset, radiographs: Sequence[int]) -> None:
    """Writes the radiographs, at their native size and with 16 bits, for the reader study's page.

    Raises:
        UserError: The folder exists.
    """
    with new_folder(folder) as partial:
        (partial / IMAGES).mkdir()
        cases = []
        for number, n in enumerate(Progress(radiographs, "review")):
            entry = dataset.entries[n]
            image = seeded_hash(0, f"{_BLOCK} {entry.name}")[:16]
            pixels = pictures.standardise(dataset.read(n), (entry.height, entry.width))
            (partial / IMAGES / f"{image}.bin").write_bytes(pictures.encode(pixels))
            source = dataset.provenance["model"]
            cases.append(Case(image, number, _BLOCK, source, entry.label, entry.name))
        study = {
            "schema": SCHEMA,
            "design": dataclasses.asdict(Design()),
            "cases": [dataclasses.asdict(case) for case in cases],
        }
        (partial / STUDY_FILE).write_text(json.dumps(study, indent=1))
        write_checksums(partial)


def rejected_in(
    folder: Path, dataset: RadiographDataset, radiographs: Sequence[int]
) -> tuple[set[int], int]:
    """Radiographs that a reader rejected, and the number of readers.

    Raises:
        UserError: The folder shows other radiographs, nobody was invited, or a reader has not
            finished.
    """
    study = open_study(folder)
    number_of = {dataset.entries[n].name: n for n in radiographs}
    by_image = {case.image: case.radiograph for case in study.cases if case.block == _BLOCK}
    if set(by_image.values()) != number_of.keys():
        raise UserError(
            f"{folder} shows other radiographs than those that are left now; name a new folder "
            "with --review, and judge them again."
        )
    with closing(AnswerStore(study)) as store:
        readers = store.readers()
        if not readers:
            raise UserError(
                f"Nobody has judged the radiographs in {folder}; run femur readers serve {folder} "
                "--invite NAME."
            )
        rejected: set[int] = set()
        for reader in readers:
            done, all_items = store.next_number(reader), len(store.items(reader))
            if done < all_items:
                raise UserError(
                    f"{reader} has answered {done} of {all_items} pages in {folder}; finish them "
                    f"with femur readers serve {folder}."
                )
            for answer in store.answered(reader):
                is_rejected = answer.answers.get("verdict") == 1 + VERDICTS.index("reject")
                if answer.item.block == _BLOCK and is_rejected:
                    rejected.add(number_of[by_image[answer.item.images[0]]])
    return rejected, len(readers)
