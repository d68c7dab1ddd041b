"""Run directories: each belongs to one config, and to one process group at a time.

WORKDIR/config.json     whole config of the run, from which later stages start
WORKDIR/STAGE.lock      lock of a stage that is running
WORKDIR/compiled/       compiled functions, so that a restart need not compile again
"""

import fcntl
import hashlib
import importlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from femur_jax.errors import UserError
from femur_jax.files import has_content, write_atomically
from femur_jax.parallel.distributed import texts_of_all

_CONFIG = "config.json"
_LEASE_SECONDS = 150.0  # a file server notices after about 90 that a node has died

_HIDDEN = "hmac-sha256:"
"""Beginning of the text that stands for a hidden field in config.json."""

_FAMILIES = {"diffusion": "patch_diffusion", "gan": "gan", "classifier": "classifier"}
"""Modules of `configs` by the task of their models."""

_locks: dict[Path, int] = {}  # file descriptors, open until the process ends


def claim(
    workdir: Path,
    config: ConfigDict,
    *,
    stage: str,
    free: Sequence[str] = (),
    hidden: Mapping[str, Callable[[str], str]] | None = None,
    keep_free: bool = False,
) -> None:
    """Claims a run directory for a config and a stage, until this process ends.

    The lock is the kernel's (flock), which releases it however the process ends. On NFS it holds
    across machines. On a file system without locks (some mounts of Lustre) nothing is refused, and
    one line says so.

    Args:
        workdir: Run directory, made where it does not exist.
        config: Whole config, from which the run's results follow.
        stage: Name of the stage that runs; other stages may run at the same time.
        free: Dotted names of fields that may differ from call to call, such as `train.steps`.
        hidden: Top-level fields that config.json holds as a keyed digest, since a path may name a
            patient, each with the function that makes its digest.
        keep_free: Whether config.json takes over the free fields of this call.

    Raises:
        UserError: The folder holds the run of another config, is in use, or cannot be written; or
            the processes of this run differ in it or in the config.
    """
    if jax.process_count() > 1:
        _check_same_everywhere(workdir, config)
    if jax.process_index() == 0:
        _claim(workdir, _as_written(config, hidden or {}), stage, free, keep_free)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"claim {workdir}")


def _check_same_everywhere(workdir: Path, config: ConfigDict) -> None:
    texts = texts_of_all(json.dumps([str(workdir), config.to_dict()]))
    for number, text in enumerate(texts):
        if text != texts[0]:
            (folder, fields), (other_folder, other_fields) = map(json.loads, (texts[0], text))
            names = [f"config.{name}" for name in _differences(fields, other_fields)]
            names += ["--workdir"] * (folder != other_folder)
            raise UserError(
                f"Process {number} was started with another command or another version of a "
                f"config file than process 0 (they differ in {', '.join(names)}); start all "
                "processes with the same."
            )


def _claim(
    workdir: Path, fields: dict[str, Any], stage: str, free: Sequence[str], keep_free: bool
) -> None:
    file = workdir / _CONFIG
    is_new = not has_content(file)
    if not is_new:
        changed = _differences(_read(file), fields)
        fixed = [name for name in changed if not _is_free(name, free)]
        if fixed:
            names = ", ".join(f"config.{name}" for name in fixed)
            raise UserError(
                f"{workdir} holds a run of another config (it differs in {names}); "
                "name another --workdir, or delete the folder."
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _lock(workdir / f"{stage}.lock")
        if is_new or keep_free:
            write_atomically(file, json.dumps(fields, indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be written ({error.strerror}); name another --workdir."
        ) from None


def _is_free(name: str, free: Sequence[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in free)


def _as_written(config: ConfigDict, hidden: Mapping[str, Callable[[str], str]]) -> dict[str, Any]:
    """The config's fields as JSON holds them, hidden ones as digests."""
    fields = json.loads(json.dumps(config.to_dict()))
    for name, digest in hidden.items():
        if fields[name] and not is_hidden(fields[name]):
            fields[name] = _HIDDEN + digest(fields[name])
    return fields


def is_hidden(value: str) -> bool:
    """Whether a field of a config that `load_config` has read is a digest in place of a path."""
    return value.startswith(_HIDDEN)


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


def load_config(workdir: Path) -> ConfigDict:
    """The config that a run directory belongs to, locked against unknown fields.

    Raises:
        UserError: The folder holds no run, or one of a version whose config had fewer fields.
    """
    file = workdir / _CONFIG
    if not has_content(file):
        raise UserError(f"{workdir} holds no run ({_CONFIG} is missing); name another folder.")
    fields = _read(file)
    if missing := _missing(_current(fields), fields):
        raise UserError(
            f"The run in {workdir} was made by an older version of this program: its config lacks "
            f"{', '.join(f'config.{name}' for name in missing)}; use that version, or begin a new "
            "run in another folder."
        )
    return ConfigDict(with_tuples(fields)).lock()


def _read(file: Path) -> dict[str, Any]:
    """The fields of a config.json."""
    try:
        return json.loads(file.read_text())
    except ValueError:
        raise UserError(
            f"{file} is damaged; restore it from a copy, or begin a new run in another folder."
        ) from None


def _current(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that this version gives to a config of the same model or to a study's config."""
    family = _FAMILIES.get(fields.get("task", ""), "study" if "grid" in fields else "")
    if not family:
        return {}
    return importlib.import_module(f"configs.{family}").get_config().to_dict()


def _missing(current: dict[str, Any], fields: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of missing fields; of a field without any of its own, only its name."""
    names = []
    for key, value in current.items():
        if key not in fields:
            names.append(f"{prefix}{key}")
        elif isinstance(value, dict) and isinstance(fields[key], dict):
            names += _missing(value, fields[key], f"{prefix}{key}.")
    return names


def with_tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were in the config."""
    if isinstance(value, dict):
        return {name: with_tuples(item) for name, item in value.items()}
    if isinstance(value, list):
        return tuple(with_tuples(item) for item in value)
    return value


def config_hash(config: ConfigDict, *, without: Sequence[str] = ()) -> str:
    """Twelve hexadecimal digits that identify a config.

    Args:
        config: Config of a run.
        without: Top-level fields that do not count, such as those that hold paths.
    """
    fields = {name: value for name, value in config.to_dict().items() if name not in without}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def keep_compiled(workdir: Path) -> None:
    """Keeps compiled functions in the run directory, so that a restart need not compile again.

    The environment variable JAX_COMPILATION_CACHE_DIR names another folder, which runs share.
    """
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Dotted names of the fields that differ."""
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}{key}.")
        elif json.dumps(a) != json.dumps(b):
            names.append(f"{prefix}{key}")
    return names
