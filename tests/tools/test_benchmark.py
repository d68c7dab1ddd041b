"""The harness of `make bench`; the measurements themselves are run by it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import machine, records
from benchmarks.measurements import MEASUREMENTS, Found, measurement
from benchmarks.records import Goal, Record
from tools import benchmark


def a_record(**fields) -> Record:
    record = Record(
        name="speed",
        about="How fast it is.",
        value=1.25,
        unit="x",
        spread=(1.0, 1.5),
        goal=Goal(">=", 1.0),
        device="a CPU",
        versions={"jax": "1.2.3"},
        date="2026-01-02",
        command="make bench ONLY=speed",
        details={"ms per step": 12.34567, "seconds by stage": {"ingest": 3.5}},
    )
    return replace(record, **fields)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "require_idle", lambda: None)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A table of one measurement, which finds the values of the returned list in turn."""
    monkeypatch.setattr("benchmarks.measurements.MEASUREMENTS", table := {})
    monkeypatch.setattr(benchmark, "MEASUREMENTS", table)
    values: list[float] = []

    @measurement("x", Goal(">=", 1.0))
    def made_up() -> Found:
        """Says what it is told."""
        return Found(values.pop(0), device="a CPU", versions={"peer": "9"}, details={"n": 1})

    return values


def test_ratio_is_of_the_medians_and_spread_is_within_rounds():
    # Medians 30 and 10; an outlier of either side moves only the spread.
    ratio, spread = records.ratio_of_rounds(peer=[20, 30, 900], own=[10, 60, 9])
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


def test_merge_replaces_the_record_of_the_same_name_and_device_alone():
    old = [a_record(), a_record(device="a GPU"), a_record(name="size")]
    merged = records.merge(old, a_record(value=2.0))
    assert [(r.name, r.device, r.value) for r in merged] == [
        ("size", "a CPU", 1.25),
        ("speed", "a CPU", 2.0),
        ("speed", "a GPU", 1.25),
    ]


def test_records_survive_the_file(tmp_path: Path):
    written = [a_record(), a_record(name="size", spread=None, goal=Goal("<=", 2.0))]
    records.write(written, tmp_path / "results.json")
    assert records.read(tmp_path / "results.json") == written
    assert records.read(tmp_path / "none.json") == []


def test_markdown_says_what_the_records_say():
    text = records.markdown([a_record(), a_record(name="size", value=0.5, spread=None)])
    assert "do not edit" in text
    assert "| speed | 1.25 x | 1 to 1.5 | >= 1 | yes | a CPU | 2026-01-02 |" in text
    assert "| size | 0.5 x | one round | >= 1 | no | a CPU | 2026-01-02 |" in text
    assert "## speed on a CPU\n\nHow fast it is.\n\nRun `make bench ONLY=speed`." in text
    assert "- ms per step: 12.35\n- seconds by stage: ingest 3.5\n- versions: jax 1.2.3\n" in text


def test_a_run_is_recorded_and_others_stay(tmp_path: Path, table: list[float], idle: None):
    results = tmp_path / "results.json"
    records.write([a_record()], results)
    table[:] = [0.5, 2.0]
    for value, met in ((0.5, "no"), (2.0, "yes")):
        assert benchmark.main(["--only", "made_up", "--results", str(results)]) == 0
        made_up, other = json.loads(results.read_text())
        assert (made_up["name"], made_up["value"]) == ("made_up", value)
        assert (made_up["about"], made_up["unit"]) == ("Says what it is told.", "x")
        assert {"python", "jax", "flax", "peer"} <= made_up["versions"].keys()
        assert made_up["command"] == "make bench ONLY=made_up"
        assert other["name"] == "speed"
        text = (tmp_path / "RESULTS.md").read_text()
        assert f"| made_up | {value:g} x | one round | >= 1 | {met} |" in text


def test_what_needs_a_gpu_is_left_out_without_one(
    table: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    @measurement("x", Goal(">=", 1.0), gpu=True)
    def on_a_gpu() -> Found:
        """Never runs."""
        raise AssertionError

    monkeypatch.setattr(benchmark, "has_gpu", lambda: False)
    assert [m.name for m in benchmark.selected(None)] == ["made_up"]
    assert "Left out, since JAX finds no GPU: on_a_gpu" in capsys.readouterr().out
    assert benchmark.main(["--only", "on_a_gpu"]) == 2
    assert "on_a_gpu needs a GPU, and JAX finds none" in capsys.readouterr().err
    monkeypatch.setattr(benchmark, "has_gpu", lambda: True)
    assert [m.name for m in benchmark.selected(None)] == ["made_up", "on_a_gpu"]


def test_an_unknown_name_ends_with_one_sentence_and_2(capsys: pytest.CaptureFixture[str]):
    assert benchmark.main(["--only", "speeed"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "'speeed'" in message
    assert all(name in message for name in MEASUREMENTS)


def test_nothing_is_recorded_on_a_busy_machine(
    tmp_path: Path,
    table: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    rows = iter([[0] * 8, [150, 0, 0, 50, 0, 0, 0, 0]])  # 150 ticks of work, 50 of none
    monkeypatch.setattr(machine, "_ticks", lambda: next(rows))
    monkeypatch.setattr(machine, "_OBSERVED_SECONDS", 0.0)
    table[:] = [1.0]
    assert benchmark.main(["--results", str(tmp_path / "results.json")]) == 2
    assert "75% of the processor" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_busy_share_leaves_out_idling_and_waiting_for_disks():
    # user, nice, system, idle, iowait, irq, softirq, steal
    before = [100, 10, 20, 500, 40, 1, 2, 3]
    after = [110, 12, 25, 560, 60, 1, 3, 5]  # 20 of 100 ticks were work
    assert machine.busy_share(before, after) == pytest.approx(0.2)
