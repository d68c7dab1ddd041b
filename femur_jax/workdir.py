"""The folder of a run: it belongs to one config."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from femur_jax.config import Config
from femur_jax.errors import UserError
from femur_jax.files import write_atomically

_CONFIG = "config.json"


def claim(
    workdir: Path, config: Config, *, free: Sequence[str] = (), hidden: Sequence[str] = ()
) -> None:
    """Makes the folder a config's own, or checks that it is.

    Args:
        workdir: The folder, made where it does not exist.
        config: Everything that the run's results follow from.
        free: Top-level fields that may differ from call to call.
        hidden: Top-level fields that are written as a digest: paths may name a patient.

    Raises:
        UserError: The folder holds the run of another config, or cannot be written.
    """
    if jax.process_index() == 0:
        _claim(workdir, config, free, hidden)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"claim {workdir}")


def _claim(workdir: Path, config: Config, free: Sequence[str], hidden: Sequence[str]) -> None:
    text = _canonical(config, free, hidden)
    file = workdir / _CONFIG
    if file.is_file():
        if file.read_text() != text:
            names = ", ".join(_differences(json.loads(file.read_text()), json.loads(text)))
            raise UserError(
                f"{workdir} holds a run of another config (it differs in {names}); "
                "name another --workdir, or delete the folder."
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be written ({error.strerror}); name another --workdir."
        ) from None


def config_of(workdir: Path) -> Config:
    """The config that a folder belongs to, without its free fields.

    Raises:
        UserError: It belongs to none.
    """
    file = workdir / _CONFIG
    if not file.is_file():
        raise UserError(f"{workdir} holds no run ({_CONFIG} is missing); name another folder.")
    return ConfigDict(json.loads(file.read_text()))


def config_hash(config: Config) -> str:
    """Names a config in twelve hexadecimal digits."""
    return hashlib.sha256(_canonical(config, ()).encode()).hexdigest()[:12]


def keep_compiled(workdir: Path) -> None:
    """Keeps compiled functions in the folder, so that a restart need not compile again."""
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))


def _canonical(config: Config, free: Sequence[str], hidden: Sequence[str] = ()) -> str:
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
