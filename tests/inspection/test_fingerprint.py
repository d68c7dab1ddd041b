import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom, mannwhitneyu

from femur_jax.data.radiograph import Box, Radiograph, Source
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.errors import UserError
from femur_jax.inspection.chance import LEVEL, differences
from femur_jax.inspection.fingerprint import far_off, fingerprint
from femur_jax.inspection.fingerprint_page import contact_sheet, short_names, thumbnail
from femur_jax.inspection.separation import TELLING_AUC, flag, separation


def _radiograph(name, pixels, **fields):
    known = {"label": "NFF", "patient": f"of {name}", "hospital": "h"} | fields
    return Radiograph(pixels=np.asarray(pixels, np.uint16), name=name, **known)


def _noise(seed):
    return np.random.default_rng(seed).integers(0, 65536, (12, 10))


def _write(folder, radiographs, texts=()):
    """Writes (radiograph, split, hospital split) and tables of an ingestion as a dataset."""
    with DatasetWriter(folder, patch=16, provenance={"kind": "test"}) as writer:
        for radiograph, split, hospital_split in radiographs:
            writer.add(encode(radiograph, 16), split, hospital_split)
        for name, rows in texts:
            writer.write_text(name, "".join(json.dumps(row) + "\n" for row in rows))
    return RadiographDataset(folder)


def _checks(result):
    return {check.question: check.status for check in result.checks}


def test_the_counts_of_a_known_dataset(dataset):
    result = fingerprint(dataset)
    assert (result.radiographs, result.patients) == (44, 44)
    # The fixture assigns two labels and three hospitals in turn.
    sizes = {"train": 24, "validation": 8, "test": 12}
    assert [
        (c.split, c.label, c.radiographs, c.patients, c.hospitals) for c in result.by_patient
    ] == [
        (split, label, n // 2, n // 2, 3) for split, n in sizes.items() for label in ("NFF", "AFF")
    ]
    assert result.by_hospital == [] and result.lines is None
    by_name = {h.name: h for h in result.hospitals}
    for k in range(3):
        turns = [n for count in sizes.values() for n in range(count) if n % 3 == k]
        hospital = by_name[f"hospital-{k}"]
        assert hospital.radiographs == {
            "NFF": sum(n % 2 == 0 for n in turns),
            "AFF": sum(n % 2 == 1 for n in turns),
        }
        assert hospital.categories["spacing_source"] == {"detector": len(turns)}
        assert hospital.numbers["spacing_mm"].median == pytest.approx(0.2)
        assert hospital.numbers["age"] is None
    assert not result.failed
    json.dumps(dataclasses.asdict(result), allow_nan=False)


@pytest.mark.parametrize(
    ("splits", "status", "finding"),
    [
        ("train train", "pass", "one class only: none; empty: validation, test"),
        ("train test", "look", "one class only: train, test; empty: validation"),
    ],
)
def test_splits_without_a_class_are_named(tmp_path, splits, status, finding):
    sent = [
        (_radiograph(label, _noise(n), label=label, patient=label), split, "")
        for n, (label, split) in enumerate(zip(("NFF", "AFF"), splits.split(), strict=True))
    ]
    checks = {c.question: c for c in fingerprint(_write(tmp_path / "d", sent)).checks}
    check = checks["Are both classes in each split?"]
    assert (check.status, check.finding) == (status, finding)


@pytest.mark.parametrize(("count", "marked"), [(3, False), (4, False), (6, True)])
def test_a_hospital_of_one_class_is_marked_where_chance_is_unlikely(tmp_path, count, marked):
    """Chance gives two hospitals of six the two classes with probability 2/924, of four 2/70."""
    radiographs = [
        _radiograph(
            f"{hospital} {n}", _noise(n), label=label, hospital=hospital, patient=f"{hospital}{n}"
        )
        for hospital, label in (("g", "AFF"), ("h", "NFF"))
        for n in range(count)
    ]
    dataset = _write(tmp_path / "dataset", [(r, "train", "") for r in radiographs])
    marks = {h.name: h.marks.get("patients", "") for h in fingerprint(dataset).hospitals}
    if marked:
        assert marks["g"].startswith("6 of 6 patients with AFF, elsewhere 0 of 6 (p 0.0")
        assert marks["h"].startswith("0 of 6 patients with AFF, elsewhere 6 of 6 (p 0.0")
    else:
        assert marks == {"g": "", "h": ""}


def test_facts_of_a_hospital(tmp_path):
    half = np.repeat([[0] * 4 + [65535] * 4], 8, axis=0)  # mean 1/2, standard deviation 1/2
    framed = np.pad(half, ((4, 4), (0, 0)))
    source = Source(photometric="MONOCHROME1", bits=12, age=70, intent="processing")
    radiographs = [
        _radiograph("a", framed, crop=Box(4, 0, 8, 8), source=source, spacing_mm=0.5),
        _radiograph("b", np.full((8, 4), 13107), patient="of a"),  # a fifth of the range
        _radiograph("c", _noise(0), label="AFF", hospital="g"),
        _radiograph("d", _noise(1), label="NFF", hospital="g"),
        _radiograph("e", _noise(2), label="NFF", hospital="f"),
    ]
    dataset = _write(tmp_path / "dataset", [(r, "train", "") for r in radiographs])
    hospital = next(h for h in fingerprint(dataset).hospitals if h.name == "h")
    assert hospital.patients == {"NFF": 1, "AFF": 0}
    assert hospital.crops == 1
    spans = hospital.numbers
    assert (spans["share_cut"].minimum, spans["share_cut"].maximum) == (0, 0.5)
    assert (spans["aspect"].minimum, spans["aspect"].maximum) == (0.5, 1)
    assert spans["megapixels"].mean == pytest.approx(48e-6)
    assert spans["mean_grey"].mean == pytest.approx((0.5 + 0.2) / 2)
    assert spans["contrast"].maximum == pytest.approx(0.5)
    assert (spans["age"].known, spans["age"].median) == (1, 70)
    assert (spans["spacing_mm"].known, spans["spacing_mm"].median) == (1, 0.5)
    assert hospital.categories["bits"] == {"12": 1, "16": 1}
    assert "patients" not in hospital.marks  # a single patient always has one class
    assert hospital.marks == {}  # what five patients show may be chance


def test_a_dark_and_an_inverted_hospital_are_marked(tmp_path):
    radiographs = []
    for n in range(24):
        hospital = n % 6
        grey = _noise(n) // (8 if hospital == 2 else 1)
        source = Source(photometric="MONOCHROME1" if hospital == 4 else "MONOCHROME2")
        label = ("AFF", "NFF")[n // 6 % 2]
        fields = {"hospital": f"h{hospital}", "label": label, "source": source}
        radiographs.append((_radiograph(f"r{n}", grey, **fields), "train", ""))
    result = fingerprint(_write(tmp_path / "dataset", radiographs))
    marks = {h.name: set(h.marks) for h in result.hospitals if h.marks}
    assert marks == {"h2": {"mean_grey", "contrast"}, "h4": {"photometric"}}
    assert _checks(result)["Does a hospital differ from the others?"] == "look"


def test_a_hospital_with_an_odd_share_of_aff_is_marked(tmp_path):
    # Overall 28 of 96 patients have AFF: 14 of 16 has the probability 2e-6, 4 of 16 is common.
    radiographs = []
    for hospital, atypical in enumerate((14, 4, 4, 2, 2, 2)):
        for n in range(16):
            name = f"r{hospital}-{n}"
            fields = {"hospital": f"h{hospital}", "label": "AFF" if n < atypical else "NFF"}
            radiographs.append((_radiograph(name, _noise(len(radiographs)), **fields), "train", ""))
    result = fingerprint(_write(tmp_path / "dataset", radiographs))
    assert [h.name for h in result.hospitals if "patients" in h.marks] == ["h0"]
    assert next(s for s in result.separations if s.fact == "hospital").telling


def test_far_off():
    # Median 10, median absolute deviation 1: the bound is 3.5 / 0.6745 = 5.19.
    values = np.array([9.0, 9, 10, 10, 11, 11, 15.1, 15.3])
    values = np.append(values, [8.0, 10.0, 9.0])
    assert np.median(values) == 10 and np.median(np.abs(values - 10)) == 1
    assert far_off(values).tolist() == [v == 15.3 for v in values]
    assert not far_off(np.array([5.0, 5, 5, 5.1])).any()  # equal devices hardly differ
    assert far_off(np.array([5.0, 5, 5, 6])).tolist() == [False, False, False, True]


def test_separation_by_a_number_counts_pairs():
    rng = np.random.default_rng(3)
    atypical = rng.random(60) < 0.3
    values = np.round(rng.normal(size=60) - 0.8 * atypical, 1)  # with ties, lower where atypical
    pairs = values[atypical][:, None] - values[~atypical][None]
    below = np.mean(pairs < 0) + np.mean(pairs == 0) / 2
    result = separation("age", atypical, values)
    assert result.auc == pytest.approx(below) and result.auc > 0.6
    assert result.patients == 60
    [flagged] = flag([result])
    assert flagged.telling and flagged.p == result.p


def test_separation_by_a_word():
    atypical = np.arange(60) % 3 == 0
    telling = ["A" if a else "B" for a in atypical]
    [perfect] = flag([separation("vendor", atypical, telling)])
    assert perfect.auc == 1 and perfect.p == 1 / 2000 and perfect.telling
    unique = [f"hospital {n}" for n in range(60)]  # fits its only patient, says nothing of others
    result = separation("hospital", atypical, unique)
    assert result.auc == pytest.approx(0.5, abs=0.05) and not result.telling
    assert separation("view", atypical, ["AP"] * 60).auc == pytest.approx(0.5, abs=0.05)
    few = separation("view", np.arange(60) < 4, ["AP"] * 60)
    assert few.auc is None and not few.telling


def test_the_bound_by_chance_is_that_of_random_ranks():
    rng = np.random.default_rng(4)
    atypical = np.arange(50) < 15
    result = separation("age", atypical, rng.normal(size=50))
    ranks = rng.permuted(np.tile(np.arange(50), (4000, 1)), axis=1)
    aucs = (ranks[:, :15].sum(1) - 15 * 14 / 2) / (15 * 35)
    assert result.chance == pytest.approx(np.quantile(aucs, 0.975), abs=0.01)


TRIALS, MOST = 150, 17
"""The expected number is 5% of these, 7.5; more than 17 have a probability below 0.001."""


def test_random_hospitals_differ_at_the_stated_rate():
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(TRIALS):
        hospitals = [f"h{k}" for k in rng.integers(0, 8, 40)]
        facts = {
            "number": rng.normal(size=40),
            "rounded": np.round(rng.normal(size=40)),
            "skewed": np.where(rng.random(40) < 0.2, np.nan, rng.exponential(size=40)),
            "rare": (rng.random(40) < 0.1).astype(float),
            "constant": np.ones(40),
        }
        p = differences(hospitals, facts)
        assert not any(fact == "constant" for fact, _ in p)
        found += min(p.values()) < LEVEL
    assert binom.sf(MOST, TRIALS, LEVEL) < 0.001
    assert found <= MOST


def test_a_difference_has_the_probability_of_wilcoxon():
    """Holm's correction doubles it, since both hospitals make the same comparison."""
    values = np.arange(20.0)
    for text in ("ggggghghghghghghghhh", "gghhgghhgghhgghhgghh", "hhhhgggggggggggggggg"):
        ours = np.array([letter == "g" for letter in text])
        exact = mannwhitneyu(values[ours], values[~ours], method="exact").pvalue
        p = differences(list(text), {"age": values})
        assert p["age", "g"] == p["age", "h"] == pytest.approx(min(1, 2 * exact), abs=0.03)


def test_random_classes_are_told_by_a_fact_at_the_stated_rate():
    rng = np.random.default_rng(6)
    found = by_auc = 0
    for _ in range(25):
        atypical = rng.permutation(np.arange(40) < 10)
        facts = [separation("number", atypical, rng.normal(size=40))]
        words = [[f"w{k}" for k in rng.integers(0, most, 40)] for most in (2, 5, 40)]
        facts += [separation("word", atypical, word) for word in words]
        found += any(s.telling for s in flag(facts))
        by_auc += any((s.auc or 0) > TELLING_AUC for s in facts)
    assert binom.sf(6, 25, LEVEL) < 0.001
    assert found <= 6 < by_auc


@pytest.mark.parametrize(
    ("leak", "question", "name"),
    [
        ({"patient": "of r0"}, "Are patients in one split each, by patient?", "of r0"),
        ({"pixels": _noise(0)}, "Are pictures in one split each, by patient?", "r0 = r9"),
        ({"hospital": "h0"}, "Are hospitals in one split each, by hospital?", "h0"),
    ],
)
def test_a_leak_is_found(tmp_path, leak, question, name):
    fields = {"pixels": _noise(9), "patient": "of r9", "hospital": "h9"}
    sent = [
        (_radiograph("r0", _noise(0), hospital="h0"), "train", "train"),
        (_radiograph("r1", _noise(1), hospital="h0", patient="of r0"), "train", "train"),
    ]
    clean = fingerprint(
        _write(tmp_path / "clean", [*sent, (_radiograph("r9", **fields), "test", "test")])
    )
    assert _checks(clean)[question] == "pass"
    assert clean.verdict.startswith("No patient, picture or held-out hospital is in two splits.")
    last = _radiograph("r9", **fields | leak)
    result = fingerprint(_write(tmp_path / "leaky", [*sent, (last, "test", "test")]))
    assert _checks(result)[question] == "fail" and result.failed
    assert result.verdict.startswith("The splits leak. ")
    assert {tuple(item.names) for item in result.leaks} == {(), (name,)}


def test_a_patient_outside_the_hospital_splits_is_not_a_leak(tmp_path):
    sent = [
        (_radiograph("a", _noise(0), patient="p", hospital="h0"), "train", ""),
        (_radiograph("b", _noise(1), patient="p", hospital="h1"), "train", ""),
        (_radiograph("c", _noise(2), hospital="h0"), "train", "train"),
        (_radiograph("d", _noise(3), hospital="h1"), "test", "test"),
    ]
    assert not any(leak.names for leak in fingerprint(_write(tmp_path / "d", sent)).leaks)


def test_pairs_that_look_alike_are_sorted(tmp_path):
    names = ["a", "b", "c", "d"]
    splits = [("train", "train"), ("train", "train"), ("train", "test"), ("test", "test")]
    sent = [
        (_radiograph(name, _noise(n), hospital=f"h{splits[n][1]}"), *splits[n])
        for n, name in enumerate(names)
    ]
    rows = [("a", "b", 0), ("a", "d", 3), ("b", "c", 1), ("c", "d", 2)]
    table = [{"files": [a, b], "bits": bits} for a, b, bits in rows]
    result = fingerprint(_write(tmp_path / "d", sent, [("similar.jsonl", table)]))
    assert [(*pair.files, pair.across) for pair in result.similar] == [
        ("b", "c", True),  # by hospital alone
        ("c", "d", True),  # by patient alone
        ("a", "d", True),
        ("a", "b", False),
    ]
    assert not result.failed and result.verdict.endswith("for a person to judge: 3.")


@pytest.mark.parametrize(("inputs", "status"), [(4, "pass"), (5, "fail")])
def test_lines_must_add_up(tmp_path, inputs, status):
    lines = {"inputs": inputs, "accepted": 1, "quarantined": 2, "duplicates": 1}
    bad = [{"file": code, "hospital": "lost", "code": code} for code in ("empty", "colour")]
    texts = [
        ("ingest.json", [lines]),
        ("quarantine.jsonl", bad),
        ("duplicates.jsonl", [{"hospital": "h"}]),
    ]
    result = fingerprint(
        _write(tmp_path / "d", [(_radiograph("a", _noise(0)), "train", "")], texts)
    )
    assert _checks(result)["Is each line of the label table accounted for?"] == status
    assert result.quarantined == {"colour": ["colour"], "empty": ["empty"]}
    sent, lost = result.hospitals
    assert (sent.name, sent.duplicates, sent.quarantined) == ("h", 1, {})
    assert (lost.name, lost.radiographs) == ("lost", {"NFF": 0, "AFF": 0})
    assert lost.quarantined == {"colour": 1, "empty": 1} and lost.numbers["age"] is None
    assert lost.marks == {"radiographs": "none of its files could be used"}


def test_tables_of_an_older_version_are_reported(tmp_path):
    texts = [("quarantine.jsonl", [{"file": "x", "code": "empty"}])]
    dataset = _write(tmp_path / "d", [(_radiograph("a", _noise(0)), "train", "")], texts)
    with pytest.raises(UserError, match=r"quarantine\.jsonl names no hospitals"):
        fingerprint(dataset)


def test_the_contact_sheet_shows_all_hospitals_alike(dataset):
    entries = [dataclasses.replace(dataset.entries[0], sha256=f"{n}") for n in range(60)]
    sent = [40, 15, 4, 1]
    hospitals = [f"h{k}" for k, count in enumerate(sent) for _ in range(count)]
    entries = [dataclasses.replace(e, hospital=h) for e, h in zip(entries, hospitals, strict=True)]
    chosen = contact_sheet(entries, "NFF", 15)
    shown = [hospitals[n] for n in chosen]
    assert [shown.count(f"h{k}") for k in range(4)] == [5, 5, 4, 1]
    assert shown == sorted(shown)
    assert chosen == contact_sheet(entries, "NFF", 15)
    assert chosen != contact_sheet(entries, "NFF", 15, seed=1)
    assert sorted(contact_sheet(entries, "NFF", None)) == list(range(60))
    assert contact_sheet(entries, "AFF", 15) == []


def test_a_thumbnail_shows_the_area_outside_the_crop(tmp_path):
    y, x = np.mgrid[:600, :400]
    pixels = np.where(y < 60, 60000, 20000 + 30 * x)  # bright lettering above the crop
    sent = [
        _radiograph("cropped", pixels, crop=Box(60, 100, 540, 200)),
        _radiograph("whole", pixels),
        _radiograph("small", pixels[:10, :8]),
    ]
    dataset = _write(tmp_path / "d", [(r, "train", "") for r in sent])
    for n in (0, 1):
        shot = thumbnail(dataset, n)
        assert (shot.height, shot.width) == (256, 171)
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot.data))))
        truth = Image.fromarray((pixels >> 8).astype(np.uint8)).resize((171, 256))
        assert np.abs(picture - np.asarray(truth, float))[30:].max() < 6
        assert picture[:22].mean() == pytest.approx(60000 / 256, abs=2)
    assert thumbnail(dataset, 0).crop == pytest.approx((10, 25, 90, 50))
    assert thumbnail(dataset, 1).crop is None
    assert (thumbnail(dataset, 2).height, thumbnail(dataset, 2).width) == (10, 8)


def test_short_names():
    assert short_names(["abcdef01", "abcdef23", "0123"]) == {
        "abcdef01": "abcdef0",
        "abcdef23": "abcdef2",
        "0123": "0123",
    }
    assert short_names(["same", "same"]) == {"same": "same"}
