"""Sends DICOM files to a PACS (C-STORE, PS3.4 B)."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category
from tqdm import tqdm

from femur_jax.errors import UserError

CONNECTION_SECONDS = 10
_STORED = ("Success", "Warning")
"""Categories of a status that mean that the file is stored (PS3.4 B.2.3)."""


def send(folder: Path, host: str, port: int, *, called: str, calling: str) -> tuple[int, int]:
    """Sends what a PACS does not have yet.

    Each file that the PACS has stored is noted at once in FOLDER.sent.csv beside the folder, so
    that a second run sends only the rest.

    Args:
        folder: Of DICOM files, *.dcm.
        host: Name or address of the PACS.
        port: Its DICOM port.
        called: Its application entity (AE) title.
        calling: The AE title that this side uses.

    Returns:
        Number of files sent, and of those that the PACS had before.

    Raises:
        UserError: There are no files, a file is no DICOM file, the PACS cannot be reached, or it
            refused files. What it has stored by then is noted.
    """
    headers = _read_headers(folder)
    peer = [called, host, str(port)]
    noted = folder.with_name(f"{folder.resolve().name}.sent.csv")
    had = _noted(noted, peer)
    waiting = {path: ds for path, ds in headers.items() if ds.SOPInstanceUID not in had}
    if not waiting:
        return 0, len(headers)
    if not 0 < port < 1 << 16:
        raise UserError(f"{port} is no port; give 1 to 65535, for instance 104 or 11112.")
    entity = AE(_title(calling))
    entity.connection_timeout = CONNECTION_SECONDS
    for sop_class in sorted({ds.SOPClassUID for ds in waiting.values()}):
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    where = f"The PACS {called} at {host}:{port}"
    try:
        association = entity.associate(host, port, ae_title=_title(called))
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a machine can be like that
        raise UserError(f"{where} cannot be found; correct the name or the port.") from error
    if association.is_rejected:
        raise UserError(
            f"{where} refused the connection; have it accept the AE title {calling}, or correct "
            "--aet."
        )
    if not association.is_established:
        raise UserError(f"{where} does not answer; correct the port, or start it.")
    try:
        refused = _send_all(association, waiting, noted, peer, where)
    except OSError as error:
        raise UserError(
            f"{noted} cannot be written ({error.strerror}); make room and run it again."
        ) from error
    finally:
        association.release()
    if refused:
        path, reason = refused[0]
        raise UserError(
            f"{where} refused {len(refused)} of {len(waiting)} files, the first of them "
            f"{path.name} ({reason}); mend that and run it again, which sends the rest."
        )
    return len(waiting), len(had & {ds.SOPInstanceUID for ds in headers.values()})


def _send_all(
    association: Association,
    waiting: dict[Path, Dataset],
    noted: Path,
    peer: Sequence[str],
    where: str,
) -> list[tuple[Path, str]]:
    """Sends files one by one; returns which were refused and why."""
    taken = {context.abstract_syntax for context in association.accepted_contexts}
    refused = []
    with noted.open("a", newline="") as file:
        for path, ds in tqdm(waiting.items(), "send", disable=None):
            if ds.SOPClassUID not in taken:
                refused.append((path, f"it takes no {ds.SOPClassUID.name}"))
                continue
            status = association.send_c_store(path)
            if "Status" not in status:
                raise UserError(
                    f"{where} stopped answering at {path.name}; run it again, which sends the rest."
                )
            if code_to_category(status.Status) in _STORED:
                csv.writer(file).writerow([*peer, ds.SOPInstanceUID])
                file.flush()
            else:
                _, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status.Status, ("", "unknown"))
                refused.append((path, f"status {status.Status:04X}: {meaning}"))
    return refused


def _read_headers(folder: Path) -> dict[Path, Dataset]:
    """What is needed of the header of each file, in the order of their names."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; export one with tools/export_dicom.py.")
    headers = {}
    for path in sorted(folder.glob("*.dcm")):
        try:
            headers[path] = dcmread(
                path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"]
            )
        except InvalidDicomError as error:
            raise UserError(f"{path} is no DICOM file; export the folder again.") from error
    if not headers:
        raise UserError(f"{folder} holds no file *.dcm; export it again.")
    return headers


def _noted(noted: Path, peer: list[str]) -> set[str]:
    """The SOP Instance UIDs that this PACS has stored."""
    if not noted.exists():
        return set()
    with noted.open(newline="") as file:
        return {uid for *to, uid in csv.reader(file) if to == peer}


def _title(title: str) -> str:
    """An AE title as the standard allows it (PS3.5 6.2).

    Raises:
        UserError: It is no such title.
    """
    if not (title.strip() and len(title) <= 16 and title.isascii() and title.isprintable()):
        raise UserError(f"{title!r} is no AE title; give 1 to 16 letters, digits and signs.")
    return title
