"""Radiographs as DICOM files for a PACS."""
