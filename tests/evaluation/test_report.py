"""The report as a browser would read it: complete, self-contained, escaped, whole or absent."""

import base64
import csv
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from femur_jax.evaluation.manifold import Manifold
from femur_jax.evaluation.report import (
    ClassifierRow,
    Curve,
    DescriptorRow,
    DistanceRow,
    Gallery,
    ImageSizes,
    NeighbourPair,
    Neighbours,
    SplitSize,
    StudyResults,
    auc_table,
    write_report,
    write_tables,
)
from femur_jax.evaluation.statistics import Contrast, Interval

HOSTILE = '<script>alert("1")</script> & $\\frac{'
SOURCES = ("real", "diffusion", "GAN")
MANIFOLD = Manifold(precision=0.91, recall=0.82, density=1.04, coverage=0.73)
SIZES = {"NFF": (128, 92), "AFF": (60, 41)}


def grey(height: int, width: int) -> np.ndarray:
    """A ramp over the full 16-bit range."""
    return np.linspace(0, 65535, height * width).astype(np.uint16).reshape(height, width)


def made_up_results() -> StudyResults:
    steps = np.arange(0, 100, 10)
    auc, sensitivity = Interval(0.914, 0.801, 0.986), Interval(0.55, 0.25, 0.8)
    less = Contrast(Interval(-0.031, -0.12, 0.04), Interval(-0.031, -0.11, 0.05), 0.43)
    training_sets = ("real", "diffusion", "GAN", "real + diffusion", "real + GAN")
    return StudyResults(
        title="A study",
        simulated=True,
        resolution="three levels of 32 px patches",
        splits=[SplitSize("train", "NFF", 64, 201), SplitSize("held-out", "AFF", 6, 19)],
        training_steps={"diffusion": 1500, "GAN": 1200},
        wall_seconds={"phantoms": 4.24, "training": 3725.0, "report": 95.0},
        galleries=[Gallery(s, c, [grey(*SIZES[c])] * 2) for s in SOURCES for c in SIZES],
        curves=[
            Curve("diffusion", steps, 1 / (1 + steps), "denoising loss"),
            Curve("generator", steps, np.sin(steps), "adversarial loss"),
            Curve("discriminator", steps, np.cos(steps), "adversarial loss"),
        ],
        classifiers=[
            ClassifierRow(name, 252 + i, auc, sensitivity, 30, less if i else None, 0.071, 0.054)
            for i, name in enumerate(training_sets)
        ],
        feature_extractor="penultimate layer of the classifier",
        distances=[
            DistanceRow("diffusion", "AFF", 126, 200, 0.0312, 0.0021, 12.345, 9.87, MANIFOLD),
            DistanceRow(
                "real, held out", "AFF", 126, 89, -0.0003, 0.0004, 4.5, 0.1, None, floor=True
            ),
        ],
        descriptors=[
            DescriptorRow("GAN", "NFF", {"size": 0.123, "grey values": 1.5}),
            DescriptorRow("real, held out", "NFF", {"size": 0.05, "grey values": 0.06}, floor=True),
        ],
        published={"a paper": 0.966},
        neighbours=[
            Neighbours(
                source="GAN",
                label="AFF",
                n=200,
                pairs=[
                    NeighbourPair(grey(50, 40), grey(52, 33), 1.5),
                    NeighbourPair(grey(50, 40), grey(52, 33), 2.5),
                ],
                threshold=2.0,
                flagged_share=Interval(0.015, 0.004, 0.04),
                chance_share=0.011,
                authentic_share=0.925,
                copies=2,
                membership_auc=Interval(0.52, 0.47, 0.57),
                verdict="No sign of copies: a sentence.",
            )
        ],
        sizes=[
            ImageSizes(s, c, np.array([100, 128]), np.array([60, 92]))
            for s in SOURCES
            for c in SIZES
        ],
        provenance={"seed": "17", "config hash": "3f2a9c01"},
    )


class Page(HTMLParser):
    """What a browser would make of a page: its tags, its text, its tables."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def row(self, *start: str) -> list[str]:
        """The one table row whose first cells are these."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        [found] = [row for row in rows if tuple(row[: len(start)]) == start]
        return found


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write_report(made_up_results(), path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_is_fetched_from_outside(html: str, page: Page):
    assert not re.search(r"https?:|//\w+\.", html)
    assert "@import" not in html
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "a"})
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            if name == "src":
                assert value is not None and value.startswith("data:image/png;base64,"), tag
            elif name in ("href", "xlink:href"):
                assert value is not None and value.startswith("#"), tag
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", html))


def test_chart_parts_refer_to_definitions_on_the_page(html: str):
    ids = set(re.findall(r' id="([^"]+)"', html))
    used = set(re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert used and {a or b for a, b in used} <= ids


def test_the_sections_come_in_order(html: str):
    parts = (
        "<h1>A study",
        "simulated phantoms",
        "Real and synthetic",
        "Training curves:",
        "Trained on",
        "Forest plot",
        "penultimate layer of the classifier",
        "biased upwards",
        "repeat a patient",
        "Height against width of",
        "Provenance",
        "3f2a9c01",
    )
    places = [html.index(part) for part in parts]
    assert places == sorted(places)


def test_the_summary_says_how_small_the_run_is(page: Page):
    assert page.row("train") == ["train", "64 / 201", "–"]
    assert page.row("held-out") == ["held-out", "–", "6 / 19"]
    assert page.row("diffusion", "1,500")
    assert page.row("phantoms") == ["phantoms", "4.2 s"]
    assert page.row("training") == ["training", "1 h 2 min"]
    assert page.row("report") == ["report", "1 min 35 s"]
    assert "three levels of 32 px patches" in page.text


def test_a_report_on_patients_does_not_call_them_phantoms(tmp_path: Path):
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(made_up_results(), simulated=False), path)
    text = Page(path.read_text(encoding="utf-8")).text
    assert "phantoms." not in text
    assert "radiographs of patients" in text


def test_every_number_of_the_tables_is_there(page: Page):
    interval, sensitivity = "0.91 [0.80, 0.99]", "0.55 [0.25, 0.80]"
    rest = [sensitivity, "0.07 (0.05)", "30"]
    assert page.row("real", "252") == ["real", "252", interval, "–", *rest]
    less = "-0.03 [-0.12, +0.04], p = 0.43"
    assert page.row("real + GAN") == ["real + GAN", "256", interval, less, *rest]
    four = ["0.91", "0.82", "1.04", "0.73"]
    assert page.row("diffusion", "AFF", "126")[3:] == ["200", "31.2 ± 2.1", "12.3", "9.87", *four]
    assert page.row("real, held out", "AFF")[3:7] == ["89", "-0.3 ± 0.4", "4.5", "0.1"]
    assert page.row("GAN", "NFF") == ["GAN", "NFF", "0.12", "1.50"]
    audited = ["GAN", "AFF", "200", "2", "1.5% [0.4%, 4.0%]", "1.1%", "92.5%", "0.52 [0.47, 0.57]"]
    assert page.row("GAN", "AFF", "200") == audited


def test_tables_are_accessible(page: Page):
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 7
    assert all(img["alt"] for img in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("svg")) == 3


def decode(img: dict[str, str | None]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode((img["src"] or "").split(",")[1]))))


def test_images_are_the_upper_eight_bits_at_one_integer_zoom(page: Page):
    images = page.all("img")
    for label, (height, width) in SIZES.items():
        for source in SOURCES:
            shown = [
                i
                for i in images
                if i["alt"] == f"{source} radiograph, {label}, {height} × {width} px"
            ]
            assert len(shown) >= 2
            for img in shown[:2]:
                np.testing.assert_array_equal(decode(img), grey(height, width) // 256)
                assert (img["height"], img["width"]) == (str(2 * height), str(2 * width))
    assert page.text.count("128 × 92 px") == page.text.count("60 × 41 px") == 6


def test_neighbour_pairs_name_their_distance_and_flag_only_the_near_one(html: str, page: Page):
    assert "ratio 1.50, flagged" in page.text
    assert re.search(r"ratio 2.50(?!, flagged)", page.text)
    assert "No sign of copies: a sentence." in page.text
    assert html.count('class="pair flagged"') == 1
    nearest = [i for i in page.all("img") if (i["alt"] or "").startswith("nearest")]
    assert [decode(img).shape for img in nearest] == [(52, 33)] * 2


def test_large_radiographs_are_reduced_by_one_factor_and_keep_their_caption(tmp_path: Path):
    large, small = grey(3000, 1500), grey(900, 600)
    results = dataclasses.replace(
        made_up_results(), galleries=[Gallery("real", "AFF", [large, small])], neighbours=[]
    )
    write_report(results, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    first, second = page.all("img")
    assert decode(first).shape == (500, 250)
    assert decode(second).shape == (150, 100)
    assert (first["height"], first["width"]) == ("500", "250")
    assert "3000 × 1500 px" in page.text and "reduced to 1/6" in page.text


def test_hostile_text_stays_text(tmp_path: Path):
    r = made_up_results()
    hostile = dataclasses.replace(
        r,
        title=HOSTILE,
        galleries=[Gallery('"><img src=x>', HOSTILE, r.galleries[0].images)],
        curves=[dataclasses.replace(c, name=HOSTILE, ylabel=HOSTILE) for c in r.curves],
        classifiers=[dataclasses.replace(c, trained_on=HOSTILE) for c in r.classifiers],
        distances=[dataclasses.replace(d, source=HOSTILE) for d in r.distances],
        neighbours=[dataclasses.replace(n, source=HOSTILE) for n in r.neighbours],
        sizes=[dataclasses.replace(s, source=HOSTILE, label=HOSTILE) for s in r.sizes],
        provenance={HOSTILE: HOSTILE},
    )
    write_report(hostile, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.all("script")
    assert page.text.count(HOSTILE) > 10
    assert all((img["src"] or "").startswith("data:") for img in page.all("img"))


def test_a_run_without_a_part_says_so(tmp_path: Path):
    empty = dataclasses.replace(
        made_up_results(),
        galleries=[], curves=[], classifiers=[], distances=[], neighbours=[], sizes=[],
    )  # fmt: skip
    write_report(empty, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text.count("Not part of this run.") == 6


def test_the_same_results_give_the_same_bytes(html: str, tmp_path: Path):
    write_report(made_up_results(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


def test_a_failure_leaves_the_former_report_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "report.html"
    path.write_text("former")
    write_text = Path.write_text

    def disk_full(self: Path, data: str, **options):
        write_text(self, data[: len(data) // 2], **options)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_report(made_up_results(), path)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_auc_table_lines_up():
    rest = (30, None, 0.1, 0.1)
    rows = [
        ClassifierRow("real", 252, Interval(0.914, 0.8, 1.0), Interval(0.5, 0.25, 0.75), *rest),
        ClassifierRow(
            "real + diffusion", 12652, Interval(0.9, 0.8, 0.95), Interval(0.0, 0.0, 0.0), *rest
        ),
    ]
    lines = auc_table(rows).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert " ".join(lines[2].split()) == "real 252 0.91 [0.80, 1.00] 0.50 [0.25, 0.75] 30"
    assert lines[3].startswith("real + diffusion    12652   0.90 [0.80, 0.95]")


def test_tables_hold_the_numbers_behind_the_page(tmp_path: Path):
    write_tables(made_up_results(), tmp_path)
    tables = {
        path.stem: list(csv.DictReader(path.read_text().splitlines()))
        for path in tmp_path.glob("*.csv")
    }
    assert tables.keys() == {"classifiers", "distances", "descriptors", "copies"}
    assert [row["auc.low"] for row in tables["classifiers"]] == ["0.801"] * 5
    assert [row["against_real.p_value"] for row in tables["classifiers"]] == ["", *["0.43"] * 4]
    assert tables["distances"][0]["manifold.coverage"] == "0.73"
    assert tables["descriptors"][0]["distances.size"] == "0.123"
    assert tables["copies"][0]["flagged_share.high"] == "0.04"
