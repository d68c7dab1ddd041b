"""Export of radiographs as DICOM files for a PACS, or as PNG files for other programs."""
