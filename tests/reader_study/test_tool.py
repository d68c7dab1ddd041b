import pytest

from femur_jax.commands.readers import synthetic_sources
from femur_jax.errors import UserError
from femur_jax.main import main


def build(sources, out, *more, real=None, synthetic=None):
    synthetic = synthetic or [str(s[0].folder) for s in sources.synthetic.values()]
    real = real or str(sources.real.folder)
    few = ["--single", "8", "--pairs", "2", "--practice", "0"]
    return main(
        [
            "readers",
            "build",
            "--real",
            real,
            "--synthetic",
            *synthetic,
            "--out",
            str(out),
            *few,
            *more,
        ]
    )


def test_a_study_is_built_once(sources, tmp_path, capsys):
    assert build(sources, tmp_path / "study") == 0
    printed = capsys.readouterr().out
    assert "8 radiographs, 2 pairs" in printed
    assert "Pairs cannot show it below 76." in printed
    assert build(sources, tmp_path / "study") == 2
    assert "exists; remove it" in capsys.readouterr().err


def test_sources_are_named(sources, tmp_path):
    gan = sources.synthetic["gan"][0].folder
    named = synthetic_sources([f"per class={gan}", f"per class={gan}", str(gan)])
    assert {name: len(datasets) for name, datasets in named.items()} == {"per class": 2, "gan": 1}
    with pytest.raises(UserError, match="gan is taken"):
        synthetic_sources([str(gan), str(gan)])
    with pytest.raises(UserError, match="real is taken"):
        synthetic_sources([f"real={gan}"])


def test_real_and_synthetic_are_not_confused(sources, tmp_path, capsys):
    gan, real = str(sources.synthetic["gan"][0].folder), str(sources.real.folder)
    assert build(sources, tmp_path / "study", real=gan) == 2
    assert "is synthetic" in capsys.readouterr().err
    assert build(sources, tmp_path / "study", synthetic=[real]) == 2
    assert "is of patients" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--single", "10"], "--single is 10; give a multiple of 4"),
        (["--margin", "0.7"], "--margin is 0.7"),
        (["--splits", "validation", "train"], "in the split validation and train, but there are 0"),
    ],
)
def test_mistakes_are_reported(sources, tmp_path, capsys, arguments, message):
    assert build(sources, tmp_path / "study", *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_reported(sources, tmp_path, capsys):
    assert build(sources, tmp_path / "study", real=str(tmp_path / "none")) == 2
    assert "holds no radiograph dataset" in capsys.readouterr().err
    for command in ("serve", "score"):
        assert main(["readers", command, str(tmp_path / "none")]) == 2
        assert "holds no reader study" in capsys.readouterr().err


def test_power_is_printed(capsys):
    assert main(["readers", "power", "--margin", "0.15"]) == 0
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[3:]}
    assert table["200"][:6] == ["200", "0.429", "to", "0.571", "0.602", "0.99"]
    assert 0.9 < float(table["200"][6]) < 0.99
    assert main(["readers", "power", "--margin", "0"]) == 2
