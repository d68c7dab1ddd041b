"""Values that DICOM headers are made of."""

from pydicom.dataset import Dataset


def decimal(value: float) -> str:
    """A number within the 16 characters of a decimal string."""
    return f"{value:.8g}"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """The item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
