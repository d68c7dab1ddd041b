"""Which files show the same picture, and which patients that connects."""

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
    """One file that is left out for another.

    Attributes:
        position: Of the file.
        original: Position of the file that is kept.
        reason: What they share: 'pixels', 'instance' (the SOP Instance UID), or 'acquisition'
            (the one that is kept was processed for presentation from this one).
    """

    position: int
    original: int
    reason: str


@dataclass(frozen=True)
class DuplicateSearch:
    """What is the same among files.

    Attributes:
        duplicates: Files to leave out.
        conflicts: Positions of files that show one picture under both labels.
        connected: Sets of patients who share a picture, or an acquisition.
    """

    duplicates: list[Duplicate]
    conflicts: list[int]
    connected: list[set[str]]


def find_duplicates(files: Sequence[FileFacts], patients: Sequence[str]) -> DuplicateSearch:
    """Looks for files that show the same; of each picture the first file is kept.

    A picture for presentation is preferred to the one for processing that it was made from.

    Args:
        files: What was read of each file.
        patients: Who each file belongs to, by the label table.
    """
    keys = [_keys(facts) for facts in files]
    groups = [group for group in components(keys) if len(group) > 1]
    found = DuplicateSearch([], [], [])
    for group in groups:
        if len({files[n].entry.label for n in group}) > 1:
            found.conflicts.extend(group)
            continue
        kept: list[int] = []
        for n in sorted(group, key=lambda n: files[n].entry.source.intent == "processing"):
            same = next((d for d in (_duplicate(files, n, k) for k in kept) if d), None)
            if same:
                found.duplicates.append(same)
            else:
                kept.append(n)
    shared = [{patients[n] for n in group} for group in groups]
    several = [people for people in shared if len(people) > 1]
    for group in components(several):
        found.connected.append(set().union(*(several[n] for n in group)))
    return found


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
    names = {key: n for n, key in enumerate(dict.fromkeys(k for own in keys for k in own))}
    edges = np.array([(n, len(keys) + names[key]) for n, own in enumerate(keys) for key in own])
    size = len(keys) + len(names)
    rows, columns = edges.T if len(edges) else np.zeros((2, 0), int)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for position in range(len(keys)):
        groups.setdefault(int(component[position]), []).append(position)
    return list(groups.values())


def perceptual_hash(pixels: UInt16[np.ndarray, "height width"]) -> int:
    """64 bits that hardly change when a picture is scaled, brightened or compressed.

    Signs of the 8 x 8 lowest frequencies of a cosine transform, against their median (as in
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, 3.2.1).
    """
    step = max(1, max(pixels.shape) // 256)  # the low frequencies do not miss what is skipped
    small = shrink(pixels[::step, ::step], (64, 64)).astype(np.float64)
    square = np.zeros((64, 64))
    square[: small.shape[0], : small.shape[1]] = small
    low = np.asarray(dctn(square))[1:9, 1:9]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def close_hashes(hashes: Sequence[int], *, most: int) -> list[tuple[int, int, int]]:
    """Pairs of positions whose hashes differ in at most `most` bits, and in how many."""
    codes = np.array(hashes, np.uint64)
    pairs = []
    for n in range(len(codes) - 1):
        distance = np.bitwise_count(codes[n + 1 :] ^ codes[n])
        pairs += [(n, n + 1 + int(m), int(distance[m])) for m in np.flatnonzero(distance <= most)]
    return pairs
