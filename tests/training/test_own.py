"""What a user brings to a run: data, callbacks and loggers; and what a run tells TensorBoard."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset

from srr.nn import load_classifier
from srr.training import open_run, own_source, page, train
from srr.training.callbacks import curve, read_table
from srr.training.config import resolve
from srr.training.module import gradient_norm
from srr.training.page import write_report
from srr.training.run import load_run_config

HOSTILE = "</td><script>document.title='run'</script>\n\u202e$x^$<img src=x onerror=\"document.title='run'\">"


class Stripes(Dataset):
    """Eight-bit pictures whose rows (label 0) or columns (label 1) are bright in turn."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        bright = np.arange(8) % 2 * 200 + np.random.default_rng(index).integers(40)
        rows = np.broadcast_to(bright.astype(np.uint8)[:, None], (8, 8))
        return np.stack([rows if index % 2 == 0 else rows.T] * 3), index % 2


class StripesModule(pl.LightningDataModule):
    classes = ("rows", HOSTILE)

    def train_dataloader(self):
        return DataLoader(Stripes(48), batch_size=3)

    def val_dataloader(self):
        return DataLoader(Stripes(20))


def config(out, **trainer):
    usual = {"max_epochs": 3, "progress": "none", "device": "cpu", "log_every": 1}
    values = {"data": {"batch_size": 16}, "model": {"depth": 1, "patch_size": 4}, "optim": {"warmup_epochs": 1}}
    return resolve({**values, "trainer": {**usual, **trainer}, "out": str(out)})


class Count(pl.Callback):
    def __init__(self):
        self.batches, self.norms = 0, []

    def on_train_batch_end(self, *rest):
        self.batches += 1

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norms.append(sum(float(p.grad.double().square().sum()) for p in pl_module.parameters()) ** 0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out, count = tmp_path_factory.mktemp("own") / "run", Count()
    logger = CSVLogger(out.parent, name="mine", version=0)
    result = train(config(out), data=StripesModule(), callbacks=[count], loggers=[logger])
    return out, count, result


def test_a_data_module_callbacks_and_loggers_of_ones_own(run):
    out, count, result = run
    assert count.batches == 9
    assert (result["train_samples"], result["val_samples"]) == (48, 20)
    assert "val_loss" in (out.parent / "mine" / "version_0" / "metrics.csv").read_text()
    assert load_run_config(out).data.name == "own:StripesModule"
    found = load_classifier(out).predict(np.stack([Stripes(20)[k][0] for k in range(20)]))
    assert set(found.names) <= {"rows", HOSTILE}
    right = np.mean([int(label) == k % 2 for k, label in enumerate(found.labels)])
    assert right == pytest.approx(result["val_accuracy"])


def test_what_reads_such_a_run_asks_for_its_data(run):
    out = run[0]
    with pytest.raises(ValueError, match="data of its own, 'StripesModule'; give them again as data="):
        open_run(out)
    assert len(open_run(out, data=StripesModule()).source.val) == 20
    train(config(out, max_epochs=4), data=StripesModule(), resume=True)
    assert load_run_config(out).trainer.max_epochs == 4


def test_rate_of_learning_and_norm_of_the_gradient_are_in_every_table(run):
    out, count, _ = run
    rows = read_table(out / "metrics.csv")
    np.testing.assert_allclose(curve(rows, "grad_norm")[1][:9], count.norms, rtol=1e-5)
    rates = curve(rows, "lr")[1][:9]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < rates[3]
    assert {row["epoch"] for row in rows if row["step"] in {"0", "8"}} == {"1", "3"}


def test_best_epochs_count_from_one(run):
    out, _, result = run
    _, accuracies = curve(read_table(out / "metrics.csv"), "val_accuracy")
    assert result["best_epoch"] == 1 + int(np.argmax(accuracies[:3]))


def test_tensorboard_has_hyper_parameters_and_the_same_numbers(run):
    out, _, result = run
    board = EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert {"lr", "grad_norm", "train_loss", "val_loss", "best/val_accuracy"} <= set(tags)
    assert next(event.value for event in board.Scalars("epoch") if event.step == 8) == 3
    assert board.Scalars("best/val_accuracy")[-1].value == pytest.approx(result["best_val_accuracy"])
    assert any("hparams" in name for name in board.summary_metadata)


@pytest.mark.parametrize(
    ("items", "classes", "words"),
    [
        ([], "ab", "both sets must have items"),
        ([(torch.zeros(8, 8), 0)], "ab", "shape"),
        ([(torch.zeros(1, 8, 8), 2)], "ab", "labels must lie in"),
        ([torch.zeros(1, 8, 8)], "ab", "pair"),
        (["text"], "ab", "pair"),
        ([(torch.zeros(1, 8, 8), 0), (torch.zeros(1, 8, 9), 0)], "ab", "item 1 of the data set must have shape"),
    ],
)
def test_what_is_no_data_set_is_refused(items, classes, words):
    with pytest.raises(ValueError, match=words):
        own_source(items, items, classes=classes)


def test_the_norm_of_a_gradient_is_that_of_all_of_it():
    layer = torch.nn.Linear(2, 1)
    layer(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert float(gradient_norm(layer)) == pytest.approx(26**0.5)


class Tags(HTMLParser):
    """What a browser would make of a page: every tag with its attributes, and the text outside."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_names_of_classes_and_folders_are_text_in_the_report(run, tmp_path, monkeypatch):
    """Markup, scripts, ends of lines and marks that turn the direction of writing; two runs, all sections."""
    folder = tmp_path / "<img src=x onerror=alert(1)>\n\u202e$y_$"
    shutil.copytree(run[0], folder)
    monkeypatch.setattr(page, "open_run", lambda place: open_run(place, data=StripesModule()))
    text = write_report([folder, run[0]], tmp_path / "report.html", count=8).read_text()
    seen = Tags(text)
    plain = (
        "html head meta title link style body h1 h2 h3 p div table tr th td img figure figcaption details summary pre"
    )
    assert {tag for tag, _ in seen.tags} <= {*plain.split(), "pre"}
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert all(a["src"].startswith("data:image/png;base64,") for tag, a in seen.tags if tag == "img")
    assert "\u202e" not in text
    assert "\\u202e" in seen.text
    assert "<img src=x onerror=alert(1)>" in seen.text
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [chromium, *flags, (tmp_path / "report.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<title>run</title>" not in done.stdout


def test_the_report_begins_with_the_result_and_its_baseline(run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "open_run", lambda place: open_run(place, data=StripesModule()))
    seen = Tags(write_report([run[0]], tmp_path / "report.html", count=8).read_text())
    places = [seen.text.index(words) for words in ("Result", "held-out accuracy", "Curves", "Resolved config")]
    assert places == sorted(places)
    wrong = round(20 * (1 - json.loads((run[0] / "metrics.json").read_text())["val_accuracy"]))
    assert f"{wrong} of 20 held-out samples are wrong" in seen.text
    assert sum(tag == "figcaption" for tag, _ in seen.tags) == min(wrong, 12)
    assert [tag for tag, _ in seen.tags].index("details") > max(
        at for at, (tag, _) in enumerate(seen.tags) if tag == "h2"
    )
