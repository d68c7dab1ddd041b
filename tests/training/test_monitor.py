"""What a run reports, read back with TensorBoard's own reader."""

import json
import sys

import imagecodecs
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from femur_jax.training import loop
from femur_jax.training.monitor import SCALARS, SPEED, read_scalars
from tests.training.least_squares import LeastSquares, least_squares_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = least_squares_config()
    config.train.steps = 15
    config.profile = 2
    state = loop.train(LeastSquares(), config, folder)
    return folder, state


@pytest.fixture(scope="module")
def events(run):
    return EventAccumulator(str(run[0]), size_guidance={"tensors": 0}).Reload()


def test_scalars_are_in_the_event_file(run, events):
    lines = read_scalars(run[0])
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15]
    logged = [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors("loss")]
    expected = [(line["step"], np.float32(line["loss"])) for line in lines]
    assert logged == expected


def test_images_and_histograms_are_in_the_event_file(run, events):
    [images] = events.Tensors("samples")
    width, height, *pictures = make_ndarray(images.tensor_proto)
    assert (images.step, int(width), int(height), len(pictures)) == (15, 8, 8, 2)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    row = imagecodecs.png_decode((run[0] / "samples.png").read_bytes())
    np.testing.assert_array_equal(row, np.hstack([imagecodecs.png_decode(p) for p in pictures]))
    [histogram] = events.Tensors("parameters/kernel")
    buckets = make_ndarray(histogram.tensor_proto)  # left, right, count
    kernel = np.asarray(run[1].params["kernel"])
    assert buckets[:, 2].sum() == kernel.size
    np.testing.assert_allclose([buckets[0, 0], buckets[-1, 1]], [kernel.min(), kernel.max()])


def test_config_parameters_and_hyperparameters_are_in_the_event_file(run, events):
    text = make_ndarray(events.Tensors("config")[0].tensor_proto).item().decode()
    assert '"batch_size": 16' in text
    overview = make_ndarray(events.Tensors("parameters")[0].tensor_proto).item().decode()
    assert "kernel" in overview
    assert "(4, 8)" in overview
    assert "Total: 40" in (run[0] / "parameters.txt").read_text()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["train/batch_size"].number_value == 16


def test_speed_has_a_file_of_its_own(run, events):
    lines = [json.loads(line) for line in (run[0] / SPEED).read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15]
    for line in lines:
        assert line["steps_per_second"] > 0
        assert 0 <= line["input_wait_share"] <= 1
        assert line["host_peak_gib"] > 0.01
        # XLA counts the operations of one device, which holds two of the 16 samples.
        flops = line["tflops_per_device"] * 1e12 / line["steps_per_second"]
        assert 2 * 2 * 4 * 8 * 2 < flops < 10_000
    assert len(events.Tensors("steps_per_second")) == 5


def test_the_requested_steps_are_profiled(run):
    assert list(run[0].glob("plugins/profile/*/*.xplane.pb"))


def test_without_tensorflow_the_run_continues_and_says_so_once(tmp_path, monkeypatch, capfd):
    for name in [n for n in sys.modules if n.startswith("clu.metric_writers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("clu.metric_writers", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    loop.train(LeastSquares(), least_squares_config(), tmp_path)
    assert [line["step"] for line in read_scalars(tmp_path)] == [3, 6, 9]
    messages = [line for line in capfd.readouterr().err.splitlines() if "TensorFlow" in line]
    assert messages == [
        "femur_jax: TensorFlow is not installed: no TensorBoard events, only scalars.jsonl."
    ]
    assert not list(tmp_path.glob("events.*"))


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    (tmp_path / SCALARS).write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert read_scalars(tmp_path) == [{"step": 1}]
