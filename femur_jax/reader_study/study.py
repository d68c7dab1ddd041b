"""A reader study as a folder.

    STUDY/
      study.json        the design and the truth; the page never gets it
      images/NAME.bin   the radiographs, see `pictures.encode`
      SHA256SUMS        of these, as they were when the study was made
      answers.sqlite    readers, their sessions and their answers, see `answers`

Names are drawn by chance. The two files of a matched pair have equal size in pixels and in bytes,
and all files the same time of change, so no property of a file tells what it shows.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from femur_jax.errors import UserError
from femur_jax.files import CHECKSUMS, verify_checksums
from femur_jax.reader_study.design import Case, Design

SCHEMA = 1
ANSWERS = "answers.sqlite"
STUDY_FILE = "study.json"
IMAGES = "images"


@dataclass(frozen=True)
class Study:
    """A study that was made.

    Attributes:
        folder: Where it lies.
        design: Its settings.
        cases: Its radiographs and the truth about them.
        fingerprint: SHA-256 of all of it; other readers' answers belong to another study.
    """

    folder: Path
    design: Design
    cases: list[Case]
    fingerprint: str

    def image(self, name: str) -> Path:
        """The file of a radiograph."""
        return self.folder / IMAGES / f"{name}.bin"


def open_study(folder: Path) -> Study:
    """Opens a study and checks that nothing of it was changed.

    Raises:
        UserError: There is none, or a file is missing or was changed.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no reader study ({STUDY_FILE} is missing); make one with "
            "tools/reader_study.py build."
        )
    try:
        verify_checksums(folder, [STUDY_FILE])
        found = json.loads(path.read_text())
        if found["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {found['schema']}, and this version reads {SCHEMA}."
            )
        return Study(
            folder,
            Design(**found["design"]),
            [Case(**case) for case in found["cases"]],
            hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest(),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; restore it from a copy.") from error
