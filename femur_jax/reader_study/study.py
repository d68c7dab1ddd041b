"""A reader study as a folder.

    STUDY/
      study.json        the design and the truth, which the page never receives
      images/NAME.bin   the radiographs, see `pictures.encode`
      SHA256SUMS        checksums of study.json and the images
      answers.sqlite    readers, their sessions and their answers, see `answers`

File names are random. Both files of a matched pair have the same size in pixels and in bytes, and
all files have the same modification time, so no property of a file reveals what it shows.
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
    """An existing study.

    Attributes:
        folder: Folder of the study.
        design: Settings of the study.
        cases: Radiographs of the study and the truth about them.
        fingerprint: SHA-256 of the study's checksums. Answers belong to one fingerprint.
    """

    folder: Path
    design: Design
    cases: list[Case]
    fingerprint: str

    def image(self, name: str) -> Path:
        """Returns the file of a radiograph."""
        return self.folder / IMAGES / f"{name}.bin"


def open_study(folder: Path) -> Study:
    """Opens a study and verifies its checksums.

    Raises:
        UserError: The folder holds no study, or a file is missing or was changed.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no reader study ({STUDY_FILE} is missing); make one with "
            "`femur readers build`."
        )
    try:
        verify_checksums(folder, [STUDY_FILE])
        contents = json.loads(path.read_text())
        if contents["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {contents['schema']}, but this version reads schema {SCHEMA}."
            )
        return Study(
            folder,
            Design(**contents["design"]),
            [Case(**case) for case in contents["cases"]],
            hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest(),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; restore it from a copy.") from error
