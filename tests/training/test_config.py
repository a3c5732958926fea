"""Configs: files, dotted words, and the sentences for what is wrong in them."""

import re
from pathlib import Path

import pytest

from srr.cli.app import main
from srr.training.config import (
    MEANINGS,
    RECIPES,
    RunConfig,
    allowed,
    dump_config,
    key_table,
    keys,
    merge,
    parse_overrides,
    read_config_file,
    resolve,
    resolve_with_recipe,
)

CONFIGS = sorted((Path(__file__).parents[2] / "examples" / "configs").glob("*.*"))


def test_yaml_and_toml_mean_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 3\noptim: {lr: 1e-4}\nmodel: {preset: crate_micro, dim: 32}\n")
    (tmp_path / "a.toml").write_text('seed = 3\n[optim]\nlr = 1e-4\n[model]\npreset = "crate_micro"\ndim = 32\n')
    yaml, toml = (resolve(read_config_file(tmp_path / f"a.{kind}")) for kind in ("yaml", "toml"))
    assert yaml == toml
    assert yaml.optim.lr == 1e-4
    assert yaml.model.overrides == {"dim": 32}


def test_resolved_text_is_the_config_again(tmp_path):
    config = resolve(parse_overrides(["model.dim=8", "augment.crop_scale=[0.2, 1]", "optim.betas=[0.9, 0.95]"]))
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert resolve(read_config_file(tmp_path / "c.yaml")) == config


def test_words_win_over_the_file_and_the_file_over_the_recipe():
    recipe = RECIPES["digits"]["trainer"]["max_epochs"]
    assert resolve_with_recipe({}).trainer.max_epochs == recipe
    file = {"trainer": {"max_epochs": recipe + 1}}
    assert resolve_with_recipe(file).trainer.max_epochs == recipe + 1
    assert resolve_with_recipe(merge(file, parse_overrides(["trainer.max_epochs=7"]))).trainer.max_epochs == 7


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trainer": {"max_epoch": 3}}, "did you mean 'max_epochs'"),
        ({"sed": 1}, "did you mean 'seed'"),
        ({"seed": "one"}, "seed must be an integer at least 0; got 'one'"),
        ({"seed": True}, "seed must be an integer"),
        ({"optim": {"lr": "fast"}}, "optim.lr must be a number"),
        ({"trainer": 3}, "section 'trainer' must be a mapping"),
        ({"augment": {"flip": 1}}, "augment.flip must be true or false"),
        ({"augment": {"crop_scale": 0.5}}, "must be a list"),
        ({"model": {"lam": 0.1, "overrides": {"lam": 0.2}}}, "'model.lam' and 'model.overrides.lam'"),
        ({"model": {"overrides": {"preset": "crate_tiny"}}}, "'model.preset' and 'model.overrides.preset'"),
        ({"out": "runs/\udcff"}, "out must be Unicode text"),
        ({"data": {"name": "folder:\udcff"}}, "data.name must be Unicode text"),
    ],
)
def test_what_is_wrong_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        resolve(values)


@pytest.mark.parametrize("word", ["seed", "=3", "seed=[", "a=1"])
def test_bad_words(word):
    with pytest.raises(ValueError, match=r"override|config has no key"):
        resolve(parse_overrides([word]))


def test_a_file_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text(f"seed: !!python/object/apply:os.system ['touch {tmp_path / 'ran'}']\n")
    with pytest.raises(ValueError, match="does not parse"):
        read_config_file(tmp_path / "evil.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "{}"), ("a.yaml", "- 1"), ("a.toml", "x = "), ("b.yaml", "a: [")]
)
def test_bad_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="config"):
        read_config_file(tmp_path / name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_configs_resolve(path):
    assert resolve_with_recipe(read_config_file(path)).model.preset


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("data.limit=-5", "data.limit must be an integer at least 1, or null; got -5"),
        ("trainer.max_epochs=0", "trainer.max_epochs must be an integer at least 1; got 0"),
        ("seed=-1", "seed must be an integer at least 0; got -1"),
        ("data.eval_batch_size=0", "data.eval_batch_size must be"),
        ("data.batch_size=0", "data.batch_size must be"),
        ("optim.lr=.nan", "optim.lr must be a number at least 0 and at most 1000.0; got nan"),
        ("optim.lr=-1e-3", "optim.lr must be"),
        ("optim.lr=.inf", "optim.lr must be"),
        ("data.workers=-1", "data.workers must be"),
        ("data.held_out=1", "data.held_out must be a number above 0"),
        ("data.corrupt_labels=2", "corrupt_labels must be"),
        ("data.classes=1", "data.classes must be"),
        ("data.tokenizer=words", "tokenizer must be one of bytes, bpe; got 'words'"),
        ("objective.eps=0", "objective.eps must be a number above 0"),
        ("objective.label_smoothing=1", "label_smoothing must be"),
        ("objective.srr_layers=[0.5]", "srr_layers must be a list of"),
        ("augment.mixup=-1", "augment.mixup must be"),
        ("augment.randaugment_magnitude=31", "randaugment_magnitude must be"),
        ("optim.betas=[0.9, 1]", "optim.betas must be"),
        ("trainer.ema=1", "trainer.ema must be"),
        ("trainer.accumulate=0", "trainer.accumulate must be"),
        ("trainer.max_steps=-2", "trainer.max_steps must be"),
        ("trainer.clip_norm=-1", "trainer.clip_norm must be"),
        ("trainer.log_every=0", "trainer.log_every must be"),
        ("trainer.checkpoint_every=-1", "trainer.checkpoint_every must be"),
        ("trainer.devices=0", "trainer.devices must be"),
        ("trainer.device=tpu", "trainer.device must be auto, cpu, cuda"),
        ("trainer.progress=loud", "trainer.progress must be one of auto, bar, lines, none"),
    ],
)
def test_every_range_is_checked_before_anything_is_made(word, says, tmp_path, capsys):
    with pytest.raises(ValueError, match=re.escape(says)):
        resolve(parse_overrides([word]))
    assert main(["train", "--out", str(tmp_path / "run"), word]) == 1
    assert says in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_every_number_of_a_config_has_a_range():
    for key, (kind, _) in keys().items():
        words = allowed(kind)
        assert ("integer" not in words and "number" not in words) or "least" in words or "above" in words, key


def test_defaults_are_within_their_ranges_and_survive_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text(dump_config(RunConfig()))
    assert resolve(read_config_file(tmp_path / "c.yaml")) == RunConfig()


def test_every_key_has_a_meaning_a_range_and_a_default():
    assert MEANINGS.keys() == keys().keys()
    rows = [line.split(" | ") for line in key_table().splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"| `{key}`" for key in keys()]
    assert all(len(row) == 4 and all(cell.strip("| `") for cell in row[:3]) for row in rows)
    assert "| `optim.lr` | largest learning rate | a number at least 0 and at most 1000.0 | `0.001` |" in key_table()


def test_text_is_taken_as_it_stands():
    words = ["data.name=folder:imgs #2", "model.preset=crate_micro", "out=1e-4", "data.root=null", "optim.lr=1e-4"]
    config = resolve(parse_overrides(words))
    assert (config.data.name, config.out, config.data.root) == ("folder:imgs #2", "1e-4", None)
    assert config.optim.lr == 1e-4
    assert resolve(parse_overrides(["model.step=1e-1"])).model.overrides == {"step": 0.1}
