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

from femur_jax.errors import UserError
from femur_jax.progress import Progress

CONNECTION_SECONDS = 10
_STORED = ("Success", "Warning")
"""Status categories of a stored file (PS3.4 B.2.3)."""


def send(folder: Path, host: str, port: int, *, called: str, calling: str) -> tuple[int, int]:
    """Sends the files that a PACS does not have yet.

    Each file that the PACS has stored is recorded at once in FOLDER.sent.csv next to the folder,
    so that a second run sends only the rest.

    Args:
        folder: Folder of DICOM files, *.dcm.
        host: Name or address of the PACS.
        port: DICOM port of the PACS.
        called: Application entity (AE) title of the PACS.
        calling: AE title of the sender.

    Returns:
        Number of files sent, and number of files that the PACS had before.

    Raises:
        UserError: There are no files, a file is not a DICOM file, the PACS cannot be reached, or
            it refused files. The files stored until then are recorded.
    """
    headers = _read_headers(folder)
    peer = [called, host, str(port)]
    log = folder.with_name(f"{folder.resolve().name}.sent.csv")
    stored = _stored_uids(log, peer)
    waiting = {path: ds for path, ds in headers.items() if ds.SOPInstanceUID not in stored}
    if not waiting:
        return 0, len(headers)
    if not 0 < port < 1 << 16:
        raise UserError(f"{port} is not a port; use 1 to 65535, for instance 104 or 11112.")
    entity = AE(_title(calling))
    entity.connection_timeout = CONNECTION_SECONDS
    for sop_class in sorted({ds.SOPClassUID for ds in waiting.values()}):
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    pacs = f"The PACS {called} at {host}:{port}"
    try:
        association = entity.associate(host, port, ae_title=_title(called))
    except (OSError, UnicodeError) as error:  # UnicodeError: the text cannot be a host's name
        raise UserError(f"{pacs} cannot be found; correct the name or the port.") from error
    if association.is_rejected:
        raise UserError(
            f"{pacs} refused the connection; make it accept the AE title {calling}, or correct "
            "--aet."
        )
    if not association.is_established:
        raise UserError(f"{pacs} does not answer; correct the port, or start the PACS.")
    try:
        refused = _send_all(association, waiting, log, peer, pacs)
    except OSError as error:
        raise UserError(
            f"{log} cannot be written ({error.strerror}); free some space and run the command "
            "again."
        ) from error
    finally:
        association.release()
    if refused:
        path, reason = refused[0]
        raise UserError(
            f"{pacs} refused {len(refused)} of {len(waiting)} files, the first of them "
            f"{path.name} ({reason}); fix the cause and run the command again to send the rest."
        )
    return len(waiting), len(stored & {ds.SOPInstanceUID for ds in headers.values()})


def _send_all(
    association: Association,
    waiting: dict[Path, Dataset],
    log: Path,
    peer: Sequence[str],
    pacs: str,
) -> list[tuple[Path, str]]:
    """Sends files one by one; returns the refused files with the reasons."""
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    refused = []
    with log.open("a", newline="") as file:
        for path, ds in Progress(waiting.items(), "send"):
            if ds.SOPClassUID not in accepted:
                refused.append((path, f"it does not accept {ds.SOPClassUID.name}"))
                continue
            status = association.send_c_store(path)
            if "Status" not in status:
                raise UserError(
                    f"{pacs} stopped answering at {path.name}; run the command again to send the "
                    "rest."
                )
            if code_to_category(status.Status) in _STORED:
                csv.writer(file).writerow([*peer, ds.SOPInstanceUID])
                file.flush()
            else:
                _, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status.Status, ("", "unknown"))
                refused.append((path, f"status {status.Status:04X}: {meaning}"))
    return refused


def _read_headers(folder: Path) -> dict[Path, Dataset]:
    """Class and UID of each file, in the order of the file names."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; export one with `femur export`.")
    headers = {}
    for path in sorted(folder.glob("*.dcm")):
        try:
            headers[path] = dcmread(
                path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"]
            )
        except InvalidDicomError as error:
            raise UserError(f"{path} is not a DICOM file; export the folder again.") from error
    if not headers:
        raise UserError(f"{folder} holds no file *.dcm; export the folder again.")
    return headers


def _stored_uids(log: Path, peer: list[str]) -> set[str]:
    """The SOP Instance UIDs of files that this PACS has stored according to the log."""
    if not log.exists():
        return set()
    with log.open(newline="") as file:
        return {uid for *receiver, uid in csv.reader(file) if receiver == peer}


def _title(title: str) -> str:
    """Checks an AE title (PS3.5 6.2) and returns it.

    Raises:
        UserError: The standard does not allow the title.
    """
    if not (title.strip() and len(title) <= 16 and title.isascii() and title.isprintable()):
        raise UserError(f"{title!r} is not an AE title; use 1 to 16 letters, digits and signs.")
    return title
