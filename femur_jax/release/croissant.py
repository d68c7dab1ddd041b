"""Metadata of a release in the Croissant format, version 1.0, which dataset search engines read.

Source: MLCommons, Croissant Format Specification 1.0 (https://docs.mlcommons.org/croissant).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Context that the specification prescribes (section "Dataset-level information")."""

_TYPES = {"height": "sc:Integer", "width": "sc:Integer", "spacing_mm": "sc:Float"}
_DESCRIPTIONS = {
    "path": "PNG file of 16-bit grey values, bone bright",
    "dicom": "DICOM file of the same radiograph",
    "patient_id": "counter of the radiograph; no patient",
    "label": "AFF, atypical femur fracture, or NFF, normal femur fracture",
    "spacing_mm": "side of a pixel in mm, 0 where unknown",
}


def metadata(
    table: Path,
    columns: Sequence[str],
    *,
    description: str,
    license_url: str,
    url: str,
    creator: str,
    published: str,
) -> dict[str, Any]:
    """Metadata of a folder of PNG files with a label table.

    Args:
        table: The label table, in the folder of the release.
        columns: Columns of the table.
        description: Description of the dataset.
        license_url: Address of the license.
        url: Address at which the release will be found.
        creator: Name of the organisation that gives it away.
        published: Day of the release, ISO 8601.
    """
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "synthetic-femur-radiographs",
        "description": description,
        "license": license_url,
        "url": url,
        "creator": {"@type": "sc:Organization", "name": creator},
        "version": "1.0.0",
        "citeAs": f"{creator}. Synthetic femur radiographs. {published}. {url}",
        "datePublished": published,
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": table.name,
                "name": table.name,
                "contentUrl": table.name,
                "encodingFormat": "text/csv",
                "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "radiographs",
                "name": "radiographs",
                "description": "One line for each synthetic radiograph",
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"radiographs/{column}",
                        "name": column,
                        "description": _DESCRIPTIONS.get(column, column.replace("_", " ")),
                        "dataType": _TYPES.get(column, "sc:Text"),
                        "source": {
                            "fileObject": {"@id": table.name},
                            "extract": {"column": column},
                        },
                    }
                    for column in columns
                ],
            }
        ],
    }
