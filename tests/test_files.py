import hashlib
import os
import pwd
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.files import locked, new_folder, verify_checksums, write_atomically, write_checksums

FILES = {"a.json": b"{}", "section/b": bytes(range(256)), "section/c d": b"", "other/b": b"b"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "folder"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_checksums(folder)
    return folder


def _sha256sum(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def _change_unseen(file: Path, content: bytes) -> None:
    """Changes a file but keeps its size and modification time."""
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("content", "written"), [("Örebro\n", "Örebro\n".encode()), (b"\0\xff", b"\0\xff")]
)
def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path, content, written):
    path = tmp_path / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == written and list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_private_from_its_first_byte(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []

    def watch(partial: Path, target: Path) -> None:
        seen.append((stat.S_IMODE(partial.stat().st_mode), target.read_text()))
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", watch)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert seen == [(0o600, "old")] and list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """After a power cut, a name that was written first would belong to an empty file."""
    calls = []

    def recorded(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: (calls.append(name), original(*args))[1])

    for module, name in ((os, "fsync"), (Path, "replace"), (os, "link")):
        recorded(module, name)
    write_atomically(tmp_path / "a", "new")
    write_atomically(tmp_path / "b", "new", replace=False)
    with new_folder(tmp_path / "folder") as partial:
        (partial / "c").write_text("new")
    assert calls == [
        *("fsync", "replace", "fsync"),
        *("fsync", "link", "fsync"),
        *("fsync", "fsync", "replace", "fsync"),
    ]


def test_the_first_of_several_files_stays(tmp_path):
    for content in ("first", "second"):
        write_atomically(tmp_path / "file", content, replace=False)
    assert (tmp_path / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_first_of_several_files_stays_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")  # as on exFAT

    monkeypatch.setattr(os, "link", refuse)
    test_the_first_of_several_files_stays(tmp_path)


def test_one_process_at_a_time_writes_a_folder(tmp_path):
    folder = tmp_path / "folder"
    with new_folder(folder) as partial:
        (partial / "file").write_text("whole")
        with pytest.raises(UserError, match=r"Another process is writing .*folder; wait"):
            new_folder(folder).__enter__()
    assert (folder / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [folder]


def test_the_lock_of_a_killed_process_is_open(tmp_path):
    (tmp_path / "folder.lock").touch()
    with locked(tmp_path / "folder.lock", tmp_path / "folder"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_appears_when_it_is_complete(tmp_path):
    folder, partial = tmp_path / "above" / "new", tmp_path / "above" / "new.partial"
    partial.mkdir(parents=True)
    (partial / "left").write_text("by a killed process")
    with pytest.raises(KeyboardInterrupt), new_folder(folder):
        raise KeyboardInterrupt
    assert not folder.exists() and not partial.exists()
    with new_folder(folder) as writable:
        (writable / "file").write_text("")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["file"] and not partial.exists()
    with pytest.raises(UserError, match="new exists; remove it"), new_folder(folder):
        pass


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_what_is_written_is_private_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "above" / "new") as folder:
            (folder / "section").mkdir()
            (folder / "section" / "file").write_text("")
            subprocess.run(["touch", folder / "by another process"], check=True)
        write_atomically(tmp_path / "above" / "file", "")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    for path in (tmp_path / "above").rglob("*"):
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    assert stat.S_IMODE((tmp_path / "above").stat().st_mode) == 0o700


def test_sha256sum_writes_the_same_and_agrees(folder):
    names = sorted(FILES)
    run = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True)
    assert (folder / "SHA256SUMS").read_text() == run.stdout
    assert _sha256sum(folder).stdout.splitlines() == [f"{name}: OK" for name in names]
    (folder / "other/b").write_bytes(b"c")
    assert _sha256sum(folder).returncode == 1


def test_a_new_folder_with_checksums_need_not_be_read_again(tmp_path):
    folder = tmp_path / "new"
    with new_folder(folder, checksums=True) as partial:
        (partial / "section").mkdir()
        (partial / "section" / "b").write_bytes(bytes(range(256)))
    assert _sha256sum(folder).stdout.splitlines() == ["section/b: OK"]
    _change_unseen(folder / "section/b", bytes(256))
    verify_checksums(folder, ["section/b"])
    (folder / "section/b").touch()
    with pytest.raises(UserError, match="section/b"):
        verify_checksums(folder, ["section/b"])


def test_what_sha256sum_wrote_is_accepted(folder):
    run = subprocess.run(["sha256sum", *FILES], cwd=folder, capture_output=True, text=True)
    (folder / "SHA256SUMS").write_text(run.stdout)
    verify_checksums(folder, FILES)


@pytest.mark.parametrize("name", FILES)
def test_each_damaged_file_is_named(folder, name):
    verify_checksums(folder, FILES)
    file, whole = folder / name, FILES[name]
    for content in (whole[:-1], whole + b"\0", bytes([*whole[:-1], 255 - (whole or b"\0")[-1]])):
        if content != whole:
            file.write_bytes(content)
            with pytest.raises(UserError, match=f"{file} is missing or damaged"):
                verify_checksums(folder, FILES)
    file.unlink()
    with pytest.raises(UserError, match=f"{file} is missing or damaged"):
        verify_checksums(folder, FILES)
    file.write_bytes(whole)
    verify_checksums(folder, FILES)


def test_a_damaged_list_is_named(folder):
    verify_checksums(folder, FILES)
    file = folder / "SHA256SUMS"
    lines = file.read_bytes().splitlines(keepends=True)
    whole = b"".join(lines)
    for damaged in (
        b"",
        whole[:-1],
        whole[:90],
        b"".join(lines[:-1]),
        b"".join(lines[1:]),
        b"text\n",
        b"\xff\xfe\n",
    ):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{file} is missing or damaged"):
            verify_checksums(folder, FILES)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=f"{file} is missing or damaged"):
        verify_checksums(folder, ())
    file.unlink()
    with pytest.raises(UserError, match=f"{file} is missing or damaged"):
        verify_checksums(folder, FILES)


def test_no_changed_byte_of_the_list_is_accepted(folder):
    file = folder / "SHA256SUMS"
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is missing or damaged"):
            verify_checksums(folder, FILES)


def test_a_verified_folder_is_not_read_again(folder):
    """A change that keeps size and time goes unnoticed: the price of opening 50 GB quickly."""
    verify_checksums(folder, FILES)
    _change_unseen(folder / "section/b", bytes(256))
    verify_checksums(folder, FILES)
    (folder / "section/b").touch()
    with pytest.raises(UserError, match="section/b"):
        verify_checksums(folder, FILES)


def test_a_damaged_folder_is_read_again(folder):
    _change_unseen(folder / "section/b", bytes(256))
    for _ in range(2):
        with pytest.raises(UserError, match="section/b"):
            verify_checksums(folder, FILES)


def test_each_folder_is_remembered_separately(folder, tmp_path):
    verify_checksums(folder, FILES)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", folder, copy], check=True)
    _change_unseen(copy / "section/b", bytes(256))
    with pytest.raises(UserError, match="copy/section/b"):
        verify_checksums(copy, FILES)


def test_the_cache_lies_in_the_users_cache_folder(folder, cache, tmp_path, monkeypatch):
    verify_checksums(folder, FILES)
    assert len(list((cache / "femur_jax" / "verified").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    verify_checksums(folder, FILES)
    assert len(list((tmp_path / "home/.cache/femur_jax/verified").iterdir())) == 1


def _assert_read_each_time(folder: Path) -> None:
    verify_checksums(folder, FILES)
    _change_unseen(folder / "section/b", bytes(256))
    with pytest.raises(UserError, match="section/b"):
        verify_checksums(folder, FILES)


def test_works_without_a_cache_folder(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    _assert_read_each_time(folder)


def test_works_without_a_home(folder, monkeypatch):
    """A container's user may have no line in /etc/passwd."""

    def nobody(uid: int):
        raise KeyError(uid)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RuntimeError):
        Path.home()
    _assert_read_each_time(folder)


@pytest.mark.parametrize("call", ["stat", "mkdir"])
def test_works_with_a_forbidden_cache(folder, cache, monkeypatch, call):
    """Root ignores permissions, so the refusal is simulated."""
    original = getattr(os, call)

    def refuse(path, *args, **kwargs):
        if str(path).startswith(str(cache)):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, call, refuse)
    _assert_read_each_time(folder)


def test_large_files_are_read_to_their_end(tmp_path):
    content = np.random.default_rng(0).bytes(5 << 20)
    (tmp_path / "large").write_bytes(content)
    write_checksums(tmp_path)
    expected = f"{hashlib.sha256(content).hexdigest()}  large\n"
    assert (tmp_path / "SHA256SUMS").read_text() == expected
    (tmp_path / "large").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="large"):
        verify_checksums(tmp_path, ["large"])
