"""Why a file cannot become a radiograph: stable codes, each with its stage and a hint.

docs/quarantine.md lists them for people; a code never changes its meaning.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    """What a code means: where reading stopped, and one sentence for who can mend the file."""

    stage: str
    hint: str


REASONS = {
    # file: is it DICOM, and which kind?
    "unreadable": Reason("file", "It cannot be opened; check its place and permissions."),
    "empty": Reason("file", "It has no bytes; copy it again."),
    "not_dicom": Reason("file", "It is no DICOM file."),
    "other_format": Reason("file", "It is a picture of another format; give it that suffix."),
    "no_preamble": Reason("file", "It lacks DICOM's preamble and file meta; export it again."),
    "file_meta": Reason("file", "Its file meta information is incomplete; export it again."),
    "transfer_syntax": Reason("file", "Its transfer syntax is missing or not read here."),
    "file_too_large": Reason("file", "The file is larger than any radiograph of 40 megapixels."),
    "inflates_too_large": Reason("file", "Inflated, it is larger than 40 megapixels can be."),
    "inflate": Reason("file", "Its deflated content is damaged; export it again."),
    # header
    "header": Reason("header", "Its header is malformed."),
    "header_cut": Reason("header", "An element claims more bytes than the file has."),
    "nested": Reason("header", "Its sequences are nested too deeply."),
    "too_many_elements": Reason("header", "It has more elements or fragments than any radiograph."),
    "element_too_large": Reason("header", "An element of its header is longer than a megabyte."),
    "no_pixels": Reason("header", "It holds no pixel data element."),
    "no_size": Reason("header", "Rows or Columns is missing or zero."),
    "too_large": Reason("header", "It has more than 40 megapixels."),
    "frames": Reason("header", "It has more frames or pages than one."),
    "colour": Reason("header", "It has several samples a pixel; it is no grey-scale image."),
    "photometric": Reason("header", "It is neither MONOCHROME1 nor MONOCHROME2."),
    "bits_allocated": Reason("header", "It has neither 8 nor 16 bits allocated for a pixel."),
    "bits_stored": Reason("header", "BitsStored is missing, zero or above BitsAllocated."),
    "high_bit": Reason("header", "HighBit is not BitsStored - 1."),
    "oblong_pixels": Reason("header", "Its pixels are not square."),
    "rescale": Reason("header", "Its rescale slope or intercept gives no finite values."),
    "window": Reason("header", "Its window is incomplete or of no known kind."),
    "lookup_table": Reason("header", "A lookup table contradicts its descriptor."),
    "shutter": Reason("header", "Its display shutter is incomplete or hides everything."),
    # pixel data, before it is decoded
    "pixels_empty": Reason("pixel data", "Its pixel data has no bytes."),
    "pixels_cut": Reason("pixel data", "It has fewer bytes than its header says."),
    "pixels_long": Reason("pixel data", "It has more bytes than its header says."),
    "syntax_contradicted": Reason(
        "pixel data", "Its pixels are compressed and its transfer syntax is not, or the reverse."
    ),
    "encapsulation": Reason("pixel data", "Its compressed pixels are not wrapped as they must be."),
    "codestream": Reason("pixel data", "Its codestream is damaged, or not of its transfer syntax."),
    "codestream_cut": Reason("pixel data", "Its codestream lacks its end marker."),
    "codestream_size": Reason("pixel data", "Header and codestream differ in size."),
    "codestream_bits": Reason("pixel data", "Header and codestream differ in bits or components."),
    # decoding
    "undecodable": Reason("decoding", "Its pixels cannot be decoded."),
    "memory": Reason("decoding", "Reading it takes more memory than a worker may use."),
    "timeout": Reason("decoding", "Reading it takes longer than a worker may."),
    "crashed": Reason("decoding", "Reading it ended its worker process."),
    # grey values
    "value_range": Reason("grey values", "Pixel values exceed BitsStored."),
    "constant_image": Reason("grey values", "All pixels are equal."),
    # exported pictures: PNG, TIFF, JPEG
    "tiff_kind": Reason("header", "Its TIFF compression or tile size is not read here."),
    "not_image": Reason("file", "It is no image file of its suffix."),
    "not_grey": Reason("grey values", "It is not a grey-scale image."),
    "bit_depth": Reason("header", "It is no single image of 8 or 16 bits."),
    # the cohort
    "label_conflict": Reason("labels", "The same picture is listed as AFF and as NFF."),
}
"""Every code; files are counted by it."""


class RejectedFileError(Exception):
    """A file is left out.

    The text comes from REASONS alone, never from a header or a library's message, which may
    quote a patient's name.

    Attributes:
        code: Key of REASONS.
    """

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code

    @property
    def reason(self) -> Reason:
        """Stage and hint."""
        return REASONS[self.code]


def require(condition: bool, code: str) -> None:
    """Rejects the file unless the condition holds."""
    if not condition:
        raise RejectedFileError(code)
