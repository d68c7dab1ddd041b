"""Files that show the same picture, and the patients that they connect."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from femur_jax.data.pyramid import shrink
from femur_jax.data.spool import FileFacts


@dataclass(frozen=True)
class Duplicate:
    """A file that is left out because another one shows the same.

    Attributes:
        position: Position of the file that is left out.
        original: Position of the file that is kept.
        reason: Common property: 'pixels', 'instance' (SOP Instance UID), or 'acquisition' (the file
            that is kept was processed for presentation from this one).
    """

    position: int
    original: int
    reason: str


@dataclass(frozen=True)
class DuplicateSearch:
    """Result of a search for files that show the same.

    Attributes:
        duplicates: Files to leave out.
        conflicts: Positions of files that show one picture under both labels.
        connected: Disjoint sets of patients who share a picture or an acquisition.
    """

    duplicates: list[Duplicate]
    conflicts: list[int]
    connected: list[set[str]]


def find_duplicates(files: Sequence[FileFacts], patients: Sequence[str]) -> DuplicateSearch:
    """Searches for files that show the same; the first file of each picture is kept.

    A picture for presentation is preferred to the one for processing that it was made from.

    Args:
        files: Facts about each file.
        patients: Patient of each file in the label table.
    """
    keys = [_keys(facts) for facts in files]
    groups = [group for group in components(keys) if len(group) > 1]
    result = DuplicateSearch([], [], [])
    for group in groups:
        if len({files[n].entry.label for n in group}) > 1:
            result.conflicts.extend(group)
            continue
        kept: list[int] = []
        for n in sorted(group, key=lambda n: files[n].entry.source.intent == "processing"):
            same = next((d for d in (_duplicate(files, n, k) for k in kept) if d), None)
            if same:
                result.duplicates.append(same)
            else:
                kept.append(n)
    shared = [{patients[n] for n in group} for group in groups]
    several = [people for people in shared if len(people) > 1]
    for group in components(several):
        result.connected.append(set().union(*(several[n] for n in group)))
    return result


def _keys(facts: FileFacts) -> list[tuple[str, str]]:
    instances = {facts.instance, *facts.made_from} - {""}
    return [("pixels", facts.entry.sha256), *(("instance", uid) for uid in sorted(instances))]


def _duplicate(files: Sequence[FileFacts], n: int, kept: int) -> Duplicate | None:
    a, b = files[n], files[kept]
    if a.entry.sha256 == b.entry.sha256:
        return Duplicate(n, kept, "pixels")
    if a.instance and a.instance == b.instance:
        return Duplicate(n, kept, "instance")
    if a.entry.source.intent == "processing" and a.instance in b.made_from:
        return Duplicate(n, kept, "acquisition")
    return None


def components(keys: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Groups positions that share a key, directly or through others; each in rising order."""
    numbers = {key: n for n, key in enumerate(dict.fromkeys(k for some in keys for k in some))}
    edges = np.array([(n, len(keys) + numbers[key]) for n, some in enumerate(keys) for key in some])
    size = len(keys) + len(numbers)
    rows, columns = edges.T if len(edges) else np.zeros((2, 0), int)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for position in range(len(keys)):
        groups.setdefault(int(component[position]), []).append(position)
    return list(groups.values())


def perceptual_hash(pixels: UInt16[np.ndarray, "height width"]) -> int:
    """64 bits that hardly change when a picture is scaled, brightened or compressed.

    Each bit compares one of the 8 x 8 lowest frequencies of a cosine transform with their median
    (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, 3.2.1).
    """
    step = max(1, max(pixels.shape) // 256)  # low frequencies need no more pixels
    small = shrink(pixels[::step, ::step], (64, 64)).astype(np.float64)
    square = np.zeros((64, 64))
    square[: small.shape[0], : small.shape[1]] = small
    low = np.asarray(dctn(square))[1:9, 1:9]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def close_hashes(hashes: Sequence[int], *, most: int) -> list[tuple[int, int, int]]:
    """Pairs of positions whose hashes differ in at most `most` bits, with the number of bits."""
    codes = np.array(hashes, np.uint64)
    pairs = []
    for n in range(len(codes) - 1):
        distance = np.bitwise_count(codes[n + 1 :] ^ codes[n])
        pairs += [(n, n + 1 + int(m), int(distance[m])) for m in np.flatnonzero(distance <= most)]
    return pairs
