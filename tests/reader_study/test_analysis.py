import csv
import re

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import holm
from femur_jax.reader_study.analysis import ALL_READERS, Finding, analyse
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.page import conclusion, joint_conclusion, write_results


def read_all(study, store, reader, rng, *, stop=None):
    """Answers at random, but more often correctly; one remark contains HTML."""
    truth = {case.image: case for case in study.cases}
    store.invite(reader)
    for number, item in enumerate(store.items(reader)[:stop]):
        cases = [truth[image] for image in item.images]
        if item.block == "display":
            answers = {"visible": []}
        elif item.block == "pair":
            answers = {"synthetic": int(rng.integers(1, 3)), "remark": ""}
        else:
            truths = [cases[0].source != "real", cases[0].label == "AFF"]
            source, label = (int(rng.integers(1, 5) + 2 * positive) for positive in truths)
            answers = {
                "source": source,
                "label": label,
                "realism": int(rng.integers(1, 6)),
                "artefacts": ["texture"] if rng.random() < 0.3 else [],
                "remark": "<script>alert(1)</script>" if number == 6 else "",
            }
        store.save(reader, number, answers, int(rng.integers(500, 9000)), final=True)


@pytest.fixture
def read(study):
    rng = np.random.default_rng(5)
    store = AnswerStore(study)
    for reader in ("anna", "bo", "carl"):
        read_all(study, store, reader, rng, stop=20 if reader == "carl" else None)
    yield study, store
    store.close()


def test_findings_against_the_plain_table_of_answers(read, tmp_path):
    study, store = read
    results = analyse(study, store)
    write_results(results, study.design, tmp_path)
    with (tmp_path / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    findings = {(f.topic, f.measure, f.reader, f.source): f for f in results.findings}
    assert len(findings) == len(results.findings)  # no two findings have the same key
    findings |= {key[1:]: finding for key, finding in findings.items()}
    tests = []
    for reader in ("anna", "bo"):
        single = [r for r in rows if r["reader"] == reader and r["block"] == "single"]
        first = [r for r in single if r["repeat"] == "0"]
        assert (len(single), len(first)) == (30, 24)
        synthetic = np.array([r["true_source"] != "real" for r in first])
        source = np.array([int(r["answer_source"]) for r in first])
        label = np.array([int(r["answer_label"]) for r in first])
        aff = np.array([r["true_label"] == "AFF" for r in first])
        accuracy = findings["accuracy", reader, "synthetic"]
        assert (accuracy.value, accuracy.n) == (np.mean((source > 3) == synthetic), 24)
        detection = findings["detection", "ROC AUC", reader, "synthetic"]
        assert detection.value == pytest.approx(roc_auc_score(synthetic, source))
        for name, group in (("real", ~synthetic), ("synthetic", synthetic)):
            assert findings["sensitivity", reader, name].value == np.mean(label[group & aff] > 3)
            assert findings["specificity", reader, name].value == np.mean(label[group & ~aff] <= 3)
            seconds = [float(r["seconds"]) for r, is_in in zip(first, group, strict=True) if is_in]
            assert findings["median seconds", reader, name].value == np.median(seconds)
        ticked = [r["answer_artefacts"] == "texture" for r in first if r["true_source"] == "gan"]
        assert findings["texture", reader, "gan"].value == np.mean(ticked)
        for generator in ("diffusion", "gan"):
            realism = {r["radiograph"]: int(r["answer_realism"]) for r in first}
            pairs = [r["pair"] for r in first if r["true_source"] == generator]
            by_pair = [[r for r in first if r["pair"] == pair] for pair in pairs]
            difference = [
                sum(
                    (1 if r["true_source"] == "real" else -1) * realism[r["radiograph"]]
                    for r in two
                )
                for two in by_pair
            ]
            finding = findings["difference within pairs", reader, f"real - {generator}"]
            assert (finding.value, finding.n) == (pytest.approx(np.mean(difference)), 6)
            tests.append(finding)
        again = [r for r in single if r["repeat"] == "1"]
        before = [next(f for f in first if f["image"] == r["image"]) for r in again]
        calls = [[int(r["answer_label"]) > 3 for r in group] for group in (before, again)]
        kappa = findings["kappa, AFF or NFF", f"{reader}, repeats", "all"]
        assert kappa.value == pytest.approx(cohen_kappa_score(*calls)) and kappa.n == 6
        pairs = [r for r in rows if r["reader"] == reader and r["block"] == "pair"]
        right = sum(r["true_source"] != "real" for r in pairs)
        exact = scipy.stats.binomtest(right, 4).proportion_ci(method="exact")
        assert findings["accuracy, pairs", reader, "synthetic"].low == exact.low
    assert min(test.p_holm / test.p for test in tests) >= 1
    tested = [f for f in results.findings if f.topic == "detection" and f.p is not None]
    assert {f.measure for f in tested} == {"ROC AUC", "accuracy, pairs", "mean ROC AUC"}
    adjusted = holm([f.p for f in tested])
    assert [f.p_holm for f in tested] == adjusted
    assert joint_conclusion(results.findings).startswith(("Yes", "No", "Undecided"))
    # carl has not finished: his 20 items are the display check, 4 for practice and 15 scored ones.
    assert results.progress["carl"] == (20, 39)
    assert findings["accuracy", "carl", "synthetic"].n == 15
    common = findings["kappa, AFF or NFF", "anna, carl", "all"]
    assert common.n == 15
    assert findings["mean ROC AUC", "all readers", "real"].n == 3


def finding(reader: str, value: float, p: float, p_equivalence: float) -> Finding:
    return Finding(
        "detection", "ROC AUC", reader, "synthetic", 200, value, p=p, p_holm=p,
        p_equivalence=p_equivalence,
    )  # fmt: skip


def test_readers_are_summed_up_in_one_sentence():
    guess, doubt = finding("a", 0.51, 0.8, 0.01), finding("b", 0.55, 0.2, 0.2)
    better, worse = finding("c", 0.8, 0.001, 1.0), finding("d", 0.2, 0.001, 1.0)
    everybody = finding(ALL_READERS, 0.8, 0.001, 1.0)
    assert [conclusion(f) for f in (guess, doubt, better, worse)] == [
        "within the margin",
        "undecided",
        "better than guessing",
        "worse than guessing",
    ]
    assert joint_conclusion([guess, everybody]).startswith("No: the reader is shown to guess")
    assert joint_conclusion([guess, doubt]).startswith("Undecided")
    assert joint_conclusion([guess, better]) == "Yes: 1 of 2 readers can."
    assert "check their scale" in joint_conclusion([guess, worse])
    assert joint_conclusion([everybody]).startswith("Not answered")


def test_the_page_escapes_remarks_and_loads_no_other_file(read, tmp_path):
    study, store = read
    write_results(analyse(study, store), study.design, tmp_path)
    html = (tmp_path / "results.html").read_text()
    assert "<script" not in html and "&lt;script&gt;" in html
    assert not re.search(r"(src|href)=", html)
    assert "20 of 39 answered: not finished" in html
    assert html.count("<table>") == html.count("</table>") == 8


def test_results_of_one_reader_contain_no_statistics_of_several(read):
    study, store = read
    results = analyse(study, store, ["anna"])
    assert {finding.reader for finding in results.findings} == {"anna", "anna, repeats"}


def test_scoring_reports_missing_readings_and_unknown_readers(study):
    store = AnswerStore(study)
    with pytest.raises(UserError, match=r"No scored radiograph of .* has been read yet"):
        analyse(study, store)
    store.invite("anna")
    store.save("anna", 0, {"visible": []}, 10, final=True)
    with pytest.raises(UserError, match=r"No scored radiograph of .* has been read yet"):
        analyse(study, store)
    with pytest.raises(UserError, match=r"No reader 'bo' was invited .* readers are: anna"):
        analyse(study, store, ["bo"])
    store.close()


@pytest.mark.parametrize("stop", range(5, 13))
def test_a_session_can_be_scored_after_every_answer(study, stop):
    store = AnswerStore(study)
    rng = np.random.default_rng(stop)
    for reader in ("anna", "bo"):
        read_all(study, store, reader, rng, stop=stop + 1)
    findings = analyse(study, store).findings
    assert findings and all(f.n > 0 for f in findings)
    store.close()
