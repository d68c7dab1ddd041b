"""Values for DICOM headers."""

from pydicom.dataset import Dataset


def decimal(value: float) -> str:
    """A number as a decimal string of at most 16 characters."""
    return f"{value:.8g}"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
