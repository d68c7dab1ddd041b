"""Reasons why a file cannot become a radiograph: stable codes, each with a stage and a hint.

docs/quarantine.md lists them for readers; a code never changes its meaning.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    """The meaning of a code: the stage at which reading stopped, and a hint for users."""

    stage: str
    hint: str


REASONS = {
    # the file itself: whether it is DICOM, and its kind
    "unreadable": Reason("file", "The file cannot be opened; check its path and permissions."),
    "empty": Reason("file", "The file is empty; copy it again."),
    "not_dicom": Reason("file", "The file is not a DICOM file."),
    "other_format": Reason(
        "file",
        "The file is a PNG, TIFF or JPEG picture under another name; give it that suffix.",
    ),
    "unsupported_format": Reason(
        "file",
        "The file is a BMP, GIF, WebP or JPEG 2000 picture or a PDF; export it as DICOM, PNG, TIFF "
        "or JPEG.",
    ),
    "no_preamble": Reason(
        "file",
        "The preamble and the file meta information of DICOM are missing; export the file again.",
    ),
    "file_meta": Reason("file", "The file meta information is incomplete; export the file again."),
    "transfer_syntax": Reason("file", "The transfer syntax is missing or not supported."),
    "file_too_large": Reason("file", "The file is larger than any radiograph of 40 megapixels."),
    "inflates_too_large": Reason(
        "file", "The inflated file is larger than any radiograph of 40 megapixels."
    ),
    "inflate": Reason("file", "The deflated content is damaged; export the file again."),
    # header
    "header": Reason(
        "header", "The header is malformed, or gives an element twice with different values."
    ),
    "header_cut": Reason("header", "An element claims more bytes than the file has."),
    "nested": Reason("header", "The header's sequences are nested too deeply."),
    "too_many_elements": Reason(
        "header", "The file has more elements or fragments than any radiograph."
    ),
    "element_too_large": Reason("header", "An element of the header is longer than a megabyte."),
    "no_pixels": Reason("header", "The pixel data element is missing."),
    "no_size": Reason("header", "Rows or Columns is missing or zero."),
    "too_large": Reason("header", "The image has more than 40 megapixels."),
    "frames": Reason("header", "The file has more than one frame or page."),
    "colour": Reason(
        "header", "The image has several samples per pixel, so it is not a grey-scale image."
    ),
    "photometric": Reason(
        "header", "The photometric interpretation is neither MONOCHROME1 nor MONOCHROME2."
    ),
    "bits_allocated": Reason("header", "BitsAllocated is neither 8 nor 16."),
    "bits_stored": Reason("header", "BitsStored is missing, zero or greater than BitsAllocated."),
    "high_bit": Reason("header", "HighBit is not BitsStored - 1."),
    "oblong_pixels": Reason("header", "The pixels are not square."),
    "rescale": Reason(
        "header", "The rescale slope is 0, or slope and intercept yield values that are not finite."
    ),
    "window": Reason("header", "The window is incomplete or of an unknown kind."),
    "lookup_table": Reason(
        "header", "A lookup table contradicts its descriptor; request an export without it."
    ),
    "presentation_lut": Reason(
        "header",
        "The presentation LUT is neither IDENTITY nor INVERSE; request an export without it.",
    ),
    "shutter": Reason("header", "The display shutter is incomplete or hides the whole image."),
    # pixel data, before it is decoded
    "pixels_empty": Reason("pixel data", "The pixel data element is empty."),
    "pixels_cut": Reason("pixel data", "The pixel data has fewer bytes than the header states."),
    "pixels_long": Reason("pixel data", "The pixel data has more bytes than the header states."),
    "syntax_contradicted": Reason(
        "pixel data", "The transfer syntax contradicts whether the pixels are compressed."
    ),
    "encapsulation": Reason("pixel data", "The compressed pixels are not encapsulated correctly."),
    "codestream": Reason(
        "pixel data", "The codestream is damaged or does not match the transfer syntax."
    ),
    "jp2": Reason(
        "pixel data",
        "The pixels are a JP2 file, which DICOM forbids; export the bare JPEG 2000 codestream.",
    ),
    "codestream_cut": Reason("pixel data", "The codestream lacks its end marker."),
    "codestream_size": Reason("pixel data", "Header and codestream differ in size."),
    "codestream_bits": Reason("pixel data", "Header and codestream differ in bits or components."),
    # decoding
    "undecodable": Reason("decoding", "The pixels cannot be decoded."),
    "memory": Reason("decoding", "Reading the file takes more memory than a worker may use."),
    "timeout": Reason("decoding", "Reading the file takes longer than a worker may."),
    "crashed": Reason("decoding", "Reading the file ended its worker process."),
    # grey values
    "value_range": Reason(
        "grey values", "Pixel values exceed BitsStored, and not only a few of a lossy codec."
    ),
    "polarity": Reason(
        "grey values",
        "Photometric Interpretation and Presentation LUT Shape contradict each other, and the "
        "pixels do not tell that bone is bright; correct one of them in the header.",
    ),
    "constant_image": Reason("grey values", "All pixels are equal."),
    "blank": Reason(
        "grey values",
        "The window or lookup table shows all pixels equally; request an export without it.",
    ),
    # exported pictures: PNG, TIFF, JPEG
    "tiff_kind": Reason(
        "header",
        "The compression or tile size of the TIFF file is not supported; save it without "
        "compression.",
    ),
    "not_image": Reason(
        "file", "The file is neither a PNG nor a TIFF nor a JPEG picture; export it as one of them."
    ),
    "not_grey": Reason(
        "grey values",
        "The colour channels differ by more than 8 of 255 levels; remove coloured marks and save "
        "the picture as greyscale.",
    ),
    "colour_space": Reason(
        "header",
        "The picture is stored in CMYK or another colour space whose grey values are not exact; "
        "save it as greyscale.",
    ),
    "transparent": Reason(
        "grey values", "Parts of the picture are transparent; save it without transparency."
    ),
    "orientation": Reason(
        "header",
        "The picture's EXIF or TIFF data do not state clearly how it is turned; turn it upright "
        "and remove these data.",
    ),
    "bit_depth": Reason(
        "header", "The file is not a single image of 8 or 16 bits; save it with 8 or 16 bits."
    ),
    # the cohort
    "label_conflict": Reason("labels", "The same picture is listed as AFF and as NFF."),
}
"""Every code that a file can be quarantined with."""


class RejectedFileError(Exception):
    """The file cannot be used.

    The exception carries nothing but a code, since a header or a library's message may quote a
    patient's name.

    Attributes:
        code: Key of the reason in REASONS.
    """

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code

    @property
    def reason(self) -> Reason:
        """Stage and hint of the code."""
        return REASONS[self.code]


def require(condition: bool, code: str) -> None:
    """Rejects the file unless the condition holds."""
    if not condition:
        raise RejectedFileError(code)
