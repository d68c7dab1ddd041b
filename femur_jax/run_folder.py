"""The folder of a run: it belongs to one config, and to one run at a time."""

import fcntl
import hashlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from femur_jax.errors import UserError
from femur_jax.files import write_atomically
from femur_jax.parallel.distributed import texts_of_all

_CONFIG = "config.json"
_LEASE_SECONDS = 150.0  # a file server notices after about 90 that a node has died

_locks: dict[Path, int] = {}  # file descriptors, open until the process ends


def claim(
    workdir: Path,
    config: ConfigDict,
    *,
    stage: str,
    free: Sequence[str] = (),
    hidden: Sequence[str] = (),
) -> None:
    """Makes the folder a config's own, or checks that it is, until this process ends.

    The lock is the kernel's (flock), which releases it however the process ends. On NFS it holds
    across machines; on a file system without locks (some mounts of Lustre) nothing is refused, and
    one line says so.

    Args:
        workdir: The folder, made where it does not exist.
        config: Everything that the run's results follow from.
        stage: What the run does there; others may do other stages at the same time.
        free: Top-level fields that may differ from call to call.
        hidden: Top-level fields that are written as a digest: paths may name a patient.

    Raises:
        UserError: The folder holds the run of another config, is in use, or cannot be written; or
            the processes of this run differ in it or in the config.
    """
    if jax.process_count() > 1:
        _check_same_everywhere(workdir, config)
    if jax.process_index() == 0:
        _claim(workdir, config, stage, free, hidden)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"claim {workdir}")


def _check_same_everywhere(workdir: Path, config: ConfigDict) -> None:
    texts = texts_of_all(json.dumps([str(workdir), config.to_dict()]))
    for number, text in enumerate(texts):
        if text != texts[0]:
            (folder, fields), (other_folder, other_fields) = map(json.loads, (texts[0], text))
            names = _differences(fields, other_fields)
            names += ["--workdir"] * (folder != other_folder)
            raise UserError(
                f"Process {number} was started with another command or another version of a "
                f"config file than process 0 (they differ in {', '.join(names)}); start all "
                "processes with the same."
            )


def _claim(
    workdir: Path, config: ConfigDict, stage: str, free: Sequence[str], hidden: Sequence[str]
) -> None:
    text = _canonical(config, free, hidden)
    file = workdir / _CONFIG
    if file.is_file() and file.read_text() != text:
        names = ", ".join(_differences(json.loads(file.read_text()), json.loads(text)))
        raise UserError(
            f"{workdir} holds a run of another config (it differs in {names}); "
            "name another --workdir, or delete the folder."
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _lock(workdir / f"{stage}.lock")
        if not file.is_file():
            write_atomically(file, text)
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be written ({error.strerror}); name another --workdir."
        ) from None


def _lock(file: Path) -> None:
    """Takes a lock until this process ends.

    Raises:
        UserError: Another process has it.
        OSError: The file cannot be written.
    """
    if file.absolute() in _locks:
        return
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    # A job that comes back after its node has died may find the lock of the dead.
    patience = _LEASE_SECONDS if "SLURM_RESTART_COUNT" in os.environ else 0.0
    if not _taken(lock, file, until=time.monotonic() + patience):
        holder = os.read(lock, 1000).decode().strip()
        os.close(lock)
        raise UserError(
            f"{file.parent} is in use by another run of this stage ({holder}); wait for its end, "
            "or name another --workdir."
        )
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _locks[file.absolute()] = lock


def _taken(lock: int, file: Path, *, until: float) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(1.0)
        except OSError:
            print(
                f"femur_jax: the file system of {file} has no locks; see to it that no second run "
                "uses this folder.",
                file=sys.stderr,
            )
            return True


def config_of(workdir: Path) -> ConfigDict:
    """The config that a folder belongs to, without its free fields.

    Raises:
        UserError: It belongs to none.
    """
    file = workdir / _CONFIG
    if not file.is_file():
        raise UserError(f"{workdir} holds no run ({_CONFIG} is missing); name another folder.")
    return ConfigDict(json.loads(file.read_text()))


def config_hash(config: ConfigDict) -> str:
    """Names a config in twelve hexadecimal digits."""
    return hashlib.sha256(_canonical(config, ()).encode()).hexdigest()[:12]


def keep_compiled(workdir: Path) -> None:
    """Keeps compiled functions in the folder, so that a restart need not compile again."""
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))


def _canonical(config: ConfigDict, free: Sequence[str], hidden: Sequence[str] = ()) -> str:
    fields = {name: value for name, value in config.to_dict().items() if name not in free}
    for name in hidden:
        fields[name] = hashlib.sha256(str(fields[name]).encode()).hexdigest()
    return json.dumps(fields, indent=1, sort_keys=True)


def _differences(old: dict, new: dict, prefix: str = "config") -> list[str]:
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}.{key}")
        elif a != b:
            names.append(f"{prefix}.{key}")
    return names
