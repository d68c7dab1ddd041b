import csv
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.ingest.pipeline import ingest
from femur_jax.ingest.rejection import REASONS
from femur_jax.main import main


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twelve patients of three hospitals; two files are broken and three repeat others."""
    folder = tmp_path_factory.mktemp("CANARYcohort")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for n in range(24):
        pixels = rng.integers(0, 65536, rng.integers(20, 60, 2), np.uint16)
        Image.fromarray(pixels).save(pictures / f"CANARY{n}.png")
        patient = n // 2
        label = ("NFF", "AFF")[patient % 2]
        rows.append((f"CANARY{n}.png", f"CANARYp{patient}", f"CANARYh{patient % 3}", label, "AP"))
    for n in (5, 14):
        (pictures / f"CANARY{n}.png").write_text("no picture")
    for n in (0, 1, 8):
        shutil.copy(pictures / f"CANARY{n}.png", pictures / f"CANARYagain{n}.png")
        rows.append((f"CANARYagain{n}.png", *rows[n][1:]))
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "patient_id", "hospital", "label", "view"))
        writer.writerows(rows)
    out = folder / "dataset"
    ingest(
        pictures,
        folder / "labels.csv",
        out,
        patch=16,
        key_file=folder / "key",
        fractions=(0.34, 0.34),
        max_quarantined=0.2,
        workers=1,
    )
    return rows, out


@pytest.fixture(scope="module")
def inspected(cohort):
    """The JSON and the page."""
    out = cohort[1].with_name("inspected")
    assert main(["inspect", f"--dataset={cohort[1]}", f"--out={out}", "--all"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["fingerprint.html", "fingerprint.json"]
    return json.loads((out / "fingerprint.json").read_text()), out / "fingerprint.html"


def test_the_numbers_are_those_of_the_label_table(cohort, inspected):
    rows, _ = cohort
    found, _ = inspected
    assert found["lines"] == {"inputs": 27, "accepted": 22, "quarantined": 2, "duplicates": 3}
    assert (found["radiographs"], found["patients"]) == (22, 12)
    read = [row for n, row in enumerate(rows[:24]) if n not in (5, 14)]
    expected = []
    for hospital in {row[2] for row in rows}:
        own = [row for row in read if row[2] == hospital]
        expected.append(
            (
                sorted(Counter(row[3] for row in own).items()),
                sum(rows[n][2] == hospital for n in (5, 14)),
                sum(row[2] == hospital for row in rows[24:]),
            )
        )
    assert sorted(expected) == sorted(
        (sorted(h["radiographs"].items()), sum(h["quarantined"].values()), h["duplicates"])
        for h in found["hospitals"]
    )
    assert len({str(row) for row in expected}) == 3  # no two hospitals could be exchanged
    assert {check["status"] for check in found["checks"][:3]} == {"pass"}
    labels = Counter(row[3] for row in read)
    for label in labels:
        own = [count for count in found["by_patient"] if count["label"] == label]
        assert sum(count["radiographs"] for count in own) == labels[label]


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_holds_every_radiograph_and_refers_to_nothing(cohort, inspected):
    html = inspected[1].read_text()
    page = _Page(html)
    assert page.open == []
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    unclear = len(inspected[0]["unclear"])  # these are shown twice
    assert len(sources) == 22 + unclear and all(
        s.startswith("data:image/jpeg;base64,") for s in sources
    )
    assert not any("href" in attrs for _, attrs in page.tags)
    assert not re.search(r"https?://|url\(|<script", html)
    text = "".join(page.text)
    assert all(entry.name in text for entry in RadiographDataset(cohort[1]).entries)
    assert inspected[0]["dataset"] in text


def test_captions_name_the_lines_of_the_label_table(cohort, inspected, tmp_path):
    rows, dataset = cohort
    text = "".join(_Page(inspected[1].read_text()).text)
    entries = RadiographDataset(dataset).entries
    captions = dict(re.findall(r"^([0-9a-f]{16}) line (\d+)$", text, re.MULTILINE))
    captions |= dict(re.findall(r"([0-9a-f]{16}) line (\d+)(?=[AN]FF)", text))
    assert captions.keys() == {entry.name for entry in entries}
    for entry in entries:
        assert rows[int(captions[entry.name]) - 2][3] == entry.label
    alone = shutil.copytree(dataset, tmp_path / "alone")
    assert main(["inspect", f"--dataset={alone}"]) == 0
    html = (tmp_path / "alone.fingerprint" / "fingerprint.html").read_text()
    assert not re.search(r"[0-9a-f]{16} line \d", html)
    assert '<td class="text">–</td>' in html  # the lines of the unusable files


def test_unusable_files_have_a_request_and_their_lines(inspected):
    text = "".join(_Page(inspected[1].read_text()).text)
    [unusable] = re.findall(r"not_image\n?.*\n?.*\n?.*", text)
    assert REASONS["not_image"].hint in unusable and REASONS["not_image"].request in unusable
    assert unusable.endswith("7, 16")  # the sixth and fifteenth file; the header is line 1


def test_nothing_but_what_the_dataset_holds(inspected):
    _, html = inspected
    for path in (html, html.with_name("fingerprint.json")):
        assert "canary" not in path.read_text().lower()


def test_the_same_dataset_gives_the_same_bytes(cohort, inspected, tmp_path):
    again = tmp_path / "again"
    main(["inspect", f"--dataset={cohort[1]}", f"--out={again}", "--all"])
    for path in again.iterdir():
        assert path.read_bytes() == (inspected[1].parent / path.name).read_bytes()


def test_a_leak_ends_with_1_and_is_shown(tmp_path, capsys):
    with DatasetWriter(tmp_path / "leaky", patch=16, provenance={}) as writer:
        for n, split in enumerate(("train", "train", "test")):
            pixels = np.random.default_rng(n).integers(0, 65536, (9, 9)).astype(np.uint16)
            radiograph = Radiograph(pixels, f"r{n}", "AFF", patient=f"p{n % 2}", hospital="h")
            writer.add(encode(radiograph, 16), split)
        row = {"files": ["r1", "r2"], "bits": 2}
        writer.write_text("similar.jsonl", json.dumps(row))
    assert main(["inspect", f"--dataset={tmp_path / 'leaky'}"]) == 1
    assert "Patients in several splits by patient: 1" in capsys.readouterr().out
    html = (tmp_path / "leaky.fingerprint" / "fingerprint.html").read_text()
    assert "The splits leak" in html and "<code>p0</code>" in html
    shown = [attrs["alt"] for tag, attrs in _Page(html).tags if tag == "img"]
    assert shown == ["radiograph r1", "radiograph r2", *(f"radiograph r{n}" for n in (0, 2, 1))]


def test_dark_pictures_and_negatives_are_shown(tmp_path, capsys):
    limb = np.tile(500 + 60_000 * np.hanning(40), (60, 1))
    noise = np.random.default_rng(0).uniform(0, 65_535, limb.shape)
    pictures = {"negative": 65_535 - limb, "doubtful": noise, "dark": limb / 16, "right": limb}
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "patient_id", "hospital", "label"))
        for n, (name, picture) in enumerate(pictures.items()):
            Image.fromarray((picture / 257).astype(np.uint8)).save(tmp_path / f"{name}.png")
            writer.writerow((f"{name}.png", f"p{n}", "h", ("NFF", "AFF")[n % 2]))
    dataset = tmp_path / "dataset"
    options = {"patch": 64, "key_file": tmp_path / "key", "fractions": (0.0, 0.0), "workers": 1}
    ingest(tmp_path, tmp_path / "labels.csv", dataset, **options)
    main(["inspect", f"--dataset={dataset}"])
    told = capsys.readouterr().out
    assert "Is bone bright in each radiograph? negatives, as it seems: 1; doubtful: 1" in told
    assert "nearly black: 1; nearly white: 0; of 4" in told
    rows = [json.loads(line) for line in (dataset / "polarity.jsonl").read_text().splitlines()]
    with (tmp_path / "dataset.lines.csv").open(newline="") as file:
        line = {row["file"]: int(row["line"]) for row in csv.DictReader(file)}
    assert {line[r["file"]]: r["polarity"] for r in rows} == {2: "negative", 3: "doubtful"}
    html = (tmp_path / "dataset.fingerprint" / "fingerprint.html").read_text()
    section = html[html.index("<h2>Is bone bright?</h2>") :]
    section = section[: section.index("</section>")]
    assert section.count("<img") == 2
    assert section.index("<br>negative") < section.index("<br>doubtful")


def test_chromium_shows_it(inspected, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    run = subprocess.run(
        [
            chromium,
            *options.split(),
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            f"--user-data-dir={tmp_path}",
            "--enable-logging=stderr",
            "--dump-dom",
            inspected[1].as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.count("<figure>") == inspected[1].read_text().count("<figure>")
    assert "CONSOLE" not in run.stderr  # where it would say what the page's policy forbids


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out={tmp}/taken"], "exists; remove it or name another folder"),
        (["--out={dataset}/inside"], "lies in the dataset"),
        (["--out={tmp}/new", "--per_class=0"], "--per_class is 0"),
        (["--out={tmp}/new", "--dataset={tmp}/taken"], "holds no radiograph dataset"),
        (["--out={tmp}/new", "--lines={tmp}/taken"], "is not a table of lines"),
        (["--out={tmp}/new", "--lines={dataset}/dataset.json"], "is not a table of lines"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cohort, tmp_path, capsys, arguments, named):
    (tmp_path / "taken").mkdir()
    given = [a.format(tmp=tmp_path, dataset=cohort[1]) for a in arguments]
    assert main(["inspect", f"--dataset={cohort[1]}", *given]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    [line] = told.err.splitlines()
    assert line.startswith("femur_jax: ") and named in line
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
