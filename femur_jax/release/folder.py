"""The folder of a release: the same radiographs in three forms, and what a recipient must know.

dataset/             dataset of femur_jax
png/, dicom/         PNG files of 16-bit grey values, DICOM files
labels.csv           a line for each radiograph, with its two files; a label table for ingest
MODEL_CARD.md        how the model was made; DATA_CARD.md: what was dropped, and the audit
croissant.json       metadata for dataset search engines
LICENSE, SHA256SUMS
"""

import csv
import io
import json
from pathlib import Path

from femur_jax.export.cases import file_name
from femur_jax.export.folder import LABEL_TABLE, export, export_png
from femur_jax.files import write_checksums
from femur_jax.release.croissant import metadata
from femur_jax.release.licenses import LICENSES

DATASET = "dataset"


def complete(
    folder: Path,
    *,
    model_card: str,
    data_card: str,
    license_name: str,
    url: str,
    creator: str,
    published: str,
) -> None:
    """Completes a folder that holds the dataset with all other files of a release.

    Args:
        folder: Folder with `DATASET`.
        model_card: Text of MODEL_CARD.md.
        data_card: Text of DATA_CARD.md.
        license_name: One of LICENSES.
        url: Address at which the release will be found.
        creator: Name of the organisation that gives it away.
        published: Day of the release, ISO 8601.
    """
    dataset = folder / DATASET
    export_png([dataset], folder / "png")
    export([dataset], folder / "dicom")
    columns = _write_labels(folder)
    title, address = LICENSES[license_name]
    (folder / "MODEL_CARD.md").write_text(model_card)
    (folder / "DATA_CARD.md").write_text(data_card)
    (folder / "LICENSE").write_text(
        f"These radiographs are licensed under {title} ({license_name}).\n"
        f"The text of the license is at {address}\n"
    )
    described = metadata(
        folder / LABEL_TABLE,
        columns,
        description=data_card.split("\n\n")[1],
        license_url=address,
        url=url,
        creator=creator,
        published=published,
    )
    (folder / "croissant.json").write_text(json.dumps(described, indent=1))
    write_checksums(folder)


def _write_labels(folder: Path) -> list[str]:
    """Moves the label table of the PNG files up, with both files of each line; its columns."""
    table = folder / "png" / LABEL_TABLE
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    for n, row in enumerate(rows, start=1):
        row |= {"path": f"png/{row['path']}", "dicom": f"dicom/{file_name(n, 'dcm')}"}
        rows[n - 1] = row
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (folder / LABEL_TABLE).write_text(text.getvalue(), encoding="utf-8")
    table.unlink()
    return list(rows[0])
