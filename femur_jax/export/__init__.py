"""Export of radiographs as DICOM files for a PACS."""
