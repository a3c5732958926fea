"""Whole runs, from the command line to the files they leave."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

from srr.cli.app import main
from srr.diagnostics import POSITIONS
from srr.nn import CRATE, create_model, load_model
from srr.training.callbacks import curve, read_table
from srr.training.checkpoint import read_checkpoint
from srr.training.config import TrainerConfig, merge, parse_overrides, read_config_file, resolve_with_recipe
from srr.training.page import write_report
from srr.training.report import open_run, scores, trace_run
from srr.training.run import accelerator, initial_model, load_run_config, train
from srr.training.sources import load_data

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """One run on the digits, shorter than the recipe."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    torch.set_num_threads(1)
    words = ["trainer.max_epochs=18", "trainer.trace_every=9", "trainer.ema=0.97", "trainer.progress=lines"]
    assert (
        main(["train", "--data", "digits", "--model", "crate_micro", "--out", str(out), "--device", "cpu", *words]) == 0
    )
    return out


def test_a_run_leaves_what_it_promises(digits):
    names = {p.relative_to(digits).as_posix() for p in digits.rglob("*") if p.is_file()}
    assert {"config.yaml", "data.json", "metrics.csv", "metrics.json"} <= names
    assert {"checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt"} <= names
    assert {"model/config.json", "model/model.safetensors"} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert json.loads((digits / "data.json").read_text())["classes"] == [str(c) for c in range(10)]


def test_the_digits_reach_97_percent_on_the_held_out_fifth(digits):
    found = json.loads((digits / "metrics.json").read_text())
    assert found["val_samples"] == 359
    assert found["val_accuracy"] >= 0.965  # in less than half of the recipe's epochs
    assert found["baseline_nearest_subspace"]["accuracy"] > 0.98


def test_the_exported_model_has_the_accuracy_that_was_reported(digits):
    source = load_data(resolve_with_recipe({}).data)
    model = CRATE.from_pretrained(digits / "model")
    x = (source.val.x - source.spec.mean[0]) / source.spec.std[0]
    accuracy = (scores(model, x).argmax(-1) == source.val.y).float().mean().item()
    reported = json.loads((digits / "metrics.json").read_text())["val_accuracy"]
    assert accuracy == pytest.approx(reported, abs=1e-6)


def test_the_exported_weights_are_the_average_and_the_checkpoint_keeps_both(digits):
    checkpoint = torch.load(digits / "checkpoints/last.ckpt", weights_only=True)
    exported, average = (
        load_file(digits / "model/model.safetensors"),
        checkpoint["callbacks"]["WeightAverage"]["average"],
    )
    assert all(torch.equal(exported[name], average[name]) for name in average)
    assert any(not torch.equal(exported[name], checkpoint["state_dict"][f"model.{name}"]) for name in average)


def test_curves_are_a_table(digits):
    rows = read_table(digits / "metrics.csv")
    steps, values = curve(rows, "val_accuracy")
    assert len(steps) == 18
    assert steps == sorted(steps)
    assert values[-1] > values[0]
    trace = [row for row in rows if "trace_4/compression_raw" in row]
    assert len(trace) == 2
    assert 0 < float(trace[0]["trace_1/sparsity"]) < 1
    assert float(trace[0]["trace_1/step_times_norm"]) > 0


def test_trace_command_writes_table_and_picture(digits, tmp_path, capsys, monkeypatch):
    save = Figure.savefig
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    assert main(["trace", str(digits), "--out", str(tmp_path), "--samples", "32"]) == 0
    printed = capsys.readouterr().out
    with open(tmp_path / "trace.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 3
    assert Image.open(tmp_path / "trace.png").size[0] > 1000
    traces = trace_run(open_run(digits), eps=0.1, count=32)
    found = [float(r["sparsity"]) for r in rows if r["model"] == "trained" and r["position"] == "sparsified"]
    np.testing.assert_allclose(found, traces["trained"].sparsity[:, 2])

    # the table, the picture and the file say the same at every place
    shown = [re.findall(r"[\w.+-]+", line) for line in printed.splitlines()]
    shown = [words for words in shown if len(words) > 2 and words[1] in POSITIONS]
    assert [words[:2] for words in shown] == [[row["layer"], row["position"]] for row in rows]
    fields = ("compression_raw", "compression_normalized", "compression_common", "sparsity")
    for words, row in zip(shown, rows, strict=True):
        assert words[2:] == [f"{float(row[field]):.4g}" for field in fields]
    for axis, field in zip(drawn[0].axes, fields, strict=True):
        for name in ("trained", "untrained"):
            (line,) = (line for line in axis.lines if line.get_label() == name)
            y = np.asarray(line.get_ydata())
            np.testing.assert_allclose(y[~np.isnan(y)], [float(r[field]) for r in rows if r["model"] == name])


def test_report_is_one_page_that_a_browser_renders(digits, tmp_path):
    page = tmp_path / "report.html"
    assert main(["report", str(digits), str(digits), "--out", str(page), "--samples", "32"]) == 0
    text = page.read_text()
    assert text.count("<img ") == text.count("data:image/png;base64,") >= 16
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    _render(chromium, page, tmp_path)


def _render(chromium, page, folder):
    """A copy of the page counts its own loaded pictures; the console must stay silent."""
    probe = folder / "probe.html"
    count = "document.title = [...document.images].filter(i => i.complete && i.naturalWidth > 50).length"
    probe.write_text(page.read_text().replace("</body>", f"<script>onload = () => {{ {count} }}</script></body>"))
    shot = folder / "shot.png"
    flags = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
    ]
    dom = subprocess.run(
        [*flags, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in dom.stderr
    loaded = re.search(r"<title>(\d+)</title>", dom.stdout)
    assert loaded, "the page did not load"
    assert int(loaded[1]) == page.read_text().count("<img ")
    window = ["--window-size=1400,3000", f"--screenshot={shot}"]
    subprocess.run([*flags, *window, page.as_uri()], capture_output=True, timeout=120, check=True)
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (3000, 1400)
    assert 0.01 < (pixels < 200).mean() < 0.9


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "digit"], "unknown data 'digit'; there are digits"),
        (["--model", "vit_tiny"], "unknown model 'vit_tiny'; there are"),
        (["model.dims=3"], "unknown model options"),
        (["--precision", "8"], "precision must be one of 32, 64, bf16, 16; got '8'"),
        (["--device", "tpu"], "device must be auto, cpu, cuda"),
        (["trainer.strategy=magic"], "trainer.strategy must be one of auto, ddp, fsdp2"),
        (["optim.name=sgd"], "optim.name must be one of adamw, lion, muon"),
        (["trainer.epochs=3"], "config has no key 'trainer.epochs'"),
        (["--resume"], "there is no run"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_leaves_nothing(words, sentence, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--out", str(out), "trainer.progress=none", *words]) != 0
    error = " ".join(capsys.readouterr().err.split())
    wanted = "is not a training run" if words == ["--resume"] else sentence
    assert wanted in error
    assert "Traceback" not in error
    assert not list(out.glob("checkpoints/*"))


def test_an_existing_run_is_refused_by_the_command(digits, capsys):
    assert main(["train", "--out", str(digits)]) == 1
    assert "exists already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none():
    with pytest.raises(ValueError, match="no CUDA device"):
        accelerator(TrainerConfig(device="cuda:0"))


def test_resume_goes_on_to_more_epochs(digits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    assert main(["train", "--resume", "--out", str(copy), "trainer.max_epochs=19", "trainer.progress=none"]) == 0
    assert json.loads((copy / "metrics.json").read_text())["steps"] == 19 * 22
    assert len(curve(read_table(copy / "metrics.csv"), "val_accuracy")[0]) == 19


def last(run):
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


def test_a_resume_applies_what_it_may_change_and_writes_it_down(tiny, tmp_path):
    train(tiny("trainer.max_epochs=2"))
    run = tmp_path / "run"
    words = ["--epochs", "4", "optim.lr=7e-4", "trainer.log_every=1", "data.workers=0", "trainer.progress=none"]
    assert main(["train", "--resume", "--out", str(run), *words]) == 0
    kept = load_run_config(run)
    assert (kept.trainer.max_epochs, kept.optim.lr, kept.trainer.log_every) == (4, 7e-4, 1)
    (schedule,) = last(run)["lr_schedulers"]
    assert schedule["base_lrs"] == [7e-4] * len(schedule["base_lrs"])
    assert last(run)["epoch"] == 3
    config = load_run_config(run, {"trainer": {"max_epochs": 5}, "optim": {"lr": 0.0}})
    before = last(run)["state_dict"]
    train(config, resume=True)  # an epoch at learning rate zero moves nothing
    assert last(run)["epoch"] == 4
    assert all(torch.equal(before[key], value) for key, value in last(run)["state_dict"].items())


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("model.lam=0.5", "model.lam"),
        ("data.held_out=0.3", "data.held_out"),
        ("seed=5", "seed"),
        ("data.batch_size=4", "data.batch_size"),
        ("optim.name=lion", "optim.name"),
        ("augment.flip=true", "augment.flip"),
        ("trainer.precision=bf16", "trainer.precision"),
        ("trainer.ema=0.5", "trainer.ema"),
    ],
)
def test_a_resume_refuses_what_would_make_it_another_run(tiny, tmp_path, capsys, word, key):
    train(tiny("trainer.max_steps=1"))
    run = tmp_path / "run"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert main(["train", "--resume", "--out", str(run), word]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"a resumed run keeps {key}=" in error
    assert "another run" in error
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_run_folder_takes_one_process_at_a_time(tiny, tmp_path):
    """The lock of a process that is gone is no lock."""
    train(tiny("trainer.max_steps=1"))
    run = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(OSError, match=r"run folder .* is in use by process \d+ on"):
        train(load_run_config(run), resume=True)
    holder.kill()
    holder.communicate()
    train(load_run_config(run), resume=True)


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


def test_a_resume_with_another_number_of_threads_says_so(tiny, tmp_path, capsys):
    train(tiny("trainer.max_steps=1"))
    run = tmp_path / "run"
    assert last(run)["threads"] == 1
    train(load_run_config(run), resume=True)
    assert "thread" not in capsys.readouterr().err
    torch.set_num_threads(2)
    train(load_run_config(run), resume=True)
    error = " ".join(capsys.readouterr().err.split())
    assert "made with 1 thread(s) and goes on with 2" in error


def test_an_image_folder_whose_name_holds_a_sign_of_yaml(tmp_path, capsys):
    made_up_images(tmp_path / "imgs")
    assert main(["train", "--data", f"folder:{tmp_path / 'imgs'} #2", "--out", str(tmp_path / "run")]) == 1
    assert "imgs #2" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_says_how_to_go_on_exits_130_and_goes_on(tmp_path):
    words = "data.samples=3000 data.name=mixture data.tokens=6 data.token_dim=8 model.depth=1 trainer.max_epochs=999"
    command = [sys.executable, "-m", "srr", "train", "--out", str(tmp_path / "run"), *words.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "stopped by SIGINT at step" in " ".join(err.split())
    assert "continue with: srr train --resume --out" in " ".join(err.split())
    step = last(tmp_path / "run")["global_step"]
    assert step > 0
    assert main(["train", "--resume", f"out={tmp_path / 'run'}", f"trainer.max_steps={step + 1}"]) == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["steps"] == step + 1


def test_a_report_of_names_that_look_like_formulas_and_markup(tmp_path, capsys):
    images = tmp_path / "images"
    made_up_images(images)
    for part in ("train", "val"):
        (images / part / "ant").rename(images / part / "$x^$")
        os.rename(os.fsencode(images / part / "bee"), os.fsencode(images / part) + b"/\x1b[red]\xff\n$")
    run = tmp_path / "[" / "bold]" / "$y_$"
    run.parent.mkdir(parents=True)
    words = "trainer.max_steps=1 data.image_size=16 data.batch_size=2 model.depth=1 trainer.progress=none".split()
    assert main(["train", "--data", f"folder:{images}", "--out", str(run), *words]) == 0
    assert main(["report", str(run), "--samples", "4"]) == 0
    assert main(["trace", str(run), "--samples", "4"]) == 0
    assert main(["predict", str(run), str(images / "val" / "$x^$" / "0.png")]) == 0
    shown = capsys.readouterr().out
    assert "$x^$" in shown
    assert r"\x1b[red]\udcff\n$" in shown
    assert "\x1b[red]" not in shown


def test_a_report_draws_memberships_and_says_what_has_no_maps(tiny, tmp_path):
    train(tiny("trainer.max_steps=1", "model.block=tssa"))
    assert "attention maps of" in write_report([tmp_path / "run"], tmp_path / "page.html", count=4).read_text()
    shutil.rmtree(tmp_path / "run")
    train(tiny("trainer.max_steps=1", "model.block=crate_descent"))
    text = write_report([tmp_path / "run"], tmp_path / "page.html", count=4).read_text()
    assert "no pairwise attention" in text
    assert "attention maps of" not in text


def made_up_images(folder, size=32):
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            (folder / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = random.integers(256, size=(size, size + 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")


@pytest.mark.parametrize("name", ["imagenet_pretrain.yaml", "cifar_finetune.yaml", "mae_pretrain.toml"])
def test_recipes_make_one_real_step_on_made_up_images(name, tmp_path):
    """The recipe as it is shipped, width and image size included, two layers deep, on four images at a time.

    The layers left out are the same ones again.
    """
    made_up_images(tmp_path / "images")
    words = (
        "data.batch_size=4 data.workers=0 trainer.max_steps=1 trainer.compile=false trainer.progress=none "
        "trainer.device=cpu model.depth=2"
    ).split()
    words += ["model.decoder_depth=2"] if name.startswith("mae") else []
    words += [f"data.name=folder:{tmp_path / 'images'}", f"out={tmp_path / 'run'}"]
    config = resolve_with_recipe(merge(read_config_file(CONFIGS / name), parse_overrides(words)))
    before = initial_model(config.model, load_data(config.data).spec, seed=config.seed).state_dict()
    result = train(config)
    assert result["steps"] == 1
    after = load_file(tmp_path / "run/model/model.safetensors")
    assert any(not torch.equal(after[key], before[key]) for key in after)
    assert all(torch.isfinite(value).all() for value in after.values())


def test_fine_tuning_starts_from_an_exported_model(digits, tmp_path):
    words = ["trainer.max_steps=1", "optim.lr=0", "trainer.progress=none", f"model.pretrained={digits}"]
    train(resolve_with_recipe(merge(parse_overrides(words), {"out": str(tmp_path / "run")})))
    found, wanted = (load_file(run / "model/model.safetensors") for run in (tmp_path / "run", digits))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run of a network that is no preset, on eight tokens of 16 coordinates and three classes."""
    out = tmp_path_factory.mktemp("own") / "run"
    words = "data.name=mixture data.samples=40 data.batch_size=8 data.tokens=8 data.token_dim=16 data.classes=3"
    words += " model.dim=24 model.heads=3 model.head_dim=8 model.depth=2 model.block=crate_c trainer.max_epochs=1"
    words += f" trainer.progress=none trainer.device=cpu out={out}"
    train(resolve_with_recipe(parse_overrides(words.split())))
    model = load_model(out)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, out.parent / "file.pth")
    return out


@pytest.mark.parametrize("start", ["", "model", "checkpoints/last.ckpt", "model/model.safetensors", "../file.pth"])
def test_a_run_of_ones_own_is_fine_tuned_with_another_size_and_class_count(own, start, tmp_path, capsys):
    """Twice as many tokens and five classes; sizes are those of the file, and what can be kept is kept."""
    tokens = 8 if start.endswith("pth") else 16  # nothing in that file says its sizes
    words = (
        f"data.samples=40 data.batch_size=8 data.tokens={tokens} data.token_dim=16 data.classes=5 trainer.max_steps=1"
    )
    words += f" optim.lr=0 trainer.progress=none trainer.device=cpu model.pretrained={own / start}"
    if tokens == 8:
        words += " model.dim=24 model.heads=3 model.head_dim=8 model.depth=2 model.block=crate_c"
    out = tmp_path / "run"
    assert main(["train", "--data", "mixture", "--out", str(out), *words.split()]) == 0
    assert "the head starts afresh: the weights have 3 classes and the model 5" in " ".join(
        capsys.readouterr().err.split()
    )
    found, wanted = (load_file(run / "model/model.safetensors") for run in (out, own))
    fresh = {"head.linear.weight", "head.linear.bias", "embed.positions"}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted.keys() - fresh)
    assert found["embed.positions"].shape == (1, 1 + tokens, 24)
    torch.testing.assert_close(found["embed.positions"][:, 0], wanted["embed.positions"][:, 0])
    assert read_config_file(out / "config.yaml")["model"]["dim"] == 24
    shutil.move(own, own.parent / "away")  # what was begun from may go; a resume needs only its own files
    try:
        assert main(["train", "--resume", "--out", str(out), "trainer.max_steps=2"]) == 0
    finally:
        shutil.move(own.parent / "away", own)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("model.pretrained={own} model.dim=32", "it has dim=24, this run asks for 32"),
        ("data.name=digits model.pretrained={own}", "image_size must be a multiple of patch_size"),
        ("model.pretrained={own}/metrics.csv", "must be a folder, .ckpt"),
        ("model.pretrained={own}/gone.pth", "there is no file of weights"),
        ("model.pretrained={own}/checkpoints", "is no saved model"),
        ("model.pretrained={own}/../file.pth", "does not say its sizes"),
        ("model.pretrained={own}/../bad.pth", "is damaged, or holds more than tensors"),
        ("model.pretrained={own}/../text", "takes no|does not take"),
    ],
)
def test_a_start_that_does_not_fit_is_one_short_sentence_and_leaves_nothing(own, words, sentence, tmp_path, capsys):
    (own.parent / "bad.pth").write_bytes(b"not a file of torch")
    create_model("crate_causal_micro", depth=1).save_pretrained(own.parent / "text")
    words = "data.name=mixture data.samples=40 data.tokens=8 data.token_dim=16 " + words.format(own=own)
    words = words.replace("data.name=mixture ", "") if "digits" in words else words
    assert main(["train", "--out", str(tmp_path / "run"), *words.split()]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(sentence, error), error
    assert len(error) < 600
    assert not (tmp_path / "run").exists()


def test_a_text_is_learned(tmp_path):
    (tmp_path / "t.txt").write_text("abcdefgh" * 500)
    words = f"data.name=text:{tmp_path / 't.txt'} data.context=16 data.batch_size=16 out={tmp_path / 'r'}"
    words += " trainer.progress=none"
    words += " model.depth=2 model.dim=32 model.heads=2 model.head_dim=16 trainer.max_epochs=4 trainer.clip_norm=1.0"
    result = train(resolve_with_recipe(parse_overrides(words.split())))
    assert result["val_bits"] < 1.0  # three bits without context


def test_bfloat16_follows_single_precision(tiny):
    plain = train(tiny("trainer.max_steps=4"))["val_loss"]
    short = train(tiny("trainer.max_steps=4", "trainer.precision=bf16", out=Path(tiny().out).parent / "b"))["val_loss"]
    assert short == pytest.approx(plain, rel=0.05)


def test_compiled_blocks_train_to_the_same_loss(tiny, monkeypatch):
    """Without the slow last stage of the compiler, which the tests of the layers go through."""
    plain_compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: plain_compile(module, backend="aot_eager"))
    plain = train(tiny("trainer.max_steps=3", "model.depth=1"))["val_loss"]
    compiled = train(
        tiny("trainer.max_steps=3", "model.depth=1", "trainer.compile=true", out=Path(tiny().out).parent / "c")
    )
    assert compiled["val_loss"] == pytest.approx(plain, rel=1e-4)


def test_equal_seeds_give_equal_weights_and_others_do_not(tiny, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny(f"seed={seed}", "augment.flip=true", "trainer.max_steps=3", out=tmp_path / name))
    a, b, c = ((tmp_path / n / "model/model.safetensors").read_bytes() for n in "abc")
    assert a == b != c


def test_untrained_model_of_a_run_is_the_one_it_began_from(digits):
    torch.manual_seed(0)
    fresh = create_model("crate_micro", image_size=(8, 8), channels=1, num_classes=10)
    run = open_run(digits)
    assert all(torch.equal(p, q) for p, q in zip(run.untrained.parameters(), fresh.parameters(), strict=True))
