"""The training driver and its checkpoints: interrupted, damaged, starved, and still whole."""

import errno
import json
import math
import os
import pickle
import shlex
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import lightning.pytorch as pl
import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import Dataset

from edge_app.cli.commands import parse
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec
from edge_models.classifier.options import ClassifierOptions
from edge_models.fitting import fit as training
from edge_models.fitting.callbacks import not_a_number
from edge_models.fitting.checkpoint import Base, Checkpoint, load, load_state, save, save_state, write_atomic
from edge_models.fitting.fit import (
    EpochBatches,
    FitOptions,
    Loaders,
    Machine,
    Silence,
    TrainingError,
    find_learning_rate,
    finish_run,
    fit,
    loader,
    open_run,
)
from edge_models.fitting.options import absolute, chosen, own_name, passed_on
from edge_models.networks.backbones import create_backbone
from edge_models.networks.weights import read_state
from edge_models.siamese.options import SiameseOptions

CPU = Machine(device="cpu")


class Points(Dataset):
    def __init__(self, count):
        self.x = torch.linspace(-1, 1, count)[:, None]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, key):
        _, at = key
        return self.x[at], 3 * self.x[at] + 1


class Line(pl.LightningModule):
    """Dropout makes every epoch depend on the random state: resuming must restore that too."""

    def __init__(self, poison_epoch=None, memory=None, stop_epoch=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Dropout(0.3), nn.Linear(16, 1))
        self.poison_epoch, self.memory, self.stop_epoch, self.sizes = poison_epoch, memory, stop_epoch, []

    def training_step(self, batch, index):
        x, y = batch
        self.sizes.append(len(x))
        if self.memory is not None and len(x) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if self.stop_epoch == self.current_epoch and index == 1:
            raise RuntimeError("power cut")
        loss = (self.net(x) - y).square().mean()
        loss = loss * math.nan if self.poison_epoch == self.current_epoch else loss
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("validation_loss", (self.net(x) - y).square().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def make(size):
    data = Points(24)
    return Loaders(
        loader(data, EpochBatches(24, size, 7), CPU), loader(data, EpochBatches(24, 24, 7, shuffle=False), CPU)
    )


def options(folder, **changes):
    return FitOptions(folder, "line", **{"epochs": 6, "batch_size": 8, "machine": CPU, "log": "none"} | changes)


def test_a_resumed_run_ends_to_the_bit_as_if_it_had_not_been_interrupted(tmp_path):
    whole = fit(Line(), make, options(tmp_path / "whole"), Silence())
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Line(stop_epoch=3), make, options(tmp_path / "cut"), Silence())
    cut = fit(Line(), make, options(tmp_path / "cut", resume=True), Silence())
    assert all(torch.equal(whole.state[name], cut.state[name]) for name in whole.state)
    assert [e["train_loss"] for e in whole.history] == [e["train_loss"] for e in cut.history]
    assert len(whole.history) == 6


def test_a_batch_in_pieces_makes_the_same_steps(tmp_path):
    ends = []
    for pieces in (1, 4):
        line = Line()
        line.net[1].p = 0.0  # what is dropped would differ
        result = fit(line, make, options(tmp_path / str(pieces), pieces=pieces), Silence())
        assert set(line.sizes) == {8 // pieces} and len(line.sizes) == 6 * 3 * pieces
        ends.append(result.state)
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-5) for name in ends[0])


def test_large_pictures_are_learned_from_in_pieces():
    from edge_models.classifier.stages import _pieces

    seen = {side: _pieces(create_backbone(f"efficientnet-lite0@{side}", pretrained=False), 32) for side in (128, 320)}
    assert seen == {128: 1, 320: 4}


@pytest.fixture(autouse=True)
def state_is_saved_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However quickly the last one ended."""
    monkeypatch.setattr("edge_models.fitting.callbacks.SAVE_EVERY_S", 0.0)


@pytest.fixture
def listening_to_ctrl_c():
    """A process begun in a shell's background ignores ctrl-C from birth, and so would pytest there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening_to_ctrl_c")
def test_ctrl_c_is_no_silent_exit_and_can_be_pressed_again(tmp_path):
    class Stopped(Line):
        def on_train_epoch_end(self):
            if self.current_epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Stopped(), make, options(tmp_path), Silence())
    assert signal.getsignal(signal.SIGINT) is before
    assert len(fit(Line(), make, options(tmp_path, resume=True), Silence()).history) == 6


def test_a_finished_stage_is_not_trained_again(tmp_path):
    first = fit(Line(), make, options(tmp_path), Silence())
    module = Line()
    again = fit(module, make, options(tmp_path, resume=True), Silence())
    assert module.sizes == [] and again.best == first.best
    assert torch.equal(module.state_dict()["net.0.weight"], first.state["net.0.weight"])


def test_the_best_epoch_is_kept_and_patience_ends_the_rest(tmp_path):
    class Worse(Line):
        def validation_step(self, batch, index):
            self.log("validation_loss", abs(self.current_epoch - 1.0))

    result = fit(Worse(), make, options(tmp_path, epochs=20, patience=2), Silence())
    assert result.best_epoch == 1 and result.best == 0.0
    assert len(result.history) == 4


def test_a_stage_that_is_given_more_epochs_goes_on_as_if_it_had_had_them_at_once(tmp_path):
    whole = fit(Line(), make, replace(options(tmp_path / "whole"), epochs=5), Silence())
    part = replace(options(tmp_path / "part"), epochs=2)
    assert len(fit(Line(), make, part, Silence()).history) == 2
    again = fit(Line(), make, replace(part, epochs=5, resume=True), Silence())
    assert len(again.history) == 5 and again.best == whole.best and again.best_epoch == whole.best_epoch
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in whole.state.items())
    # A longer one is not cut to fewer.
    assert len(fit(Line(), make, replace(part, epochs=2, resume=True), Silence()).history) == 5


def test_state_is_saved_by_time_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_models.fitting.callbacks.SAVE_EVERY_S", 1e9)
    with pytest.raises(TrainingError, match="not a number in epoch 2"):
        fit(Line(poison_epoch=2), make, options(tmp_path), Silence())
    assert not (tmp_path / "state" / "line-last.safetensors").exists()
    assert fit(Line(), make, options(tmp_path), Silence()).history


def test_a_loss_that_is_not_a_number_is_one_line_and_loses_nothing(tmp_path):
    with pytest.raises(TrainingError, match="not a number in epoch 2"):
        fit(Line(poison_epoch=2), make, options(tmp_path), Silence())
    assert load_state(tmp_path / "state" / "line-last.safetensors")["epoch"] == 1
    assert len(fit(Line(), make, options(tmp_path, resume=True), Silence()).history) == 6


def test_weights_that_are_no_numbers_after_the_last_step_are_refused(tmp_path):
    class Overshoots(Line):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=math.inf)

    def unwatched(size):
        return Loaders(loader(Points(24), EpochBatches(24, 24, 7), CPU))

    with pytest.raises(TrainingError, match="a weight of stage line is not a number in epoch 0"):
        fit(Overshoots(), unwatched, options(tmp_path, epochs=1), Silence())
    assert not (tmp_path / "state" / "line-last.safetensors").exists()


@pytest.mark.parametrize(
    ("stage", "rate"), [("head", "--learning-rate,"), ("tune", "--tune-rate,"), ("refit-tune", "--tune-rate,")]
)
def test_the_rate_that_was_too_high_is_named(stage, rate):
    assert f"train into a new folder with a lower {rate}" in str(not_a_number(stage, 0))


def test_out_of_memory_halves_the_batch_and_says_so(tmp_path):
    told = []

    class Told(Silence):
        def note(self, text):
            told.append(text)

    module = Line(memory=2)
    result = fit(module, make, options(tmp_path), Told())
    assert result.batch_size == 2 and len(result.history) == 6
    assert told == ["out of memory: going on with batches of 4", "out of memory: going on with batches of 2"]
    with pytest.raises(TrainingError, match="one picture"):
        fit(Line(memory=0), make, options(tmp_path / "none"), Silence())


def test_the_range_test_finds_a_rate_and_leaves_the_weights_alone(tmp_path):
    module = Line()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.net[1].p = 0.0
    assert 1e-3 < find_learning_rate(module, make, options(tmp_path, batch_size=24)) < 1.0
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_batches_are_reshuffled_by_epoch_and_seed_and_cover_everything():
    batches = EpochBatches(10, 3, seed=1)
    first = list(batches)
    assert sorted(i for _, at in first for i in at) == list(range(10)) and len(first) == len(batches) == 4
    batches.set_epoch(1)
    assert [at for _, at in batches] != [at for _, at in first]
    batches.set_epoch(0)
    assert list(batches) == first


def test_a_run_folder_is_neither_overwritten_nor_resumed_otherwise(tmp_path):
    folder = tmp_path / "run"
    open_run(folder, {"seed": 1, "epochs": 2}, resume=False)
    with pytest.raises(UsageError, match="not empty"):
        open_run(folder, {"seed": 1, "epochs": 2}, resume=False)
    open_run(folder, {"seed": 1, "epochs": 2}, resume=True)
    with pytest.raises(UsageError, match="other epochs"):
        open_run(folder, {"seed": 1, "epochs": 3}, resume=True)
    with pytest.raises(UsageError, match="no run"):
        open_run(tmp_path / "nothing", {}, resume=True)


def checkpoint():
    base = Base("efficientnet-lite0", 4, "Apache-2.0", True, "a package", "ab")
    spec = InputSpec("input", 224, 224, "RGB", (127.5,) * 3, (127.5,) * 3)
    tensors = {"head.weight": torch.arange(8.0).view(2, 4), "head.scale": torch.tensor(2.0)}
    return Checkpoint(
        "classifier",
        tensors,
        base,
        spec,
        "centre-0.875",
        {"loss": "cosine"},
        ("ant", "bee"),
        1.5,
        {"seed": 3},
        {"a": 0.5},
    )


def test_a_checkpoint_comes_back_whole_and_private(tmp_path):
    path = tmp_path / "best.safetensors"
    save(path, checkpoint())
    back = load(path)
    for name in (
        "kind",
        "base",
        "input",
        "crop",
        "head",
        "classes",
        "temperature",
        "configuration",
        "metrics",
        "versions",
    ):
        assert getattr(back, name) == getattr(checkpoint(), name), name
    assert torch.equal(back.tensors["head.weight"], checkpoint().tensors["head.weight"])
    assert path.stat().st_mode & 0o777 == 0o600


def test_damaged_foreign_and_other_versions_are_one_line(tmp_path):
    path = tmp_path / "best.safetensors"
    save(path, checkpoint())
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="damaged or cut short"):
            load(path)
    other = whole.replace(b'\\"format\\": 2', b'\\"format\\": 9')
    assert other != whole
    path.write_bytes(other)
    with pytest.raises(ModelError, match="version 9; expected version 1 or 2"):
        load(path)
    save_state(path, {"x": 1})
    with pytest.raises(ModelError, match="without our header"):
        load(path)


def test_training_state_survives_its_odd_containers(tmp_path):
    state = {"a": {0: torch.ones(2), "b": (1, 2.5, None)}, "c": [True, "x", {"d": torch.zeros(1)}], "e": math.inf}
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert back["a"]["b"] == (1, 2.5, None) and back["c"][:2] == [True, "x"] and back["e"] == math.inf
    assert torch.equal(back["a"][0], torch.ones(2))
    with pytest.raises(ModelError, match="holds a object"):
        save_state(tmp_path / "t", {"x": object()})


def test_no_space_leaves_what_was_there_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "best.safetensors"
    path.write_text("before")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=r"no space to write .* \(\d+\.\d kB\)"):
        write_atomic(path, b"after")
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_a_weight_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(1), "evil": Evil()}, "evil.pth")
    with pytest.raises(ModelError, match=r"refused|cannot be read"):
        read_state(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError):
        read_state(tmp_path / "plain.pth")
    assert not (tmp_path / "owned").exists()


def test_state_of_another_build_is_one_line(tmp_path):
    state = tmp_path / "state"
    fit(Line(), make, options(tmp_path), Silence())
    whole = load_state(state / "line-last.safetensors")
    without_curve = whole | {"callbacks": {}}
    other_network = whole | {"state_dict": {"net.0.weight": torch.ones(2, 2)}}
    for spoiled in (without_curve, other_network, {"epoch": 3}):
        for finished in (True, False):
            save_state(state / "line-last.safetensors", spoiled)
            save_state(state / "line-best.safetensors", spoiled)
            if not finished:
                (state / "line-done.json").unlink(missing_ok=True)
            with pytest.raises(ModelError, match=r"cannot be gone on with|no training state"):
                fit(Line(), make, options(tmp_path, epochs=9, resume=True), Silence())
            write_atomic(state / "line-done.json", json.dumps({"batch_size": 8}))
    write_atomic(state / "line-done.json", "{}")
    with pytest.raises(ModelError, match="cannot be gone on with"):
        fit(Line(), make, options(tmp_path, resume=True), Silence())


def test_an_error_of_the_module_itself_is_not_blamed_on_the_state(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Line(stop_epoch=3), make, options(tmp_path), Silence())
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Line(stop_epoch=4), make, options(tmp_path, resume=True), Silence())


def test_the_csv_log_keeps_the_epochs_before_a_resume(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Line(stop_epoch=3), make, options(tmp_path, log="csv"), Silence())
    fit(Line(), make, options(tmp_path, log="csv", resume=True), Silence())
    lines = (tmp_path / "logs" / "line" / "metrics.csv").read_text().splitlines()
    assert "train_loss" in lines[0] and [line.split(",")[0] for line in lines[1:]] == [f"{n}.0" for n in range(6)]


def test_what_a_machine_lacks_is_refused_before_anything_is_written():
    Machine(device="cpu").check()
    with pytest.raises(UsageError, match="2 devices were asked for, this machine has 1"):
        Machine(device="cpu", devices=2).check()
    with pytest.raises(UsageError, match="-1 as number of workers"):
        Machine(device="cpu", workers=-1).check()


def test_half_written_files_of_a_kill_are_swept_and_do_not_block_a_new_run(tmp_path):
    (tmp_path / ".run.json.a1b2c3d_.part").write_bytes(b"half")
    open_run(tmp_path, {"seed": 1}, resume=False)
    for folder in ("state", "logs/head"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / ".head.safetensors.a1b2c3d_.part").write_bytes(b"half")
    (tmp_path / ".lr_find_12.ckpt").write_bytes(b"half")
    (tmp_path / ".made.a1b2c3d_.part").mkdir()  # a command that makes a folder was killed here
    open_run(tmp_path, {"seed": 1}, resume=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["run.json"]
    finish_run(tmp_path)
    assert not (tmp_path / "state").exists()


def test_nothing_is_swept_out_of_a_folder_that_holds_no_run(tmp_path):
    """Whoever names a folder of his own by mistake loses no download that is under way in it."""
    (tmp_path / "below").mkdir()
    own = [tmp_path / ".film.mp4.part", tmp_path / "below" / ".a.run.json.a1b2c3d_.part", tmp_path / ".lr_find_1.ckpt"]
    for path in own:
        path.write_bytes(b"mine")
    for resume, told in ((False, "not empty"), (True, "no run to go on with")):
        with pytest.raises(UsageError, match=told):
            open_run(tmp_path, {"seed": 1}, resume=resume)
    assert [path.read_bytes() for path in own] == [b"mine"] * 3
    open_run(tmp_path / "run", {"seed": 1}, resume=False)
    (tmp_path / "run" / ".film.mp4.part").write_bytes(b"mine")
    open_run(tmp_path / "run", {"seed": 1}, resume=True)
    assert (tmp_path / "run" / ".film.mp4.part").exists()


def test_several_processes_share_the_batches_and_judge_everything(monkeypatch):
    for count, size in ((24, 8), (24, 24), (5, 8), (1, 8)):
        shares = []
        for rank in range(2):
            monkeypatch.setattr(training, "_place", lambda rank=rank: (rank, 2))
            batches = EpochBatches(count, size, seed=1)
            drawn = list(batches)
            assert len(drawn) == len(batches) >= 1 and all(at for _, at in drawn)
            shares.append(sorted(i for _, at in drawn for i in at))
            assert len(list(EpochBatches(count, size, 1, shuffle=False))) == math.ceil(count / size)
        assert count == 1 or not set(shares[0]) & set(shares[1])


def test_a_training_error_comes_back_from_another_process():
    told = "\n-- Process 0 terminated with the following error:\nmodels.progress.TrainingError: the loss is bad"
    error = training._from_process(ProcessRaisedException(told, 0, 1))
    assert isinstance(error, TrainingError) and str(error) == "the loss is bad"
    other = RuntimeError("x")
    assert training._from_process(other) is other


def test_run_configuration_is_plain_json(tmp_path):
    open_run(tmp_path / "run", {"weights": None, "shares": (0.2, 0.3)}, resume=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"weights": None, "shares": [0.2, 0.3]}


# --- the command that trains it again

KINDS = [
    pytest.param("classifier", ClassifierOptions, id="classifier"),
    pytest.param("siamese", SiameseOptions, id="siamese"),
]
ODD = {
    "split_by": "the driver",
    "directory": Path("-my pictures"), "output": Path("-runs/it's"), "seed": 3, "weights": Path("~/w x.pth"),
    "loss": {"classifier": "cosine", "siamese": "arcface"}, "mixing": "cutmix", "subject": "face", "device": "cpu",
    "precision": "bf16", "log": "tensorboard", "detector": "mtcnn", "backbone": "timm:vgg11", "base": "timm:vgg11",
    "cache": Path("/c"), "groups": Path("g.csv"), "unlabelled": Path("u"), "held_out": 2, "choosing": 3,
    "confidence": 0.9, "head": "prototypes", "balance": "classes", "balance_by": "the shift",
    "size": 64, "depth": 14, "from_run": Path("runs/p"), "adapt": Path("-t"), "adapt_by": "coral", "student": "lite2",
    "roi": "0.1,0.2,0.9,1.0", "hierarchy": Path("tree.yaml"), "attributes": Path("has.yaml"), "style": Path("looks"),
}  # fmt: skip
"""A value of each option that is not the default, where adding to the default does not give one."""


ALONE = ("hierarchy", "attributes", "style")
"""Refused beside some of the others."""


def parsed(options, command):
    words = shlex.split(command)
    return words[:3], chosen(options, parse(words[1:]).arguments.values())


def odd_value(kind, name, default):
    if name in ODD:
        return ODD[name][kind] if isinstance(ODD[name], dict) else ODD[name]
    if isinstance(default, bool):
        return not default
    return (default or 0.5) / 2 if isinstance(default, float) else (default or 0) + 1


@pytest.mark.parametrize(("kind", "options_of"), KINDS)
def test_the_told_command_means_the_same_options_whichever_were_chosen(kind, options_of):
    plain = options_of(Path("in"), Path("out"))
    assert plain.command() == f"edge-app train {kind} in --output out --seed 0"
    names = [one.name for one in fields(options_of) if one.name not in ("resume", "distil")]
    odd = {name: odd_value(kind, name, getattr(plain, name)) for name in names}
    everything = options_of(**{name: value for name, value in odd.items() if name not in ALONE})
    assert parsed(options_of, everything.command()) == (["edge-app", "train", kind], everything)
    for name in names:
        changed = replace(plain, **{name: odd[name]})
        assert changed != plain
        assert parsed(options_of, changed.command())[1] == changed, name
    assert replace(plain, resume=True).command() == plain.command()


def test_a_distilled_ensemble_is_told_with_its_ensemble():
    both = ClassifierOptions(Path("in"), Path("out"), ensemble=2, distil=True)
    assert parsed(ClassifierOptions, both.command())[1] == both


def test_what_has_no_number_is_told_in_its_word():
    never = ClassifierOptions(Path("in"), Path("out"), patience=None, tune_rate=None, confidence=0.9)
    assert "--patience never" in never.command() and "--tune-rate find" in never.command()
    assert parsed(ClassifierOptions, never.command())[1] == never


@pytest.mark.parametrize(("kind", "options_of"), KINDS)
def test_what_is_passed_on_names_folders_but_not_where_they_lie(kind, options_of, tmp_path):
    home = tmp_path / "ada"
    options = options_of(home / "faces", home / "runs" / "1", weights=home / "w.pth")
    told = passed_on(options)
    assert told["command"] == f"edge-app train {kind} faces --output 1 --seed 0 --weights w.pth"
    assert [name for name, value in told.items() if str(home) in str(value)] == ["directory"]
    assert told["seed"] == 0 and json.dumps(told)
    assert str(home / "runs" / "1") in options.command()  # the user's own report is exact
    assert own_name(Path("..")) != ".." and absolute(Path("x")) == str(Path.cwd() / "x")
