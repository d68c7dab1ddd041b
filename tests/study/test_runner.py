"""The study's bookkeeping; `.ci/run` runs a whole study, kills it and resumes it."""

import json
import re

import pytest
from ml_collections import ConfigDict

from configs import classifier, gan, patch_diffusion, study
from configs.study import get_config
from femur_jax import run_folder
from femur_jax.errors import UserError
from femur_jax.study import runner
from femur_jax.study.grid import Arm, Cell, Classifier, Grid, Mixture, every_arm
from femur_jax.study.runner import Stage


@pytest.fixture
def config():
    return get_config("smoke")


def test_bad_input_leaves_nothing(config, tmp_path):
    radiographs = tmp_path / "radiographs"
    radiographs.mkdir()
    labels = tmp_path / "labels.csv"
    lines = ["path,patient_id,hospital,label"]
    for n in range(48):
        (radiographs / f"{n}.dcm").write_text("no DICOM")
        lines.append(f"{n}.dcm,{n},hospital,{'AFF' if n % 2 else 'NFF'}")
    labels.write_text("\n".join(lines))
    config.labels = str(labels)
    for folder, message in ((tmp_path / "no", "no folder"), (radiographs, "not_dicom: 48")):
        config.radiographs = str(folder)
        with pytest.raises(UserError, match=message):
            runner.run(config, tmp_path / "run")
        assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("classifier.train.batch_size", 12, "batch of 12"),  # eight devices
        ("grid", ("gan-pyramid-joint",), "config.grid names 'gan-pyramid-joint'; write some of"),
        ("seeds", (), "at least one entry each"),
        ("classifier_seeds", (), "at least one entry each"),
        ("primary_seeds", (0,), "some are in config.seeds already"),
        ("sizes", (8, 0), r"config.sizes is \(8, 0\); give numbers"),
        ("primary", ("gan-letterbox-joint",), "config.primary is gan-letterbox-joint; name two"),
        ("primary", ("a", "b"), "config.primary names 'a'; write some of"),
        ("relevant_difference", 0.0, "config.relevant_difference is 0.0; give a difference"),
    ],
)
def test_mistakes_are_reported_before_a_folder_is_created(config, tmp_path, field, value, message):
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        runner.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("train everything", "The study has no stage 'train everything'"),
        ("report", r"'report' needs 'classifier real-0' and 23 more, not finished in"),
    ],
)
def test_a_stage_that_cannot_run_is_refused(config, tmp_path, only, message):
    with pytest.raises(UserError, match=message):
        runner.run(config, tmp_path / "run", only=only)
    assert not (tmp_path / "run").exists()


def test_the_full_grid_has_every_arm_and_three_seeds(tmp_path):
    grid = Grid(get_config("base"), tmp_path)
    assert sorted(map(str, grid.arms)) == sorted(map(str, every_arm()))
    assert len(grid.arms) == 8 and len(grid.cells) == 24
    assert sum(len(cell.runs) for cell in grid.cells) == 36
    classifiers = [grid.classifiers(mixture) for mixture in grid.mixtures]
    assert [len(sets) for sets in classifiers] == [1, 1] + 32 * [3]
    names = [str(c) for sets in classifiers for of_set in sets for c in of_set]
    assert len(set(names)) == len(names) == 6 + 32 * 9
    assert names[2:7] == [
        *("real-2", "real_2000-0", "real_2000-1", "real_2000-2", "diffusion-pyramid-joint-0-0")
    ]
    assert names[-73] == "gan-letterbox-per_class_then_real-2-2"
    assert names[-1] == "gan-letterbox-per_class_1600_rest-2-2"
    assert len(grid.sized) == 2 * (1 + 8 + 8)
    [of_first] = grid.classifiers(grid.sized[-1])
    assert str(of_first[-1]) == "real+gan-letterbox-per_class_500-0-2"
    assert str(grid.judge) == "real-0"
    assert [str(run) for run in Cell(Arm("gan", "letterbox", "per_class"), 2).runs] == [
        "gan-letterbox-per_class-2-NFF",
        "gan-letterbox-per_class-2-AFF",
    ]


def test_the_primary_arms_can_have_more_seeds(tmp_path):
    config = get_config("base")
    config.seeds, config.primary_seeds = (0, 1), (5,)
    grid = Grid(config, tmp_path)
    assert len(grid.cells) == 8 * 2 + 2
    for arm in grid.arms:
        more = (5,) if str(arm) in config.primary else ()
        assert grid.seeds(arm) == (0, 1, *more)
        sets = grid.classifiers(Mixture(True, arm))
        assert [of_set[0].cell.seed for of_set in sets if of_set[0].cell] == [0, 1, *more]


def test_the_models_of_an_arm_share_its_steps(tmp_path):
    config = get_config("base")
    grid = Grid(config, tmp_path)
    for model, strategy in (("diffusion", "pyramid"), ("gan", "letterbox")):
        for classes in ("joint", "per_class"):
            runs = Cell(Arm(model, strategy, classes), 0).runs
            steps = [grid.generator(run).train.steps for run in runs]
            assert sum(steps) == config[model].train.steps


def test_runs_get_their_strategy_class_and_seed(tmp_path):
    grid = Grid(get_config("base"), tmp_path)
    arm = Arm("diffusion", "patch_diffusion", "per_class")
    nff, aff = (grid.generator(run) for run in Cell(arm, 1).runs)
    assert (nff.data.strategy, nff.seed, nff.sample.seed) == ("patch_diffusion", 1, 1)
    assert nff.data.draw.label_shares == (1.0, 0.0) and aff.data.draw.label_shares == (0.0, 1.0)
    [run] = Cell(Arm("gan", "letterbox", "joint"), 0).runs
    assert grid.generator(run).data.draw.label_shares == (0.5, 0.5)

    trained = grid.classifier(Classifier(Mixture(True, arm), Cell(arm, 1), 2))
    folder = f"{tmp_path}/generators/diffusion-patch_diffusion-per_class-1"
    assert trained.seed == 2 and trained.dataset == f"{tmp_path}/real"
    assert trained.train_datasets == (
        f"{tmp_path}/real",
        f"{folder}-NFF/synthetic",
        f"{folder}-AFF/synthetic",
    )
    alone = grid.classifier(Classifier(Mixture(False, arm), Cell(arm, 1), 2))
    assert alone.train_datasets == trained.train_datasets[1:]
    assert alone.data.per_label == trained.data.per_label == ()

    fewer = grid.classifier(Classifier(Mixture(True, arm, per_label=5), Cell(arm, 1), 2))
    assert fewer.data.per_label == (0, 5, 5)
    assert grid.classifier(Classifier(grid.matched(arm), None, 1)).data.per_label == (2000,)
    later = Classifier(Mixture(True, arm, is_pretrained=True), Cell(arm, 1), 2)
    first = Classifier(Mixture(False, arm), Cell(arm, 1), 2)
    rest = grid.classifier(Classifier(grid.mixtures[-1], Cell(grid.arms[-1], 0), 0))
    assert (rest.data.per_label, rest.data.validated_on) == ((1600, 1600), "rest")
    assert grid.classifier(later).train_datasets == (f"{tmp_path}/real",)
    assert grid.classifier(later).pretrained == str(grid.classifier_folder(first))


def test_no_stage_comes_before_one_that_it_needs(config, tmp_path):
    config.pretraining, config.synthetic_validation, config.sizes = True, True, (2, 3)
    stages = runner.Study(config, tmp_path).stages
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for position, stage in enumerate(stages):
        assert set(stage.needs) <= set(names[:position])
    assert stages[0].name == "phantoms" and stages[-1].name == "report"
    config.radiographs = "radiographs"
    assert runner.Study(config, tmp_path).stages[0].name == "ingest"


def test_the_plan_leaves_out_finished_stages(config, tmp_path, capsys):
    config.grid = ("gan-letterbox-joint",)
    runner.Study(config, tmp_path).run_once(Stage("phantoms", (), lambda: None))
    runner.plan(config, tmp_path)
    printed = capsys.readouterr()
    missing = "No comparison is named beforehand: config.grid lacks diffusion-pyramid-joint."
    assert printed.err == f"femur_jax: {missing}\n"
    lines = printed.out.splitlines()[1:]
    assert lines[0] == "ingest"
    assert lines[1] == "train gan-letterbox-joint-0\tingest"
    assert (
        lines[-2]
        == "measure gan-letterbox-joint-0\tclassifier real-0\tsample gan-letterbox-joint-0"
    )
    with pytest.raises(UserError, match=r'run it with --only="ingest" first'):
        runner.run(config, tmp_path, only="train gan-letterbox-joint-0")


def test_paths_are_private_and_need_not_be_given_again(config, tmp_path, capsys):
    workdir, private = tmp_path / "run", tmp_path / "run.private"
    config.radiographs, config.labels = "Anna Å\udcff", "Anna.csv"  # not UTF-8
    private.mkdir()
    (private / "pseudonyms.key").write_bytes(bytes(32))  # which others can read
    runner.plan(config, workdir)
    assert capsys.readouterr().err.count("others can read the key") == 1
    assert "Anna" not in (workdir / "config.json").read_text()
    assert all(path.stat().st_mode & 0o077 == 0 for path in private.glob("*.path"))
    again = runner.Study(run_folder.load_config(workdir), workdir)
    assert [again.given_path(name) for name in runner.HIDDEN] == [config.radiographs, config.labels]
    (private / "labels.path").unlink()
    with pytest.raises(UserError, match=r"lost the path of config\.labels; add --config\.labels"):
        again.ingest()


def test_a_finished_stage_is_not_run_again(config, tmp_path):
    runs = []
    first = runner.Study(config, tmp_path)
    first.run_once(Stage("ingest", (), lambda: runs.append("ingest")))
    again = runner.Study(config, tmp_path)
    again.run_once(Stage("ingest", (), lambda: runs.append("ingest")))
    again.run_once(Stage("report", (), lambda: runs.append("report")))
    assert runs == ["ingest", "report"]
    assert list(again.finished) == ["ingest", "report"]
    (tmp_path / "finished" / "report").write_text("")  # as after a power cut
    assert list(again.finished) == ["ingest"]


def test_a_failed_stage_is_not_recorded_as_finished(config, tmp_path):
    def fail():
        raise UserError("no")

    with pytest.raises(UserError):
        runner.Study(config, tmp_path).run_once(Stage("ingest", (), fail))
    assert "ingest" not in runner.Study(config, tmp_path).finished


def test_a_workdir_belongs_to_one_config(tmp_path):
    config = ConfigDict({"a": 1, "train": {"steps": 2, "seed": 0}, "sample": {"sizes": ((3, 2),)}})
    folder, free = tmp_path / "run", ("sample", "train.steps")
    run_folder.claim(folder, config, stage="train", free=free)
    assert run_folder.load_config(folder).to_dict() == config.to_dict()
    config.sample.sizes = ((5, 4),)
    run_folder.claim(folder, config, stage="sample", free=free)
    assert run_folder.load_config(folder).sample.sizes == ((3, 2),)
    run_folder.claim(folder, config, stage="train", free=free, keep_free=True)
    assert run_folder.load_config(folder).sample.sizes == ((5, 4),)
    config.train.steps = 3
    config.train.seed = 1
    config.a = 2
    with pytest.raises(UserError, match=r"it differs in config\.a, config\.train\.seed\)"):
        run_folder.claim(folder, config, stage="train", free=free)


def _without(config, *names):
    """A run directory's config without some fields."""
    fields = config.to_dict()
    for name in names:
        *above, last = name.split(".")
        parent = fields
        for key in above:
            parent = parent[key]
        del parent[last]
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        (classifier, ("train.augment", "train.patience", "folds")),
        (patch_diffusion, ("sample", "data.draw.by")),
        (gan, ("model.blocks",)),
        (study, ("ingest", "gan.evaluate.weights")),
    ],
)
def test_the_run_of_an_older_version_names_the_missing_fields(tmp_path, module, missing):
    config = module.get_config()
    (tmp_path / "config.json").write_text(_without(config))
    assert run_folder.load_config(tmp_path).to_dict() == config.to_dict()
    (tmp_path / "config.json").write_text(_without(config, *missing))
    with pytest.raises(UserError, match="older version") as error:
        run_folder.load_config(tmp_path)
    assert sorted(re.findall(r"config\.([\w.]*\w)", str(error.value))) == sorted(missing)


def test_an_empty_file_is_not_done(tmp_path):
    """A power cut may leave a file without its content."""
    config = ConfigDict({"a": 1})
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match="holds no run"):
        run_folder.load_config(tmp_path)
    run_folder.claim(tmp_path, config, stage="train")
    assert run_folder.load_config(tmp_path).to_dict() == {"a": 1}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        run_folder.load_config(tmp_path)
