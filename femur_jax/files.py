"""Files and folders that are either complete or absent, and the checksums that prove it.

Both are private, since most of them show patients: files have mode 0600 and folders 0700, whatever
the umask.

SHA256SUMS holds the checksums of a folder's files in the format of sha256sum. Reading 50 GB at each
opening would take a minute, so the user's cache remembers a verified folder by the sizes and
modification times of its files. A folder is read again when one of its files was touched since.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from femur_jax.errors import UserError
from femur_jax.progress import Progress

CHECKSUMS = "SHA256SUMS"

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


def write_atomically(
    path: Path,
    content: str | bytes | Sequence[bytes],
    *,
    replace: bool = True,
    sync: bool = True,
) -> None:
    """Writes a private file under a temporary name and renames it when it is complete.

    Args:
        path: Path of the file.
        content: Text, written as UTF-8, or bytes, in one piece or several.
        replace: Whether an existing file is replaced; otherwise it stays as it is.
        sync: Whether the file survives a power cut, which takes some milliseconds. Without it, a
            reader needs a checksum.
    """
    text = content.encode() if isinstance(content, str) else content
    pieces = [text] if isinstance(text, bytes) else text
    # Several processes may write the same file, such as a report.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # left by a killed process with this id
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.writelines(pieces)
        if sync:
            _sync(partial)
        if replace:
            partial.replace(path)
        else:
            _name_once(partial, path)
        if sync:
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _name_once(partial: Path, path: Path) -> None:
    """Gives a file its name unless another file has it, also where several processes do so."""
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links, such as exFAT
        if not path.exists():
            partial.replace(path)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for a folder.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def has_content(file: Path) -> bool:
    """Whether there is a file that is not empty, as one that was lost in a power cut may be."""
    return file.is_file() and file.stat().st_size > 0


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that led to it, says that no space is left on a disk."""
    texts = [os.strerror(number) for number in _NO_SPACE]
    while error is not None:
        # Libraries in other languages say so in the text alone.
        if getattr(error, "errno", None) in _NO_SPACE or any(t in str(error) for t in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


def as_user_error(error: Exception) -> Exception:
    """A UserError where the disk is full; otherwise the exception itself."""
    if isinstance(error, UserError) or not is_disk_full(error):
        return error
    return UserError(
        "The disk is full, or a limit on its use is reached; free some space and run the command "
        "again."
    )


def require_absent(folder: Path) -> None:
    """Refuses to write to a folder that exists.

    Raises:
        UserError: The folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; remove it or name another folder.")


@contextlib.contextmanager
def new_folder(folder: Path, *, checksums: bool = False) -> Iterator[Path]:
    """Yields a folder to fill, which takes its name when the block ends without an exception.

    The folder and all that is written in the block are private. After an exception nothing is left
    behind.

    Args:
        folder: Path of the folder.
        checksums: Whether SHA256SUMS is written at the end. `verify_checksums` then need not read
            the files once more.

    Raises:
        UserError: The folder exists, or another process is writing it.
    """
    make_folder(folder.parent)
    partial = folder.with_name(f"{folder.name}.partial")
    with for_owner_only(), locked(folder.with_name(f"{folder.name}.lock"), folder):
        require_absent(folder)
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        partial.mkdir()
        try:
            yield partial
            with ThreadPoolExecutor() as pool:
                synced = pool.map(_sync, [*partial.rglob("*")])
                if checksums:  # computed while the disk is busy
                    write_checksums(partial)
                    _sync(partial / CHECKSUMS)
                list(synced)
            _sync(partial)
            partial.replace(folder)
            _sync(folder.parent)
            if checksums:
                _remember(_state(folder, _expected(folder)))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def locked(lock: Path, folder: Path) -> Iterator[None]:
    """Holds a lock file, which exists only as long, while a folder is written.

    The lock is the kernel's (flock), which releases it however the process ends. On a file system
    without locks nothing is refused.

    Raises:
        UserError: Another process holds the lock.
    """
    busy = UserError(f"Another process is writing {folder}; wait for it, or end it.")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass
        # Another process may have ended, and removed the file, after it was opened here.
        if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
            raise busy
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


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
    expected = _expected(folder)
    state = _state(folder, expected)
    if _is_known(state):
        return
    for path, digest in zip(expected, _digests(expected), strict=True):
        if digest != expected[path]:
            raise _damaged(path)
    if not expected.keys() >= {folder / name for name in needed}:
        raise _damaged(folder / CHECKSUMS)
    _remember(state)


def _expected(folder: Path) -> dict[Path, str]:
    """The checksum of each file, as SHA256SUMS states it."""
    sums = folder / CHECKSUMS
    try:
        *lines, end = sums.read_text().split("\n")
        expected = {folder / name: digest for digest, name in (li.split("  ", 1) for li in lines)}
    except (OSError, ValueError):
        raise _damaged(sums) from None
    if end or not lines:
        raise _damaged(sums)
    return expected


def _state(folder: Path, expected: Mapping[Path, str]) -> str:
    """A digest of the folder's path and its files' checksums, sizes and modification times."""
    seen = hashlib.sha256(str(folder.resolve()).encode())
    for path, digest in expected.items():
        if not path.is_file():
            raise _damaged(path)
        status = path.stat()
        seen.update(f"{path.name} {digest} {status.st_size} {status.st_mtime_ns}\n".encode())
    return seen.hexdigest()


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
