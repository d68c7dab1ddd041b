"""The command and the records of `make bench` and `make experiment`, which run the rest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import command, machine, records
from benchmarks.__main__ import SUITE as SPEED
from benchmarks.command import Suite
from benchmarks.experiments.__main__ import SUITE as EXPERIMENTS
from benchmarks.machine import ROOT
from benchmarks.records import Goal, Measurement, Record, Result, measurement
from femur_jax.errors import UserError
from femur_jax.gpu_plan.compiler import check_plugin


def a_measurement(name: str, *, gpu: bool = False, plugin: bool = False) -> Measurement:
    return Measurement(
        name,
        "How fast it is.",
        "x",
        Goal(">=", 1.0),
        gpu=gpu,
        plugin=plugin,
        timed=True,
        run=lambda: pytest.fail("must not run"),
    )


def a_record(**fields) -> Record:
    record = Record(
        name="speed",
        date="2026-01-02",
        value=1.25,
        device="a CPU",
        spread=(1.0, 1.5),
        versions={"jax": "1.2.3"},
        details={"ms per step": 12.34567, "seconds by stage": {"ingest": 3.5, "train": (1, 2)}},
    )
    return replace(record, **fields)


def a_suite(*measurements: Measurement) -> Suite:
    return Suite("Speed", "bench", "benchmarks", {m.name: m for m in measurements})


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "require_idle", lambda: None)


def test_ratio_is_of_the_medians_and_spread_is_within_rounds():
    # Medians 30 and 10; an outlier of either side moves only the spread.
    ratio, spread = records.ratio_of_rounds(peer=[20, 30, 900], ours=[10, 60, 9])
    assert ratio == 3.0
    assert spread == (0.5, 100.0)


def test_rounds_must_come_in_pairs():
    with pytest.raises(ValueError):
        records.ratio_of_rounds([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal(">=", 1.0), 1.0, True),
        (Goal(">=", 1.0), 0.99, False),
        (Goal("<=", 900.0), 900.0, True),
        (Goal("<=", 900.0), 901.0, False),
    ],
)
def test_goal(goal: Goal, value: float, met: bool):
    assert goal.met(value) is met


def test_merge_replaces_only_the_record_of_the_same_name_and_device():
    old = [a_record(), a_record(device="a GPU"), a_record(name="size")]
    merged = records.merge(old, a_record(value=2.0))
    assert [(r.name, r.device, r.value) for r in merged] == [
        ("size", "a CPU", 1.25),
        ("speed", "a CPU", 2.0),
        ("speed", "a GPU", 1.25),
    ]


def test_records_survive_the_file(tmp_path: Path):
    written = [a_record(details={"n": 1}), a_record(name="size", spread=None, details={})]
    records.write(written, tmp_path / "results.json")
    assert records.read(tmp_path / "results.json") == written
    assert records.read(tmp_path / "none.json") == []


def test_the_page_shows_the_records_and_the_docstrings():
    measurements = {name: a_measurement(name) for name in ("speed", "size")}
    text = records.markdown(
        [a_record(), a_record(name="size", value=0.5, spread=None)],
        measurements,
        title="Speed",
        target="bench",
    )
    assert text.startswith("# Speed\n")
    assert "do not edit" in text
    assert "| speed | 1.25 x | 1 to 1.5 | >= 1 | yes | a CPU | 2026-01-02 |" in text
    assert "| size | 0.5 x | one round | >= 1 | no | a CPU | 2026-01-02 |" in text
    assert "## speed on a CPU\n\nHow fast it is.\n\nRun `make bench ONLY=speed`." in text
    assert (
        "- ms per step: 12.35\n- seconds by stage: ingest 3.5, train (1, 2)\n"
        "- versions: jax 1.2.3\n" in text
    )


def test_a_record_without_its_measurement_is_refused():
    with pytest.raises(UserError, match="has records of speed, which `make bench` does not"):
        records.markdown([a_record()], {}, title="Speed", target="bench")


@pytest.mark.parametrize("suite", [SPEED, EXPERIMENTS], ids=["bench", "experiment"])
def test_pages_are_up_to_date_with_docstrings_and_results(suite: Suite):
    folder = ROOT / suite.package.replace(".", "/")
    assert (folder / "RESULTS.md").read_text() == suite.page(folder)


def test_speed_and_experiments_have_different_names():
    assert not SPEED.measurements.keys() & EXPERIMENTS.measurements.keys()


def test_a_run_is_recorded_and_others_stay(tmp_path: Path, idle: None):
    results, values = tmp_path / "results.json", [0.5, 2.0]

    @measurement("x", Goal(">=", 1.0))
    def ratio() -> Result:
        """How large a ratio is."""
        return Result(value=values.pop(0), device="a CPU", versions={"peer": "9"}, details={"n": 1})

    suite = a_suite(ratio, a_measurement("speed"))
    records.write([a_record()], results)
    for value, met in ((0.5, "no"), (2.0, "yes")):
        assert command.main(suite, ["--only", "ratio", "--folder", str(tmp_path)]) == 0
        new, other = json.loads(results.read_text())
        assert (new["name"], new["value"], new["details"]) == ("ratio", value, {"n": 1})
        assert {"python", "jax", "flax", "peer"} <= new["versions"].keys()
        assert other["name"] == "speed"
        text = (tmp_path / "RESULTS.md").read_text()
        assert f"| ratio | {value:g} x | one round | >= 1 | {met} |" in text
        assert "How large a ratio is.\n\nRun `make bench ONLY=ratio`." in text


def test_the_page_is_written_again_without_measuring(tmp_path: Path):
    records.write([a_record()], tmp_path / "results.json")
    suite = a_suite(a_measurement("speed"))
    assert command.main(suite, ["--page_only", "--folder", str(tmp_path)]) == 0
    assert "| speed | 1.25 x |" in (tmp_path / "RESULTS.md").read_text()


def test_measurements_that_need_a_gpu_are_skipped_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    suite = a_suite(a_measurement("anywhere"), a_measurement("on_a_gpu", gpu=True))
    monkeypatch.setattr(command, "has_gpu", lambda: False)
    assert [m.name for m in command.selected(suite.measurements, None)] == ["anywhere"]
    assert "Skipped because JAX finds no GPU: on_a_gpu" in capsys.readouterr().out
    assert command.main(suite, ["--only", "on_a_gpu"]) == 2
    assert "on_a_gpu needs a GPU, and JAX finds none" in capsys.readouterr().err
    monkeypatch.setattr(command, "has_gpu", lambda: True)
    both = [m.name for m in command.selected(suite.measurements, None)]
    assert both == ["anywhere", "on_a_gpu"]


def test_measurements_of_gpu_programs_are_skipped_without_the_plugin(
    capsys: pytest.CaptureFixture[str],
):
    try:
        check_plugin()
    except UserError as error:
        lack = str(error)
    else:
        pytest.skip("JAX's CUDA plugin is installed")
    suite = a_suite(a_measurement("anywhere"), a_measurement("compiled", plugin=True))
    assert [m.name for m in command.selected(suite.measurements, None)] == ["anywhere"]
    assert f"Skipped: compiled. {lack}" in capsys.readouterr().out


def test_an_unknown_name_ends_with_one_sentence_and_2(capsys: pytest.CaptureFixture[str]):
    assert command.main(SPEED, ["--only", "speeed"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "'speeed'" in message
    assert all(name in message for name in SPEED.measurements)


def test_nothing_is_recorded_on_a_busy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rows = iter([[0] * 8, [150, 0, 0, 50, 0, 0, 0, 0]])  # 150 ticks of work, 50 of none
    monkeypatch.setattr(machine, "_ticks", lambda: next(rows))
    monkeypatch.setattr(machine, "_OBSERVED_SECONDS", 0.0)
    assert command.main(a_suite(a_measurement("speed")), ["--folder", str(tmp_path)]) == 2
    assert "75% of the processor" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rates_are_recorded_on_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "require_idle", lambda: pytest.fail("must not wait"))

    @measurement("", Goal("<=", 0.05), timed=False)
    def rate() -> Result:
        """How often a test is wrong."""
        return Result(value=0.04, device="a CPU")

    assert command.main(a_suite(rate), ["--only", "rate", "--folder", str(tmp_path)]) == 0
    assert "| rate | 0.04 |" in (tmp_path / "RESULTS.md").read_text()


def test_busy_share_leaves_out_idling_and_waiting_for_disks():
    # user, nice, system, idle, iowait, irq, softirq, steal
    before = [100, 10, 20, 500, 40, 1, 2, 3]
    after = [110, 12, 25, 560, 60, 1, 3, 5]  # 20 of 100 ticks were work
    assert machine.busy_share(before, after) == pytest.approx(0.2)
