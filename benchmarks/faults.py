"""Faults of DICOM files as writers make them: each kind contradicts itself or keeps its meaning.

So a reader either refuses such a file or shows the picture of the original.
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_fragments
from pydicom.filereader import data_element_generator

_UNDEFINED = 0xFFFFFFFF
_PIXELS = 0x7FE00010
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_BEFORE_PIXELS = 0x00400555  # Acquisition Context Sequence


@dataclass(frozen=True)
class Element:
    """An element as it is written; the length is the one stated."""

    tag: int
    vr: bytes
    value: bytes
    length: int | None = None


@dataclass(frozen=True)
class File:
    """A file's preamble with the meta information, its syntax, and its elements in order."""

    start: bytes
    syntax: uid.UID
    elements: tuple[Element, ...]

    @classmethod
    def of(cls, data: bytes, syntax: uid.UID) -> "File":
        """Splits the bytes of a file."""
        end = 144 + struct.unpack_from("<I", data, 140)[0]
        start, body = data[:end], data[end:]
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            body = zlib.decompress(body, -zlib.MAX_WBITS)
        raw = data_element_generator(
            io.BytesIO(body), syntax.is_implicit_VR, syntax.is_little_endian
        )
        elements = (
            Element(
                int(e.tag),
                (e.VR or "").encode(),
                e.value or b"",
                _UNDEFINED if e.length == _UNDEFINED else None,
            )
            for e in raw
            if isinstance(e, RawDataElement)
        )
        return cls(start, syntax, tuple(elements))

    def to_bytes(self) -> bytes:
        """The bytes of the file."""
        body = b"".join(self.encoded(element) for element in self.elements)
        if self.syntax == uid.DeflatedExplicitVRLittleEndian:
            deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = deflater.compress(body) + deflater.flush()
        return self.start + body

    def pack(self, form: str, *values: int) -> bytes:
        """Packs numbers in the byte order of the syntax."""
        return struct.pack(f"{'<' if self.syntax.is_little_endian else '>'}{form}", *values)

    def marker(self, tag: int, length: int = 0) -> bytes:
        """An item or a delimiter, without its content."""
        return self.pack("HHI", tag >> 16, tag & 0xFFFF, length)

    def encoded(self, element: Element) -> bytes:
        """The bytes of an element."""
        length = len(element.value) if element.length is None else element.length
        head = self.pack("HH", element.tag >> 16, element.tag & 0xFFFF)
        if self.syntax.is_implicit_VR:
            head += self.pack("I", length)
        elif element.vr in _LONG:
            head += element.vr + self.pack("HI", 0, length)
        else:
            head += element.vr + self.pack("H", length & 0xFFFF)
        ends = element.tag == _PIXELS and element.length == _UNDEFINED
        return head + element.value + (self.marker(_SEQUENCE_END) if ends else b"")

    def get(self, keyword: str) -> Element | None:
        """The element of a keyword."""
        tag = tag_for_keyword(keyword)
        return next((e for e in self.elements if e.tag == tag), None)

    def replaced(self, *changed: Element | None, at: Element) -> "File":
        """The file with elements in place of one of its own; None removes it."""
        elements: list[Element] = []
        for element in self.elements:
            elements += [e for e in changed if e] if element is at else [element]
        return dataclasses.replace(self, elements=tuple(elements))

    def with_value(self, keyword: str, value: bytes) -> "File":
        """The file with another value of an element that it has."""
        element = self.get(keyword)
        if element is None:
            return self
        return self.replaced(dataclasses.replace(element, value=value), at=element)

    def with_numbers(self, **numbers: int) -> "File":
        """The file with other unsigned shorts."""
        file = self
        for keyword, number in numbers.items():
            file = file.with_value(keyword, self.pack("H", number & 0xFFFF))
        return file

    def added(self, *elements: Element) -> "File":
        """The file with further elements in the order of tags; they replace those that it has."""
        tags = {e.tag for e in elements}
        kept = [e for e in self.elements if e.tag not in tags]
        return dataclasses.replace(
            self, elements=tuple(sorted([*kept, *elements], key=lambda e: e.tag))
        )


Fault = Callable[[File, np.random.Generator], File]

_USED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("RescaleSlope", "RescaleIntercept"),
)


def _used(file: File, rng: np.random.Generator) -> Element:
    """One of the elements without which the picture is another or none.

    A lookup table does not count: without a trace of it the file has another meaning.
    """
    present = [e for keyword in _USED if (e := file.get(keyword))]
    return present[rng.integers(len(present))]


def _choose(rng: np.random.Generator, *choices):
    return choices[rng.integers(len(choices))]


def swapped_tags(file: File, rng: np.random.Generator) -> File:
    """Two elements exchange places, or one has its tag's bytes or halves exchanged."""
    first = _used(file, rng)
    kind = rng.integers(4)
    if kind == 0:
        second = file.elements[rng.integers(len(file.elements))]
        order = {id(first): second, id(second): first}
        return dataclasses.replace(file, elements=tuple(order.get(id(e), e) for e in file.elements))
    if kind == 1:
        low, high = first.tag & 0xFFFF, first.tag >> 16
        tag = low << 16 | high
    elif kind == 2:
        tag = int.from_bytes(first.tag.to_bytes(4, "big"), "little")
    else:
        pairs = (("Rows", "Columns"), ("BitsAllocated", "BitsStored"), ("BitsStored", "HighBit"))
        one, other = (file.get(keyword) for keyword in _choose(rng, *pairs))
        assert one and other
        swapped = file.replaced(dataclasses.replace(one, value=other.value), at=one)
        return swapped.replaced(dataclasses.replace(other, value=one.value), at=other)
    return file.replaced(dataclasses.replace(first, tag=tag), at=first)


def wrong_vr(file: File, rng: np.random.Generator) -> File:
    """An element has another value representation."""
    element = _used(file, rng)
    vr = _choose(rng, b"US", b"SS", b"UL", b"DS", b"IS", b"CS", b"LO", b"UN", b"OB", b"OW", b"FD")
    return file.replaced(dataclasses.replace(element, vr=vr), at=element)


def wrong_length(file: File, rng: np.random.Generator) -> File:
    """An element states another length than it has, is empty, or has a further byte."""
    element = _used(file, rng)
    size = len(element.value)
    length = _choose(rng, 0, size - 1, size + 1, size - 2, size + 2, 0xFFFF, _UNDEFINED)
    if rng.integers(2):
        return file.replaced(dataclasses.replace(element, length=max(length, 0)), at=element)
    value = _choose(rng, b"", element.value + b"\0")
    return file.replaced(dataclasses.replace(element, value=value), at=element)


def nested(file: File, rng: np.random.Generator) -> File:
    """Sequences in sequences, of stated and undefined lengths, some without an end.

    The innermost item holds elements that decide on the picture, as an icon does.
    """
    content = b"".join(
        file.encoded(e)
        for e in file.elements
        if e.tag in (0x00280010, 0x00280011, 0x00281050, 0x00281051, 0x00280101)
    )
    fault = rng.integers(5)  # 3 and more: none
    depth = int(rng.integers(1, 30))
    for level in range(depth):
        damaged = level == depth // 2
        if rng.integers(2):
            end = b"" if damaged and fault == 0 else file.marker(_ITEM_END)
            item = file.marker(_ITEM, _UNDEFINED) + content + end
        else:
            wrong = 8 if damaged and fault == 1 else 0
            item = file.marker(_ITEM, len(content) + wrong) + content
        if rng.integers(2):
            end = b"" if damaged and fault == 2 else file.marker(_SEQUENCE_END)
            sequence = Element(_BEFORE_PIXELS, b"SQ", item + end, _UNDEFINED)
        else:
            sequence = Element(_BEFORE_PIXELS, b"SQ", item)
        content = file.encoded(sequence)
    item = file.marker(_ITEM, len(content)) + content
    if rng.integers(2):
        return file.added(Element(_BEFORE_PIXELS, b"SQ", item))
    end = file.marker(_SEQUENCE_END)
    return file.added(Element(_BEFORE_PIXELS, b"SQ", item + end, _UNDEFINED))


def wrong_bits(file: File, rng: np.random.Generator) -> File:
    """The numbers of bits, the sign or the samples are not those of the pixels."""
    stored = _choose(rng, 7, 8, 9, 10, 11, 13, 14, 15, 16, 0, 24)
    return _choose(
        rng,
        file.with_numbers(BitsStored=stored, HighBit=stored - 1),
        file.with_numbers(BitsStored=stored),
        file.with_numbers(HighBit=_choose(rng, 0, 7, 10, 12, 15)),
        file.with_numbers(BitsAllocated=_choose(rng, 1, 8, 12, 16, 32)),
        file.with_numbers(PixelRepresentation=_choose(rng, 1, 2, 0x100)),
        file.with_numbers(PixelRepresentation=1),
        file.with_numbers(SamplesPerPixel=_choose(rng, 0, 2, 3)),
    )


def odd_window(file: File, rng: np.random.Generator) -> File:
    """A window that is half there, no number, or written in an unusual way."""
    keyword = _choose(rng, "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept")
    element = file.get(keyword)
    if element is None:  # half a window or rescaling
        text = _choose(rng, b"100 ", b"", b"NaN ", b"0 ")
        return file.added(Element(tag_for_keyword(keyword) or 0, b"DS", text))
    number = element.value.strip()
    texts = [
        *(b"", b" ", b"\\", b"\\" + number, b"NaN", b"inf", b"-inf", b"1e400", b"0x7D0"),
        *(number + b"\\", number + b"\\7", b" " + number, b"+" + number, number + b".0"),
        *(number + b",5", number.replace(b"0", b"O"), number + b"\0", number[:1] + b" 0"),
        *(number + b"e0", number + b"...", b"000" + number),
    ]
    if keyword == "WindowWidth":
        texts += [b"0", b"-1", b"1e-9", b"-" + number]
    text = texts[rng.integers(len(texts))]
    changed = dataclasses.replace(element, value=text + b" " * (len(text) % 2))
    return file.replaced(changed if rng.integers(4) else None, at=element)


def with_table(file: File) -> File:
    """The file with a VOI LUT of 12 bits that darkens."""
    return _tabled(file, _described(file, _descriptor(file), _entries(file)))


def _described(file: File, descriptor: Element, data: bytes, vr: bytes = b"OW") -> bytes:
    """The content of a table's item."""
    return file.encoded(descriptor) + file.encoded(Element(0x00283006, vr, data))


def _descriptor(file: File, vr: bytes = b"US", **changed: int) -> Element:
    """The numbers of entries, of the first value that is mapped, and of bits."""
    numbers = {"entries": _bright(file), "first": 0, "bits": 12} | changed
    return Element(0x00283002, vr, file.pack("3H", *numbers.values()))


def _bright(file: File) -> int:
    return 1 << (8 if file.syntax == uid.JPEGBaseline8Bit else 12)


def _entries(file: File) -> bytes:
    values = np.round(np.linspace(0, 1, _bright(file)) ** 2 * 4095).astype(int)
    return file.pack(f"{len(values)}H", *values.tolist())


def _tabled(file: File, *contents: bytes) -> File:
    """The file with a VOI LUT sequence of these items."""
    items = b"".join(file.marker(_ITEM, len(content)) + content for content in contents)
    return file.added(Element(tag_for_keyword("VOILUTSequence") or 0, b"SQ", items))


def odd_table(file: File, rng: np.random.Generator) -> File:
    """A table that its descriptor does not describe, or that is written in an unusual way."""
    data, right = _entries(file), _descriptor(file)
    size = len(data) // 2
    entries = _choose(rng, 0, 1, 255, 257, size // 2, size - 1, size + 1, 65535)
    bits = _choose(rng, 0, 1, 8, 10, 11, 13, 14, 15, 16, 17, 255)
    other = _choose(rng, data[:-2], data + data[-2:], data[: len(data) // 2], data[::2], b"")
    cut = dataclasses.replace(right, value=right.value[: 2 * rng.integers(3)])
    whole = _described(file, right, data)
    contents = (
        [_described(file, _descriptor(file, entries=entries), data)],
        [_described(file, _descriptor(file, bits=bits), data)],
        [_described(file, right, other)],
        [_described(file, cut, data)],
        [_described(file, right, data, b"US")],
        [_described(file, _descriptor(file, b"SS"), data)],
        [b"", whole],
        [whole, whole],
    )
    choice = rng.integers(len(contents) + 1)
    if choice < len(contents):
        return _tabled(file, *contents[choice])
    sequence = file.marker(_ITEM, _UNDEFINED) + whole + file.marker(_ITEM_END)
    tag = tag_for_keyword("VOILUTSequence") or 0
    return file.added(Element(tag, b"SQ", sequence + file.marker(_SEQUENCE_END), _UNDEFINED))


def _fragments(file: File) -> tuple[Element, list[bytes]]:
    pixels = file.elements[-1]
    _, *fragments = generate_fragments(pixels.value)
    return pixels, fragments


def _encapsulated(file: File, offsets: bytes, fragments: list[bytes]) -> File:
    pixels = file.elements[-1]
    items = (file.marker(_ITEM, len(f)) + f for f in (offsets, *fragments))
    return file.replaced(dataclasses.replace(pixels, value=b"".join(items)), at=pixels)


def offset_table(file: File, rng: np.random.Generator) -> File:
    """A basic or extended offset table that points elsewhere, or to more than one frame."""
    _, fragments = _fragments(file)
    size = len(fragments[0])
    offsets = _choose(rng, [0], [8], [size], [0, 0], [0, size], [2**32 - 1], [1], [0] * 1000)
    table = struct.pack(f"<{len(offsets)}I", *offsets)
    if rng.integers(3) == 0:
        long = struct.pack(f"<{len(offsets)}Q", *offsets)
        lengths = struct.pack("<Q", _choose(rng, size, size - 1, 2**60))
        extended = (Element(0x7FE00001, b"OV", long), Element(0x7FE00002, b"OV", lengths))
        return file.added(*extended)
    return _encapsulated(file, _choose(rng, table, table, table[:-1], table + b"\0\0"), fragments)


def fragments(file: File, rng: np.random.Generator) -> File:
    """Fragments that are split, empty, lost, repeated or in another order."""
    _, [code] = _fragments(file)
    cuts = sorted({int(n) // 2 * 2 for n in rng.integers(len(code), size=rng.integers(1, 6))})
    parts = [code[a:b] for a, b in zip([0, *cuts], [*cuts, len(code)], strict=True) if a < b]
    kind = rng.integers(7)
    at = int(rng.integers(len(parts)))
    if kind == 0:
        parts.insert(at, b"")
    elif kind == 1:
        del parts[at]
    elif kind == 2:
        parts.insert(at, parts[at])
    elif kind == 3:
        parts = [parts[n] for n in rng.permutation(len(parts))]
    elif kind == 4:
        parts = [*parts, *parts]
    elif kind == 5:
        parts[at] = parts[at][:-2]
    changed = _encapsulated(file, b"", parts)
    if rng.integers(8) == 0:  # without an end
        pixels = changed.elements[-1]
        return changed.replaced(dataclasses.replace(pixels, length=len(pixels.value)), at=pixels)
    return changed


def padding(file: File, rng: np.random.Generator) -> File:
    """Bytes after the pixels, and padding values that no pixel has or that are half there."""
    pixels = file.elements[-1]
    kind = rng.integers(5)
    if kind == 0:
        extra = _choose(rng, b"\0", b"\0\0", b"\xff", b" ", b"\xcc\xcc", bytes(100))
        return file.replaced(dataclasses.replace(pixels, value=pixels.value + extra), at=pixels)
    if kind == 1:
        trailing = _choose(
            rng,
            Element(0xFFFCFFFC, b"OB", bytes(rng.integers(200))),
            Element(0xFFFCFFFC, b"OB", b"", 1000),
            Element(0xFFFEE0DD, b"OB", b""),
            pixels,
            Element(0x7FE10010, b"OW", pixels.value[:100]),
        )
        return dataclasses.replace(file, elements=(*file.elements, trailing))
    numbers = file.pack("H", _choose(rng, 0xFFFF, 0x8000, 0xF800, 0x7FFF))
    vr = _choose(rng, b"US", b"SS", b"OW", b"UL", b"DS")
    value = Element(0x00280120, vr, _choose(rng, numbers, numbers * 2, b"", numbers[:1]))
    limit = Element(0x00280121, vr, _choose(rng, numbers, b""))
    if kind == 2:
        return file.added(value)
    return file.added(limit) if kind == 3 else file.added(value, limit)


FAULTS: dict[str, Fault] = {
    "swapped tags": swapped_tags,
    "wrong VR": wrong_vr,
    "wrong length": wrong_length,
    "nested sequences": nested,
    "wrong bits": wrong_bits,
    "window": odd_window,
    "lookup table": odd_table,
    "offset table": offset_table,
    "fragments": fragments,
    "padding": padding,
}
"""Kinds of faults by name."""


def kinds(file: File) -> list[str]:
    """The kinds of faults that a file can have."""
    impossible = {
        "wrong VR": file.syntax.is_implicit_VR,
        "lookup table": file.get("VOILUTSequence") is None,
        "offset table": not file.syntax.is_encapsulated,
        "fragments": not file.syntax.is_encapsulated,
    }
    return [kind for kind in FAULTS if not impossible.get(kind)]
