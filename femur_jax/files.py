"""Files and folders that are either complete or absent, and the checksums that prove it.

Both are private, since most of them show patients: files have mode 0600 and folders 0700, whatever
the umask.

SHA256SUMS holds the checksums of a folder's files in the format of sha256sum. Reading 50 GB at each
opening would take a minute, so the user's cache remembers a verified folder by the sizes and
modification times of its files. A folder is read again when one of its files was touched since.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from femur_jax.errors import UserError
from femur_jax.progress import Progress

CHECKSUMS = "SHA256SUMS"


@contextlib.contextmanager
def for_owner_only() -> Iterator[None]:
    """Makes all files and folders private that this process, or one started here, creates."""
    umask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(umask)


def make_folder(folder: Path) -> None:
    """Makes a private folder and those above it, where they do not exist."""
    with for_owner_only():
        folder.mkdir(parents=True, exist_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a private file under a temporary name and renames it when it is complete.

    Args:
        path: The file, which is replaced where it exists.
        content: Text, written as UTF-8, or bytes.
    """
    data = content.encode() if isinstance(content, str) else content
    # Several processes may write the same file, such as a report.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # left by a killed process with this id
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def require_absent(folder: Path) -> None:
    """Refuses to write to a folder that exists.

    Raises:
        UserError: The folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; remove it or name another folder.")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill, which takes its name when the block ends without an exception.

    The folder and all that is written in the block are private. After an exception nothing is left
    behind.

    Raises:
        UserError: The folder exists.
    """
    require_absent(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    with for_owner_only():
        partial.mkdir(parents=True)
        try:
            yield partial
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files in a folder and below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    names = [path.relative_to(folder).as_posix() for path in files]
    lines = (f"{digest}  {name}\n" for name, digest in zip(names, _digests(files), strict=True))
    (folder / CHECKSUMS).write_text("".join(lines))


def verify_checksums(folder: Path, needed: Iterable[str]) -> None:
    """Checks that every file of a folder exists and is unchanged.

    Args:
        folder: A folder with SHA256SUMS.
        needed: Files that must have a checksum, relative to the folder. They reveal a
            SHA256SUMS that was cut off at the end of a line.

    Raises:
        UserError: A file is missing or changed. The message names it.
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
        f"{path} is missing or damaged; restore the folder from a copy, or create it again."
    )


def _is_known(state: str) -> bool:
    try:
        return (_cache() / state).exists()
    except (OSError, RuntimeError):
        return False


def _remember(state: str) -> None:
    """Remembers a verified folder; where no cache can be written, it is read again next time."""
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
        # The bar appears only after 10 seconds.
        Progress(desc="checksums", total=total, unit="B", unit_scale=True) as bar,
    ):

        def digest(path: Path) -> str:
            with path.open("rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            bar.update(path.stat().st_size)
            return checksum

        return list(pool.map(digest, paths))
