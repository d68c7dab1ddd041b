"""The report as a browser reads it: complete, self-contained, escaped, whole or absent."""

import base64
import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from femur_jax.evaluation.calibration import ReliabilityBin
from femur_jax.evaluation.contrasts import Contrast
from femur_jax.evaluation.distances import Comparison, Manifold
from femur_jax.evaluation.generators import CopiesRow, DistanceRow, Evaluation
from femur_jax.evaluation.operating_point import OperatingPoint
from femur_jax.evaluation.statistics import GroupRow, Interval, SeedSpread
from femur_jax.study.report import formats, words
from femur_jax.study.report.contents import (
    ClassifierRow,
    ContrastRow,
    Curve,
    Gallery,
    ImageSizes,
    NeighbourPair,
    SplitSize,
    StudyResults,
    WorstPairs,
    mean_row,
    worst_row,
)
from femur_jax.study.report.page import write_report
from femur_jax.study.report.tables import as_json, auc_table, write_tables

HOSTILE = '<script>alert("1")</script> & $\\frac{'
SOURCES = ("real", "diffusion", "GAN")
SIZES = {"NFF": (128, 92), "AFF": (60, 41)}


def grey(height: int, width: int) -> np.ndarray:
    """A ramp over the full 16-bit range."""
    return np.linspace(0, 65535, height * width).astype(np.uint16).reshape(height, width)


PATCHES = Comparison(
    n_real=126,
    n_compared=200,
    dim=64,
    kid=0.0312,
    kid_error=0.0021,
    kid_p=0.001,
    mmd=0.0044,
    mmd_error=0.0003,
    fid=12.345,
    fid_infinity=9.87,
    manifold=Manifold(precision=0.91, recall=0.82, density=1.04, coverage=0.73),
)


def distance(label: str, **changes) -> DistanceRow:
    return dataclasses.replace(
        DistanceRow(
            label=label,
            **vars(PATCHES),
            ms_ssim=0.37,
            descriptors={"size": 0.123, "grey values": 1.5},
        ),
        **changes,
    )


def copies(label: str, **changes) -> CopiesRow:
    return dataclasses.replace(
        CopiesRow(
            label=label,
            n=200,
            pairs=(),
            flagged_share=Interval(0.015, 0.004, 0.04),
            chance_share=0.011,
            copies=2,
            authentic_share=0.925,
            membership_auc=Interval(0.52, 0.47, 0.57),
            membership_p=0.2,
            tpr_at_1_fpr=Interval(0.02, 0.0, 0.05),
            planted=20,
            found={"unchanged": 1.0, "rotated by 5°": 0.95},
            is_accused=False,
            verdict="No sign of copies: a sentence.",
        ),
        **changes,
    )


def difference(value: float, low: float, high: float, p: float = 0.43, k: int = 2) -> Contrast:
    return Contrast(Interval(value, low, high), p, min(2 * p, 1.0), k)


FLOOR = [
    distance("both", kid=-0.0003, kid_error=0.0004, kid_p=0.6),
    distance("AFF", n_compared=89, kid=-0.0003, kid_p=0.5),
]


def evaluation(seed: int, **changes) -> Evaluation:
    return dataclasses.replace(
        Evaluation(
            features="penultimate layer of the classifier",
            patch_features="pixels 32 x 32",
            judged=Interval(0.7 + 0.01 * seed, 0.6, 0.8),
            distances=[distance("both"), distance("AFF", n_compared=89)],
            floor=FLOOR,
            patches=PATCHES,
            patch_floor=dataclasses.replace(PATCHES, kid=0.0011),
            copies=[copies("AFF")],
        ),
        **changes,
    )


def made_up_results() -> StudyResults:
    steps = np.arange(0, 100, 10)
    auc = SeedSpread(Interval(0.914, 0.801, 0.986), [0.89, 0.91, 0.918, 0.938], 0.014, 0.02)
    training_sets = (
        "real",
        "diffusion",
        "GAN",
        "real + diffusion",
        "real + GAN",
        "real, 60 a class",
    )
    generators = {name: {seed: evaluation(seed) for seed in (0, 1)} for name in SOURCES[1:]}
    return StudyResults(
        title="A study",
        simulated=True,
        resolution="three levels of 32 px patches",
        splits=[
            SplitSize("train", "NFF", 64, 201),
            SplitSize("test", "AFF", 6, 19),
            SplitSize("test", "NFF", 24, 30),
        ],
        training_steps={"diffusion": 1500, "GAN": 1200},
        classifier_seeds=(0, 1),
        wall_seconds={"phantoms": 4.24, "training": 3725.0, "report": 95.0},
        galleries=[Gallery(s, c, [grey(*SIZES[c])] * 2) for s in SOURCES for c in SIZES],
        curves=[
            Curve("pyramid, joint", "diffusion", steps, 1 / (1 + steps)),
            Curve("letterbox, joint, generator", "GAN", steps, np.sin(steps)),
            Curve("letterbox, joint, discriminator", "GAN", steps, np.cos(steps)),
        ],
        classifiers=[
            ClassifierRow(
                trained_on=name,
                uses_real=name.startswith("real"),
                source=name.removeprefix("real + ") if name in training_sets[1:5] else "",
                per_label=60 if "class" in name else 0,
                is_pretrained=False,
                is_validated_on_rest=False,
                n_train=252 + i,
                n_synthetic=(0, 120)[name in training_sets[1:5]],
                auc=auc,
                validation_auc=0.8 + 0.01 * i,
                operating=OperatingPoint(
                    Interval(0.55, 0.25, 0.8), Interval(0.9, 0.7, 0.98), 1, 40
                ),
                against_real=difference(-0.031, -0.12, 0.04) if 1 <= i <= 4 else None,
                against_matched=difference(0.02, -0.07, 0.11) if 1 <= i <= 2 else None,
                matched="real, 60 a class" if 1 <= i <= 2 else "",
                calibration_error=0.071,
                chance_error=0.054,
                reliability=[ReliabilityBin(0.2, 0.25, 0.1, 0.4, 10)],
                groups={
                    "hospital": [
                        GroupRow("h1", 40, 6, 20, Interval(0.8 + 0.01 * i, 0.7, 0.9)),
                        GroupRow("h2", 4, 1, 2, None),
                    ]
                },
                over_hospitals=Interval(0.914, 0.75, 1.0),
            )
            for i, name in enumerate(training_sets)
        ],
        sized=[],
        contrasts=[
            ContrastRow(
                "", "", "diffusion, pyramid", "GAN, letterbox", True,
                Contrast(Interval(0.04, -0.02, 0.1), 0.43, 0.43, 2),
            ),
            ContrastRow(
                "classes", "diffusion, pyramid", "one model", "model per class", False,
                difference(-0.02, -0.09, 0.05),
            ),
            ContrastRow(
                "strategy", "diffusion, one model", "pyramid", "letterbox", False,
                difference(0.12, 0.03, 0.2, p=0.004),
            ),
        ],
        relevant_difference=0.05,
        generators=generators,
        pairs=[
            WorstPairs(
                "GAN",
                "AFF",
                [
                    NeighbourPair(grey(50, 40), grey(52, 33), 1.5, True),
                    NeighbourPair(grey(50, 40), grey(52, 33), 2.5, False),
                ],
            )
        ],
        sizes=[
            ImageSizes(s, c, np.array([100, 128]), np.array([60, 92]))
            for s in SOURCES
            for c in SIZES
        ],
        published={"a paper": {"auc": 0.966, "sensitivity": 0.796}},
        provenance={"seed": "17", "config hash": "3f2a9c01"},
    )  # fmt: skip


class Page(HTMLParser):
    """The tags, the text and the tables of a page, as a browser reads them."""

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
        """The one table row that starts with these cells."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        [match] = [row for row in rows if tuple(row[: len(start)]) == start]
        return match


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
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            if name == "src":
                assert value is not None and value.startswith("data:image/png;base64,"), tag
            elif name in ("href", "xlink:href"):
                assert value is not None and value.startswith("#"), tag
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", html))


def test_charts_refer_to_definitions_on_the_page(html: str):
    ids = set(re.findall(r' id="([^"]+)"', html))
    used = set(re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert used and {a or b for a, b in used} <= ids


def test_the_sections_come_in_order(html: str):
    beginnings = (
        "<h1>A study",
        "simulated phantoms",
        "1. Can a GAN",
        "Training curves:",
        "2. How good",
        "Trained on",
        "Forest plot",
        "Reliability diagrams",
        "penultimate layer of the classifier",
        "biased upwards",
        "3. One model for both classes, or",
        "4. What to do",
        "Height against width of",
        "5. Are they safe",
        "For reviewers",
        "Provenance",
        "3f2a9c01",
    )
    positions = [html.index(text) for text in beginnings]
    assert positions == sorted(positions)


def test_the_summary_states_the_size_of_the_run(page: Page):
    assert page.row("train") == ["train", "64 / 201", "–"]
    assert page.row("test") == ["test", "24 / 30", "6 / 19"]
    assert page.row("diffusion", "1,500")
    assert page.row("phantoms") == ["phantoms", "4.2 s"]
    assert page.row("training") == ["training", "1 h 2 min"]
    assert page.row("report") == ["report", "1 min 35 s"]
    assert "Three levels of 32 px patches" in page.text
    text = " ".join(page.text.split())
    assert (
        "30 test patients (6 with AFF, 24 with NFF), on two trainings of each generator, and on two"
        in text
    )
    assert "With only 6 with AFF, intervals of differences are unreliable" in text


def test_a_report_on_patients_does_not_call_them_phantoms(tmp_path: Path):
    path = tmp_path / "report.html"
    write_report(dataclasses.replace(made_up_results(), simulated=False), path)
    text = Page(path.read_text(encoding="utf-8")).text
    assert "phantoms." not in text
    assert "radiographs of patients" in text


def test_every_number_of_the_tables_is_there(page: Page):
    interval = "0.91 [0.80, 0.99]"
    rest = ["0.55 [0.25, 0.80]", "0.90 [0.70, 0.98]", "0.07 (0.05)"]
    assert page.row("real", "252") == ["real", "252", f"{interval} ± 0.01", "–", *rest]
    less = "-0.03 [-0.12, +0.04], p 0.86"
    both = ["real + GAN", "256", f"{interval} ± 0.01, ± 0.02", less, *rest]
    assert page.row("real + GAN") == both
    assert page.row("GAN", "254")[3] == f"{less} as many: +0.02 [-0.07, +0.11], p 0.86"
    assert page.row("diffusion", "0.70 [0.60, 0.80]")[2] == "0.71 [0.60, 0.80]"
    by_hospital = ["0.80 [0.70, 0.90]", "0.81 [0.70, 0.90]", "0.82 [0.70, 0.90]"]
    assert page.row("all, over new hospitals")[2:] == ["0.91 [0.75, 1.00]"] * 3
    assert page.row("h1") == ["h1", "6 / 20", *by_hospital]
    assert "h2" not in page.text
    kept = ["12.3", "9.87", "0.91", "0.82", "1.04", "0.73", "0.37"]
    assert page.row("diffusion", "AFF", "126, 89")[3:] == ["31.2 ± 2.1", "0.002", "4.4", *kept]
    assert page.row("real, held out", "AFF", "126, 89")[3:5] == ["-0.3 ± 2.1", "0.5"]
    assert page.row("GAN", "126, 200") == ["GAN", "126, 200", "31.2 ± 2.1", "0.002", "12.3"]
    assert page.row("real, held out", "126, 200")[2] == "1.1 ± 2.1"
    assert page.row("GAN", "both", "0.12") == ["GAN", "both", "0.12", "1.50"]
    assert page.row("diffusion, pyramid")[2:] == ["-0.02 [-0.09, +0.05]", "0.43", "0.86"]
    assert page.row("named beforehand")[2:] == ["+0.04 [-0.02, +0.10]", "0.43", "named beforehand"]
    audited = ["GAN", "AFF", "400", "4", "1.5% [0.4%, 4.0%]", "1.1%", "92.5%", "0.52 [0.47, 0.57]"]
    assert page.row("GAN", "AFF", "400") == [*audited, "2.0% [0.0%, 5.0%]"]


def test_tables_are_accessible(page: Page):
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 15
    assert all(img["alt"] for img in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("svg")) == 10


def said(finding: words.Finding | None) -> str:
    assert finding is not None
    return f"{finding.conclusion} {finding.details}"


def test_sentences_follow_from_the_intervals():
    results = made_up_results()
    assert words.how_good(results).conclusion.startswith("Undecided: these 30 test patients")
    assert "2 of 2 generators are farther from real" in said(words.how_good(results))
    undecided, decided = (words.contrasts(results, axis) for axis in ("classes", "strategy"))
    assert undecided.conclusion == "Undecided: these 30 test patients show no difference."
    assert decided.conclusion == "Pyramid is better (diffusion, one model)."
    assert "pyramid is better, perhaps by less than 0.05" in decided.details
    assert "Not answered" in said(words.contrasts(results, "model"))
    assert said(words.primary(results)).startswith("Undecided")
    assert "GAN, letterbox is +0.04 [-0.02, +0.10], p = 0.43" in said(words.primary(results))
    assert "in any of 4 synthetic sets" in said(words.are_they_safe(results))
    assert "In no set is this better than a coin" in said(words.are_they_safe(results))
    blind = evaluation(0, copies=[copies("NFF", found={"unchanged": 0.4})])
    blind = dataclasses.replace(results, generators={"GAN": {0: blind}})
    assert words.are_they_safe(blind).conclusion.startswith("Not decided for 1 of 1")
    assert words.can_they_learn(results).conclusion.startswith("Yes, to a program: in all 4")
    assert "AUC of 0.70 to 0.71" in said(words.can_they_learn(results))

    worse = with_rows(results, against_real=difference(-0.3, -0.4, -0.1, p=0.001))
    accused = evaluation(
        0,
        judged=Interval(0.5, 0.4, 0.6),
        distances=[distance("both", kid=0.0, kid_p=0.4)],
        copies=[
            copies(
                "NFF", is_accused=True, membership_auc=Interval(0.8, 0.7, 0.9), membership_p=1e-4
            )
        ],
    )
    bad = dataclasses.replace(worse, generators={"GAN": {0: accused}})
    assert "do not replace the real ones" in words.how_good(bad).conclusion
    assert "0 of 1 generator are farther" in said(words.how_good(bad))
    assert "Do not share 1 of 1" in said(words.are_they_safe(bad))
    assert words.are_they_safe(bad).details.startswith("Accused: GAN, NFF, seed 0. ")
    assert "seed 0" not in words.are_they_safe(bad).conclusion  # there may be dozens
    assert "reveal something about the patients" in said(words.are_they_safe(bad))
    assert words.can_they_learn(bad).conclusion == "Not shown in any of 1 synthetic set."


def with_rows(results: StudyResults, *, real: bool = False, **changes) -> StudyResults:
    """Changes the rows trained on synthetic radiographs alone, or that of real ones."""
    rows = [
        dataclasses.replace(row, **changes)
        if (row.is_synthetic and not real) or (real and row is results.classifiers[0])
        else row
        for row in results.classifiers
    ]
    return dataclasses.replace(results, classifiers=rows)


def spread(value: float, low: float, high: float) -> SeedSpread:
    return SeedSpread(Interval(value, low, high), [value, value], 0.0, 0.0)


def judged(results: StudyResults, auc: Interval | None) -> StudyResults:
    generators = {"GAN": {0: evaluation(0, judged=auc)}}
    return dataclasses.replace(results, generators=generators)


def test_extremes_read_right():
    results = made_up_results()
    worse = Interval(0.20, 0.10, 0.30)
    text = said(words.can_they_learn(judged(results, worse)))
    assert "Worse than chance, so look for swapped labels: GAN, seed 0, 0.20 [0.10, 0.30]" in text
    text = said(words.how_good(with_rows(results, auc=spread(0.2, 0.1, 0.3))))
    assert "worse than chance: look for swapped labels" in text and "a coin" not in text
    text = said(words.how_good(with_rows(results, auc=spread(0.55, 0.45, 0.65))))
    assert "no better than a coin" in text
    # A judge who knows nothing, or the opposite.
    blind = with_rows(results, real=True, auc=spread(0.52, 0.4, 0.64))
    assert words.can_they_learn(blind).conclusion.startswith("Not answered: the judge is not shown")
    assert "means nothing" in said(words.can_they_learn(blind))
    turned = with_rows(results, real=True, auc=spread(0.2, 0.1, 0.3))
    assert "it is worse than chance, so look for swapped labels" in said(
        words.can_they_learn(turned)
    )
    assert "no synthetic set holds both classes" in said(
        words.can_they_learn(judged(results, None))
    )
    nan = float("nan")
    unknown = with_rows(results, against_real=difference(0.0, nan, nan, p=nan))
    assert words.how_good(unknown).conclusion.startswith("Not computed")
    assert "+0.00 (interval not computed), p = not computed" in said(words.how_good(unknown))


def added(results: StudyResults, contrast: Contrast) -> StudyResults:
    """Changes the difference of the rows trained on real and synthetic radiographs."""
    rows = [
        dataclasses.replace(row, against_real=contrast) if row.is_both else row
        for row in results.classifiers
    ]
    return dataclasses.replace(results, classifiers=rows)


@pytest.mark.parametrize(
    ("contrast", "answer"),
    [
        (difference(0.09, 0.06, 0.12, 0.001), "Yes: added to the real ones, they raise the AUC by"),
        (difference(0.04, 0.01, 0.07, 0.01), "Yes, by 0.04; perhaps by less than what matters"),
        (difference(-0.09, -0.12, -0.06, 0.001), "No: added to the real ones, they lower the AUC"),
        (difference(0.0, -0.03, 0.03, 0.9), "No: added to the real ones, they change the AUC by"),
        (difference(0.03, -0.04, 0.1, 0.4), "Undecided: 30 test patients are too few"),
        (difference(0.09, 0.06, 0.12, 0.001, k=1), "Yes: added to the real ones"),
        (difference(0.0, float("nan"), float("nan"), float("nan")), "Not computed"),
    ],
)
def test_whether_synthetic_radiographs_help_is_answered(contrast: Contrast, answer: str):
    finding = words.do_they_help(added(made_up_results(), contrast))
    assert finding.conclusion.startswith(answer)
    once = "Another training of the generator may help more" in finding.details
    assert once == (contrast.trainings == 1)


def test_who_helps_most_is_chosen_on_validation_patients_and_compared_with_the_real_ones():
    results = made_up_results()
    text = words.do_they_help(results).details
    assert "(GAN, the best of 2 on validation patients), the classifier reaches an AUC of" in text
    assert "The difference is -0.03 [-0.12, +0.04], p = 0.86." in text
    assert "Over all 2 generators the difference is -0.03 to -0.03" in text
    last = dataclasses.replace(
        results.classifiers[4], trained_on="GAN, then real", is_pretrained=True
    )
    text = words.do_they_help(
        dataclasses.replace(results, classifiers=[*results.classifiers, last])
    ).details
    assert (
        "Trained first on these synthetic radiographs and then on the real ones, it reaches" in text
    )
    assert "As many real radiographs as synthetic ones, where there are enough (60 of each" in said(
        words.how_good(results)
    )


def test_a_choice_without_validation_patients_is_reported_next_to_one_with_them():
    results = made_up_results()
    rest = dataclasses.replace(
        results.classifiers[2],
        is_validated_on_rest=True,
        per_label=48,
        validation_auc=0.99,
        auc=spread(0.7, 0.6, 0.8),
    )
    with_rest = dataclasses.replace(results, classifiers=[*results.classifiers, rest])
    assert words.chosen(with_rest) is results.classifiers[2]
    text = said(words.how_good(with_rest))
    assert "chooses in their place, it is 0.70 [0.60, 0.80]." in text
    assert "in their place" not in said(words.how_good(results))


def test_sets_of_several_sizes_become_curves_and_a_sentence(tmp_path: Path):
    results = made_up_results()
    sized = [
        dataclasses.replace(
            row,
            trained_on=f"{row.trained_on}, 30 a class",
            per_label=30,
            n_train=60,
            n_synthetic=60,
        )
        for row in results.classifiers[1:5]
    ]
    results = dataclasses.replace(results, sized=sized)
    assert words.do_more_help(results) == (
        "GAN, alone: an AUC of 0.91 [0.80, 0.99] with 60 synthetic radiographs, and of 0.91 [0.80, "
        "0.99] with 120. GAN, added to all real ones: an AUC of 0.91 [0.80, 0.99] with 60 "
        "synthetic radiographs, and of 0.91 [0.80, 0.99] with 120."
    )
    write_report(results, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("svg")) == 11
    assert "How many synthetic radiographs?" in page.text


def test_one_training_answers_nothing_about_another():
    results = made_up_results()
    once = dataclasses.replace(results.contrasts[2], auc=difference(0.3, 0.2, 0.4, 0.001, k=1))
    first = {name: {0: seeds[0]} for name, seeds in results.generators.items()}
    single = dataclasses.replace(results, generators=first, contrasts=[once])
    finding = words.contrasts(single, "strategy")
    assert finding.conclusion.startswith("Not answered: each generator was trained once")
    assert "is better" not in said(finding)
    assert "One training of a generator does not show" in words.size_of_run(single)
    row = with_rows(single, against_real=difference(-0.3, -0.4, -0.2, 0.001, k=1))
    assert words.how_good(row).conclusion == (
        "Classifiers trained on this one synthetic set are worse than those trained on real "
        "radiographs."
    )


def test_the_best_generator_is_chosen_on_validation_patients():
    results = made_up_results()
    rows = list(results.classifiers)
    rows[1] = dataclasses.replace(rows[1], auc=spread(0.99, 0.9, 1.0), validation_auc=0.6)
    results = dataclasses.replace(results, classifiers=rows)
    assert words.chosen(results).trained_on == "GAN"
    assert "(GAN, the best of 2 on validation patients)" in said(words.how_good(results))
    without = with_rows(results, validation_auc=None)
    assert "(diffusion, the first of 2: no validation" in said(words.how_good(without))


def test_questions_1_and_2_are_reconciled():
    results = made_up_results()
    coin = with_rows(results, auc=spread(0.55, 0.45, 0.65))
    assert "Yet a classifier trained on synthetic radiographs alone is not shown" in said(
        words.can_they_learn(coin)
    )
    unseen = judged(results, Interval(0.5, 0.4, 0.6))
    assert "Yet a classifier trained on synthetic radiographs works" in said(
        words.can_they_learn(unseen)
    )
    assert "Yet" not in said(words.can_they_learn(results))


def test_lost_variety_is_reported():
    results = made_up_results()
    assert "Variety is lost" not in said(words.how_good(results))
    poor = Manifold(precision=0.9, recall=0.82, density=1.0, coverage=0.3)
    rows = evaluation(0, distances=[distance("both", manifold=poor)])
    text = said(words.how_good(dataclasses.replace(results, generators={"GAN": {0: rows}})))
    assert "Variety is lost" in text and "GAN covers 30% of them" in text and "cover 73%" in text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.0004, 0.00001, 0.0008), "+0.00040 [+0.00001, +0.00080]"),
        (Interval(-0.03, -0.12, 0.04), "-0.03 [-0.12, +0.04]"),
        (Interval(-0.03, -0.06, -0.001), "-0.030 [-0.060, -0.001]"),
        (Interval(0.0, -0.1, 0.1), "+0.00 [-0.10, +0.10]"),
        (Interval(float("nan"), float("nan"), float("nan")), "not computed"),
        (Interval(0.1, float("nan"), float("nan")), "+0.10 (interval not computed)"),
    ],
)
def test_differences_have_the_digits_they_need(interval: Interval, text: str):
    assert formats.signed_text(interval) == text


def test_areas_have_the_digits_they_need():
    assert formats.interval_text(Interval(0.56, 0.502, 0.62)) == "0.560 [0.502, 0.620]"
    assert formats.interval_text(Interval(1.0, 0.914, 1.0)) == "1.00 [0.91, 1.00]"
    assert formats.interval_text(Interval(0.91, 0.801, 0.998)) == "0.910 [0.801, 0.998]"
    assert formats.p_text(0.0004) == "< 0.001" and formats.p_text(float("nan")) == "not computed"


def test_the_checklist_states_what_the_study_knows(page: Page):
    assert page.row("20")[2] == "64 train, 30 test patients."
    assert page.row("6")[2].startswith("diffusion, pyramid against GAN, letterbox, named before")
    assert "(1 of 40 called falsely)" in page.row("28")[2]
    assert (
        "Holm's correction over 8 comparisons, the one named before excepted." in page.row("29")[2]
    )
    assert page.row("30")[2] == (
        "Two trainings of each generator, two classifiers for each set; two hospitals in the test."
    )
    assert page.row("8")[2] == "For the authors to state."


def test_many_comparisons_are_summed_up():
    results = made_up_results()
    _, undecided, decided = results.contrasts
    rows = [dataclasses.replace(undecided, where=f"w{n}") for n in range(4)]
    rows += [dataclasses.replace(decided, axis="classes", where="found")]
    finding = words.contrasts(dataclasses.replace(results, contrasts=rows), "classes")
    assert finding.conclusion == "In 1 of 5 comparisons one is better."
    assert "Found: the AUC" in finding.details and "w0" not in finding.details


def test_seeds_are_averaged_and_the_worst_is_reported():
    mean = mean_row(
        [distance("AFF", kid=0.2, kid_error=0.1), distance("AFF", kid=0.4, kid_error=0.3)]
    )
    assert (mean.kid, mean.kid_error, mean.manifold.recall) == pytest.approx((0.3, 0.2, 0.82))
    accused = copies("AFF", is_accused=True, verdict="Do not share.", authentic_share=0.1)
    worst = worst_row([copies("AFF"), accused, copies("AFF", copies=7)])
    assert (worst.n, worst.copies, worst.verdict) == (600, 11, "Do not share.")
    assert worst.authentic_share == 0.1


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
    assert page.text.count("128 × 92 px") == page.text.count("60 × 41 px") == 10


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
        made_up_results(), galleries=[Gallery("real", "AFF", [large, small])], pairs=[]
    )
    write_report(results, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    first, second = page.all("img")
    assert decode(first).shape == (500, 250)
    assert decode(second).shape == (150, 100)
    assert (first["height"], first["width"]) == ("500", "250")
    assert "3000 × 1500 px" in page.text and "reduced to 1/6" in page.text


def test_real_and_synthetic_radiographs_are_shown_at_native_size(tmp_path: Path, chromium):
    sizes = {"real": (3000, 1600), "diffusion": (1200, 900), "GAN": (2000, 1500)}
    results = dataclasses.replace(
        made_up_results(),
        galleries=[Gallery(s, "AFF", [grey(*size)] * 5) for s, size in sizes.items()],
    )
    assert words.chosen(results).source == "GAN"
    write_report(results, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    native = [img for img in page.all("img") if int(img["height"] or 0) > 1000]
    assert "A click on a large one shows it at native size." in page.text
    # Of five radiographs of each kind, 30 million pixels hold three.
    assert [decode(img).shape for img in native] == [sizes["real"]] * 3 + [sizes["GAN"]] * 3
    np.testing.assert_array_equal(decode(native[-1]), grey(*sizes["GAN"]) // 256)
    shown = chromium.new_page(viewport={"width": 1280, "height": 800})
    shown.goto((tmp_path / "report.html").as_uri())
    last = shown.locator(".window img").last
    width, height = (last.bounding_box()[side] for side in ("width", "height"))
    assert width < 540 and height <= 680 and width / height == pytest.approx(0.75, abs=0.01)
    last.click()
    assert last.bounding_box()["width"] == sizes["GAN"][1]
    assert shown.evaluate("document.documentElement.scrollWidth") == 1280
    shown.close()


def test_a_browser_folds_the_questions_and_prints_them_open(html: str, tmp_path: Path, chromium):
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    short, table = page.locator(".cards"), page.get_by_role("cell", name="31.2 ± 2.1").first
    assert short.bounding_box()["y"] + short.bounding_box()["height"] <= 800
    assert short.get_by_role("img").count() == 7  # two photographs in the first and last card
    assert page.locator("details[open]").count() == 0 and not table.is_visible()
    page.get_by_role("link", name="2. As good as real ones?").click()
    assert table.is_visible()
    page.goto("about:blank")
    page.goto(path.as_uri())
    page.emulate_media(media="print")
    assert page.locator("details[open]").count() == 0 and table.is_visible()
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert [line for line in said if not line.startswith((path.as_uri(), "data:", "about:"))] == []
    page.close()


def test_hostile_text_stays_text(tmp_path: Path):
    r = made_up_results()
    hostile = dataclasses.replace(
        r,
        title=HOSTILE,
        galleries=[Gallery('"><img src=x>', HOSTILE, r.galleries[0].images)],
        curves=[dataclasses.replace(c, name=HOSTILE, panel=HOSTILE) for c in r.curves],
        classifiers=[
            dataclasses.replace(c, trained_on=HOSTILE, matched=HOSTILE) for c in r.classifiers
        ],
        contrasts=[dataclasses.replace(c, where=HOSTILE, first=HOSTILE) for c in r.contrasts],
        generators={HOSTILE: r.generators["GAN"]},
        pairs=[dataclasses.replace(n, source=HOSTILE) for n in r.pairs],
        sizes=[dataclasses.replace(s, source=HOSTILE, label=HOSTILE) for s in r.sizes],
        provenance={HOSTILE: HOSTILE},
    )
    write_report(hostile, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.all("script")
    assert page.text.count(HOSTILE) > 10
    assert all((img["src"] or "").startswith("data:") for img in page.all("img"))


def test_a_run_without_distances_says_so(tmp_path: Path):
    r = made_up_results()
    small = evaluation(0, distances=[], floor=[], patches=None, patch_floor=None)
    poor = dataclasses.replace(r, contrasts=[], generators={"GAN": {0: small}})
    write_report(poor, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text.count("this run trained no two generators") == 4
    assert "No set of this run holds ten radiographs" in page.text


def test_the_same_results_give_the_same_bytes(html: str, tmp_path: Path):
    write_report(made_up_results(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


def test_a_failure_leaves_the_former_report_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "report.html"
    path.write_text("former")

    def disk_full(self: Path, target: Path):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_report(made_up_results(), path)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_auc_table_lines_up():
    first = made_up_results().classifiers[0]
    more = dataclasses.replace(first, trained_on="real + diffusion", n_train=12652)
    lines = auc_table([first, more]).split("\n")
    assert len({len(line) for line in lines}) == 1
    shown = " ".join(lines[2].split())
    assert shown == "real 252 0.91 [0.80, 0.99] 0.55 [0.25, 0.80] 0.90 [0.70, 0.98]"
    assert lines[3].startswith("real + diffusion    12652   0.91 [0.80, 0.99]")


def test_tables_hold_the_numbers_behind_the_page(tmp_path: Path):
    results = made_up_results()
    write_tables(results, tmp_path)
    tables = {
        path.stem: list(csv.DictReader(path.read_text().splitlines()))
        for path in tmp_path.glob("*.csv")
    }
    assert tables.keys() == {"classifiers", "contrasts", "distances", "copies", "groups"}
    assert [row["auc.mean.low"] for row in tables["classifiers"]] == ["0.801"] * 6
    assert tables["classifiers"][0]["auc.auc"] == "0.89 0.91 0.918 0.938"
    p_values = [row["against_real.p_value"] for row in tables["classifiers"]]
    assert p_values == ["", *["0.43"] * 4, ""]
    assert tables["contrasts"][2]["auc.difference.low"] == "0.03"
    assert tables["classifiers"][0]["operating.sensitivity.low"] == "0.25"
    assert [row["seed"] for row in tables["distances"]] == ["", "", *["0", "0", "1", "1"] * 2]
    assert tables["distances"][2]["manifold.coverage"] == "0.73"
    assert tables["distances"][2]["descriptors.size"] == "0.123"
    assert tables["copies"][0]["flagged_share.high"] == "0.04"
    assert tables["groups"][1]["group"] == "h2"

    read = json.loads(as_json(results))
    assert read["generators"]["GAN"]["1"]["judged"]["value"] == 0.71
    assert read["published"]["a paper"]["sensitivity"] == 0.796


def test_an_evaluation_survives_json():
    for result in (evaluation(1), evaluation(0, judged=None, patches=None, patch_floor=None)):
        assert Evaluation.from_json(
            json.loads(json.dumps(result.to_json()))
        ) == dataclasses.replace(
            result, copies=[dataclasses.replace(row, pairs=[]) for row in result.copies]
        )
