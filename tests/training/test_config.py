"""Configs: files, dotted words, and the sentences for what is wrong in them."""

from pathlib import Path

import pytest

from srr.training.config import (
    RECIPES,
    dump_config,
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
