"""Reasons why a file cannot become a radiograph: stable codes with a hint and a request each.

docs/quarantine.md lists them for readers; a code never changes its meaning.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    """The meaning of a code.

    Attributes:
        stage: Stage at which reading stopped.
        hint: The fault, with a remedy where the user needs no help from the hospital.
        request: A sentence that can be sent to the hospital with the name of the file.
    """

    stage: str
    hint: str
    request: str


REASONS = {
    # the file itself: whether it is DICOM, and its kind
    "unreadable": Reason(
        "file",
        "The file cannot be opened; check its path and permissions.",
        "Please send this file again, as one that can be opened.",
    ),
    "empty": Reason(
        "file",
        "The file is empty.",
        "Please send this file again, since the copy is empty.",
    ),
    "not_dicom": Reason(
        "file",
        "The file is not a DICOM file.",
        "Please export this radiograph as a DICOM file.",
    ),
    "other_format": Reason(
        "file",
        "The file is a PNG, TIFF or JPEG picture under another name; give it that suffix.",
        "Please name this picture by its format: .png, .tif or .jpg.",
    ),
    "unsupported_format": Reason(
        "file",
        "The file is a BMP, GIF, WebP or JPEG 2000 picture or a PDF.",
        "Please export this radiograph as DICOM, or else as PNG, TIFF or JPEG.",
    ),
    "no_preamble": Reason(
        "file",
        "The preamble and the file meta information of DICOM are missing.",
        "Please export this radiograph as a complete DICOM file, with preamble and file meta "
        "information (DICOM PS3.10).",
    ),
    "file_meta": Reason(
        "file",
        "The file meta information is incomplete.",
        "Please export this radiograph again, since its file meta information is incomplete.",
    ),
    "transfer_syntax": Reason(
        "file",
        "The transfer syntax is missing or not supported.",
        "Please export this radiograph in the transfer syntax Explicit VR Little Endian.",
    ),
    "file_too_large": Reason(
        "file",
        "The file is larger than any radiograph of 40 megapixels.",
        "Please send only single radiographs of at most 40 megapixels.",
    ),
    "inflates_too_large": Reason(
        "file",
        "The inflated file is larger than any radiograph of 40 megapixels.",
        "Please export this radiograph without compression of the file, with at most 40 "
        "megapixels.",
    ),
    "inflate": Reason(
        "file",
        "The deflated content is damaged.",
        "Please export this radiograph again, since its compressed content is damaged.",
    ),
    # header
    "header": Reason(
        "header",
        "The header is malformed, or gives an element twice with different values.",
        "Please export this radiograph again with a valid header, in which each element occurs "
        "once.",
    ),
    "header_cut": Reason(
        "header",
        "An element claims more bytes than the file has.",
        "Please send this file again, since it seems to be cut off.",
    ),
    "nested": Reason(
        "header",
        "The header's sequences are nested too deeply.",
        "Please export this radiograph without private sequences in its header.",
    ),
    "too_many_elements": Reason(
        "header",
        "The file has more elements or fragments than any radiograph.",
        "Please export this radiograph without private elements, and its pixels in one fragment.",
    ),
    "element_too_large": Reason(
        "header",
        "An element of the header is longer than a megabyte.",
        "Please export this radiograph without private elements, since one of its elements is "
        "longer than a megabyte.",
    ),
    "no_pixels": Reason(
        "header",
        "The pixel data element is missing.",
        "Please export this radiograph with its pixels, since the file has only a header.",
    ),
    "no_size": Reason(
        "header",
        "Rows or Columns is missing or zero.",
        "Please export this radiograph with its size (Rows and Columns) in the header.",
    ),
    "too_large": Reason(
        "header",
        "The image has more than 40 megapixels.",
        "Please send this radiograph with at most 40 megapixels.",
    ),
    "frames": Reason(
        "header",
        "The file has more than one frame or page.",
        "Please send each radiograph as a file of its own, with a single image.",
    ),
    "colour": Reason(
        "header",
        "The image has several samples per pixel, so it is not a grey-scale image.",
        "Please send the original radiograph in grey, and no colour copy of a screen.",
    ),
    "photometric": Reason(
        "header",
        "The photometric interpretation is neither MONOCHROME1 nor MONOCHROME2.",
        "Please export this radiograph with the photometric interpretation MONOCHROME1 or "
        "MONOCHROME2.",
    ),
    "bits_allocated": Reason(
        "header",
        "BitsAllocated is neither 8 nor 16.",
        "Please export this radiograph with 8 or 16 bits allocated for each pixel.",
    ),
    "bits_stored": Reason(
        "header",
        "BitsStored is missing, zero or greater than BitsAllocated.",
        "Please export this radiograph with a Bits Stored that fits its Bits Allocated.",
    ),
    "high_bit": Reason(
        "header",
        "HighBit is not BitsStored - 1.",
        "Please export this radiograph with a High Bit that is one less than Bits Stored.",
    ),
    "oblong_pixels": Reason(
        "header",
        "The pixels are not square.",
        "Please export this radiograph with square pixels.",
    ),
    "rescale": Reason(
        "header",
        "The rescale slope is 0, one of slope and intercept is missing, or they yield values that "
        "are not finite.",
        "Please export this radiograph with a valid Rescale Slope and Rescale Intercept, or "
        "without both.",
    ),
    "window": Reason(
        "header",
        "The window is incomplete or of an unknown kind.",
        "Please export this radiograph with a complete window (Window Center and Window Width), "
        "or without one.",
    ),
    "lookup_table": Reason(
        "header",
        "A lookup table contradicts its descriptor.",
        "Please export this radiograph without lookup tables, since one contradicts its "
        "descriptor.",
    ),
    "presentation_lut": Reason(
        "header",
        "The presentation LUT is neither IDENTITY nor INVERSE.",
        "Please export this radiograph with the Presentation LUT Shape IDENTITY or INVERSE, or "
        "without one.",
    ),
    "shutter": Reason(
        "header",
        "The display shutter is incomplete or hides the whole image.",
        "Please export this radiograph without a display shutter.",
    ),
    # pixel data, before it is decoded
    "pixels_empty": Reason(
        "pixel data",
        "The pixel data element is empty.",
        "Please export this radiograph again, since its pixels are missing.",
    ),
    "pixels_cut": Reason(
        "pixel data",
        "The pixel data has fewer bytes than the header states.",
        "Please send this file again, since its pixels seem to be cut off.",
    ),
    "pixels_long": Reason(
        "pixel data",
        "The pixel data has more bytes than the header states.",
        "Please export this radiograph again, since it has more pixels than its header states.",
    ),
    "syntax_contradicted": Reason(
        "pixel data",
        "The transfer syntax contradicts whether the pixels are compressed.",
        "Please export this radiograph again, since its transfer syntax contradicts its pixels.",
    ),
    "encapsulation": Reason(
        "pixel data",
        "The compressed pixels are not encapsulated correctly.",
        "Please export this radiograph without compression, since its compressed pixels are "
        "damaged.",
    ),
    "codestream": Reason(
        "pixel data",
        "The codestream is damaged or does not match the transfer syntax.",
        "Please export this radiograph without compression, since its compressed pixels are "
        "damaged or do not match the transfer syntax.",
    ),
    "jp2": Reason(
        "pixel data",
        "The pixels are a JP2 file, which DICOM forbids.",
        "Please export this radiograph with a bare JPEG 2000 codestream in place of a JP2 file, "
        "or without compression.",
    ),
    "codestream_cut": Reason(
        "pixel data",
        "The codestream lacks its end marker.",
        "Please send this file again, since its compressed pixels seem to be cut off.",
    ),
    "codestream_size": Reason(
        "pixel data",
        "Header and codestream differ in size.",
        "Please export this radiograph without compression, since header and compressed pixels "
        "differ in size.",
    ),
    "codestream_bits": Reason(
        "pixel data",
        "Header and codestream differ in bits or components.",
        "Please export this radiograph without compression, since header and compressed pixels "
        "differ in bits.",
    ),
    # decoding
    "undecodable": Reason(
        "decoding",
        "The pixels cannot be decoded.",
        "Please export this radiograph without compression, since its pixels cannot be decoded.",
    ),
    "memory": Reason(
        "decoding",
        "Reading the file takes more memory than a worker may use.",
        "Please export this radiograph again without compression, since reading the file takes "
        "too much memory.",
    ),
    "timeout": Reason(
        "decoding",
        "Reading the file takes longer than a worker may.",
        "Please export this radiograph again without compression, since reading the file takes "
        "too long.",
    ),
    "crashed": Reason(
        "decoding",
        "Reading the file ended its worker process.",
        "Please export this radiograph again without compression, since the file seems to be "
        "damaged.",
    ),
    # grey values
    "value_range": Reason(
        "grey values",
        "Pixel values exceed BitsStored, and not only a few of a lossy codec.",
        "Please export this radiograph again, since its pixels exceed Bits Stored.",
    ),
    "layout": Reason(
        "grey values",
        "The pixels form a picture only with Rows and Columns exchanged, or with the other Pixel "
        "Representation.",
        "Please export this radiograph again, since its Rows and Columns or its Pixel "
        "Representation do not fit its pixels.",
    ),
    "polarity": Reason(
        "grey values",
        "Photometric Interpretation and Presentation LUT Shape contradict each other, and the "
        "pixels do not tell that bone is bright; correct one of them in the header.",
        "Please state whether bone is bright in this radiograph, since Photometric "
        "Interpretation and Presentation LUT Shape contradict each other.",
    ),
    "constant_image": Reason(
        "grey values",
        "All pixels are equal.",
        "Please send this radiograph again, since all its pixels are equal.",
    ),
    "blank": Reason(
        "grey values",
        "The window or lookup table shows all pixels equally.",
        "Please export this radiograph without its window and lookup tables, which show all "
        "pixels equally.",
    ),
    # exported pictures: PNG, TIFF, JPEG
    "tiff_kind": Reason(
        "header",
        "The compression or tile size of the TIFF file is not supported.",
        "Please save this picture as TIFF without compression.",
    ),
    "not_image": Reason(
        "file",
        "The file has the suffix of a picture but is neither PNG nor TIFF nor JPEG; if it is a "
        "DICOM file, name it .dcm.",
        "Please export this radiograph as PNG, TIFF or JPEG.",
    ),
    "not_grey": Reason(
        "grey values",
        "The colour channels differ by more than 8 of 255 levels; remove coloured marks and save "
        "the picture as greyscale.",
        "Please save this picture in greyscale, without coloured marks.",
    ),
    "colour_space": Reason(
        "header",
        "The picture is stored in CMYK or another colour space whose grey values are not exact.",
        "Please save this picture in greyscale, since grey values are not exact in its colour "
        "space.",
    ),
    "transparent": Reason(
        "grey values",
        "Parts of the picture are transparent.",
        "Please save this picture without transparency.",
    ),
    "orientation": Reason(
        "header",
        "The picture's EXIF or TIFF data do not state clearly how it is turned; turn it upright "
        "and remove these data.",
        "Please save this picture upright, without EXIF data.",
    ),
    "bit_depth": Reason(
        "header",
        "The file is not a single image of 8 or 16 bits.",
        "Please save this picture as a single image of 8 or 16 bits.",
    ),
    # the cohort
    "label_conflict": Reason(
        "labels",
        "The same picture is listed as AFF and as NFF.",
        "Please state whether this radiograph shows an AFF or an NFF, since it was sent as both.",
    ),
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
        """Meaning of the code."""
        return REASONS[self.code]


def require(condition: bool, code: str) -> None:
    """Rejects the file unless the condition holds."""
    if not condition:
        raise RejectedFileError(code)
