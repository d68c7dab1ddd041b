"""Files that are either whole or absent, and the checksums that prove it.

SHA256SUMS holds the checksums of a folder's files, as sha256sum writes and checks them. Reading
50 GB again at each opening would take a minute, so the user's cache remembers a folder that was
found whole by its files' sizes and times of change; a file that was touched since is read again.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from femur_jax.errors import UserError

CHECKSUMS = "SHA256SUMS"


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file under another name and renames it, so that it is whole or absent."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files in a folder and below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    names = [path.relative_to(folder).as_posix() for path in files]
    lines = (f"{digest}  {name}\n" for name, digest in zip(names, _digests(files), strict=True))
    (folder / CHECKSUMS).write_text("".join(lines))


def verify_checksums(folder: Path, needed: Iterable[str]) -> None:
    """Checks that every file is there and as it was.

    Args:
        folder: The folder.
        needed: Files that must have a checksum, relative to the folder: the list of checksums
            may have been cut short.

    Raises:
        UserError: One is missing or changed; it is named.
    """
    sums = folder / CHECKSUMS
    try:
        *lines, end = sums.read_text().split("\n")
        expected = {folder / name: digest for digest, name in (li.split("  ", 1) for li in lines)}
    except (OSError, ValueError):
        raise _damaged(sums) from None
    if end:
        raise _damaged(sums)
    seen = hashlib.sha256(str(folder.resolve()).encode())
    for path, digest in expected.items():
        if not path.is_file():
            raise _damaged(path)
        status = path.stat()
        seen.update(f"{path.name} {digest} {status.st_size} {status.st_mtime_ns}\n".encode())
    if _is_known(seen.hexdigest()):
        return
    for path, digest in zip(expected, _digests(expected), strict=True):
        if digest != expected[path]:
            raise _damaged(path)
    if not expected.keys() >= {folder / name for name in needed}:
        raise _damaged(sums)
    _remember(seen.hexdigest())


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is missing or damaged; restore the folder from a copy, or make it again."
    )


def _is_known(state: str) -> bool:
    try:
        return (_cache() / state).exists()
    except (OSError, RuntimeError):
        return False


def _remember(state: str) -> None:
    """Without a cache, or a home to have it in, the next opening reads everything once more."""
    with contextlib.suppress(OSError, RuntimeError):
        _cache().mkdir(parents=True, exist_ok=True)
        (_cache() / state).touch()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "femur_jax/verified"


def _digests(files: Iterable[Path]) -> list[str]:
    paths = list(files)
    total = sum(path.stat().st_size for path in paths)
    with (
        ThreadPoolExecutor() as pool,
        # Seen only where it takes a while.
        tqdm(desc="checksums", total=total, unit="B", unit_scale=True, delay=10) as bar,
    ):

        def digest(path: Path) -> str:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            bar.update(path.stat().st_size)
            return found

        return list(pool.map(digest, paths))
