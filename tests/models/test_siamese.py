"""Fine-tuning an embedder: losses at known angles, splits by identity, figures before and after, a whole run."""

import copy
import html
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_app.accuracy.intervals import Estimate
from edge_app.accuracy.pair_scores import unit_rows
from edge_app.cli.commands import parse
from edge_app.core.errors import ModelError, UsageError
from edge_models.data.checks import scan
from edge_models.data.class_folders import CheckOptions
from edge_models.fitting import checkpoint
from edge_models.fitting.callbacks import Watch
from edge_models.fitting.fit import Silence, TrainingError
from edge_models.fitting.options import chosen
from edge_models.networks import embedder
from edge_models.networks.backbones import create_backbone
from edge_models.siamese import fit as siamese_training
from edge_models.siamese import judge
from edge_models.siamese import options as siamese_options
from edge_models.siamese import run as siamese
from edge_models.siamese.losses import metric_loss, start_at_means
from edge_models.siamese.options import SiameseOptions

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "edge_app" / "media" / "sample"


@pytest.fixture(autouse=True)
def state_is_saved_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However quickly the last one ended."""
    monkeypatch.setattr("edge_models.fitting.callbacks.SAVE_EVERY_S", 0.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks lose more by handing work between threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Listening(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def at_degrees(*angles: float) -> torch.Tensor:
    radians = torch.deg2rad(torch.tensor(angles))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def cos_deg(angle: float) -> float:
    return math.cos(math.radians(angle))


# --- losses, by hand


def test_contrastive_loss_pulls_pairs_to_09_and_pushes_others_to_01() -> None:
    loss = metric_loss("contrastive", 2, 2)
    # One genuine pair at 60 degrees: 0.9 - 0.5. Impostors at 80 and 140 degrees: cos 80 = 0.17 is 0.07 too near.
    value = float(loss(at_degrees(0, 60, 140), torch.tensor([0, 0, 1])))
    assert value == pytest.approx(0.4 + cos_deg(80) - 0.1, abs=1e-5)
    assert float(loss(at_degrees(0, 10, 100), torch.tensor([0, 0, 1]))) == pytest.approx(0.0, abs=1e-6)


def test_triplet_loss_counts_semi_hard_triplets_only() -> None:
    loss = metric_loss("triplet", 2, 2)
    # From 20 degrees the positive lies 20 away, the negative 30: too near by 0.2 - (cos 20 - cos 30).
    angles, labels = at_degrees(0, 20, 50), torch.tensor([0, 0, 1])
    from_20 = 0.2 - (cos_deg(20) - cos_deg(30))
    assert float(loss(angles, labels)) == pytest.approx(from_20, abs=1e-5)  # seen from 0, 50 degrees are far enough
    assert float(loss(at_degrees(0, 5, 90), labels)) == 0.0
    # A negative nearer than the positive is hard, not semi-hard: it is left to later batches.
    assert float(loss(at_degrees(0, 40, 10), torch.tensor([0, 0, 1]))) == pytest.approx(0.0, abs=1e-6)


def test_arcface_starts_at_the_means_and_wants_a_margin() -> None:
    loss = metric_loss("arcface", 2, 2)
    angles, labels = at_degrees(-10, 10, 80, 100), torch.tensor([0, 0, 1, 1])
    start_at_means(loss, angles, labels)
    assert torch.allclose(loss.loss.W.detach().T, at_degrees(0, 90), atol=1e-5)
    # 35 degrees from the own centre, widened by 28.6, and 55 from the other; scale 32.
    own, other = 32 * cos_deg(35 + 28.6), 32 * cos_deg(55)
    expected = math.log1p(math.exp(other - own))
    assert float(loss(at_degrees(35), labels[:1]).detach()) == pytest.approx(expected, rel=1e-3)


def test_length_does_not_matter_and_unknown_losses_are_named() -> None:
    labels = torch.tensor([0, 0, 1])
    for name in siamese_options.LOSSES:
        torch.manual_seed(0)
        loss = metric_loss(name, 2, 2)
        rows = at_degrees(0, 60, 140)
        assert float(loss(rows, labels).detach()) == pytest.approx(float(loss(rows * 7, labels).detach()), abs=1e-4)
    with pytest.raises(UsageError, match="no loss called 'cosface'"):
        metric_loss("cosface", 2, 2)
    with pytest.raises(UsageError, match="1 identities"):
        metric_loss("triplet", 2, 1)


# --- identities


def options(folder: Path = Path("in"), output: Path = Path("out"), **changes: object) -> SiameseOptions:
    return replace(SiameseOptions(folder, output), **changes)  # type: ignore[arg-type]


def test_splits_take_turns_and_never_share_an_identity() -> None:
    people = np.arange(12)
    divisions = siamese.divide(people, options(splits=3, held_out=4))
    assert sorted(np.concatenate([one.held_out for one in divisions])) == list(people)
    for one in divisions:
        assert sorted(np.concatenate([one.learning, one.choosing, one.held_out])) == list(people)
        assert len(one.learning) == 8
    again = siamese.divide(people, options(splits=6, held_out=4))
    assert [list(one.held_out) for one in again[:3]] == [list(one.held_out) for one in divisions]
    assert [list(one.held_out) for one in again[3:]] != [list(one.held_out) for one in divisions]


def test_some_identities_are_kept_to_choose_by_where_they_can_be_spared() -> None:
    assert len(siamese.divide(np.arange(12), options())[0].choosing) == 0
    thirty = siamese.divide(np.arange(30), options())[0]
    assert (len(thirty.held_out), len(thirty.choosing), len(thirty.learning)) == (10, 4, 16)


@pytest.mark.parametrize(
    "changes", [{"held_out": 1}, {"held_out": 5}, {"held_out": 2, "choosing": 3}, {"choosing": 1}, {"choosing": -2}]
)
def test_too_few_identities_on_a_side_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least two held out"):
        siamese.divide(np.arange(6), options(**changes))


def test_batches_hold_several_pictures_of_several_identities() -> None:
    numbers = np.repeat([0, 1, 2, 3], [10, 10, 10, 1])
    batches = siamese_training.IdentityBatches(numbers, batch_size=8, pictures=4, seed=3)
    drawn = list(batches)
    assert len(drawn) == len(batches) == math.ceil(31 / 8)
    for _epoch, batch in drawn:
        _, counts = np.unique(numbers[batch], return_counts=True)
        assert counts.tolist() == [4, 4]  # the identity with one picture is drawn four times
    assert [batch for _, batch in batches] == [batch for _, batch in drawn]
    batches.set_epoch(1)
    assert [batch for _, batch in batches] != [batch for _, batch in drawn]


# --- figures


def crowd(spread: float, people: int = 12, each: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), each)
    centres, noise = rng.normal(size=(people, 16)), rng.normal(size=(people * each, 16))
    return unit_rows(centres[labels] + spread * noise), labels


def test_separation_is_the_share_of_pairs_in_the_right_order() -> None:
    # Genuine: 20 and 40 degrees. Impostors: 30, 50, 70, 90. Of eight comparisons only 40 against 30 is wrong.
    rows = at_degrees(0, 20, 50, 90).numpy()
    assert judge.separation(rows, np.array([0, 0, 1, 1])) == pytest.approx(7 / 8)
    assert math.isnan(judge.separation(rows[:2], np.array([0, 0])))


def judged(before: float, after: float) -> tuple[judge.Judgement, ...]:
    sides = []
    for spread in (before, after):
        rows, labels = crowd(spread)
        parts = [np.isin(labels, np.arange(start, start + 6)) for start in (0, 6)]
        sides.append([judge.score(rows[part], labels[part]) for part in parts])
    return judge.judge(*sides)


def test_better_is_said_only_where_the_interval_says_so() -> None:
    clear = judged(1.0, 0.3)
    assert [one.verdict for one in clear if one.name == "TAR at FAR 0.01"] == ["better"]
    assert judge.verdict(clear).startswith("better than its base (TAR at FAR 0.01: +")
    same = judged(1.0, 1.0)
    assert all(one.verdict == "no difference shown" and one.gain.value == 0 for one in same)
    assert judge.verdict(same).startswith("not shown to be better than its base")
    assert judge.verdict(judged(0.3, 1.0)).startswith("worse than its base in TAR at FAR 0.01")
    assert "could not" not in judge.verdict(same)
    assert "nothing could be judged" in judge.verdict(())


def test_a_gain_whose_interval_holds_zero_is_not_called_better() -> None:
    def told(low: float, high: float) -> judge.Judgement:
        side = Estimate(0.8, 0.7, 0.9, 12)
        return judge.Judgement("TAR at FAR 0.01", side, side, Estimate(0.05, low, high, 12))

    unsure = told(-0.01, 0.11)
    assert unsure.verdict == "no difference shown"
    assert judge.verdict([unsure]) == (
        "not shown to be better than its base (TAR at FAR 0.01: +5.00 (-1.00 to +11.00) points): keep the base"
    )
    assert judge.verdict([told(0.01, 0.09)]).startswith("better")
    assert judge.verdict([told(0.01, 0.09), told(-0.3, -0.1)]).startswith("worse")


def test_pooled_figures_are_means_over_splits() -> None:
    rows, labels = crowd(0.8)
    parts = [np.isin(labels, np.arange(start, start + 6)) for start in (0, 6)]
    scores = [judge.score(rows[part], labels[part]) for part in parts]
    figure = judge.judge(scores, scores)[0]
    assert figure.name == "TAR at FAR 0.01"
    assert figure.before.value == pytest.approx(np.mean([one.pairs.tar(0.01) for one in scores]))
    assert figure.before.low < figure.before.value < figure.before.high
    assert figure.gain.trials == 12


def test_few_identities_are_told_and_json_knows_no_nan() -> None:
    rows, labels = crowd(0.5, people=4)
    scores = [judge.score(rows, labels)]
    judgements = judge.judge(scores, scores)
    assert "Only 4 identities were held out" in judge.table(judgements)[-1]
    assert {"before", "after", "gain", "identities", "verdict"} == set(judge.plain(judgements)["1-shot accuracy"])
    json.dumps(judge.plain(judgements), allow_nan=False)


# --- networks


def random_sface() -> embedder.SFaceBackbone:
    torch.manual_seed(0)
    made = embedder.create_embedder("sface", pretrained=False)
    assert isinstance(made, embedder.SFaceBackbone)
    return made


def test_sface_in_two_halves_is_sface() -> None:
    network = random_sface()
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    pixels = torch.from_numpy(crops.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        whole = network.body(pixels).numpy()
        halves = network.pool(network.upper(network.lower(pixels, 3), 3)).numpy()
    assert np.allclose(embedder.embed(network, crops), whole, atol=1e-5)
    assert np.allclose(halves, whole, atol=1e-5)
    assert len(network.groups) == 27
    learning = network.unfreeze(3)
    assert sum(p.numel() for p in learning[0]) > 128 * 50176  # the last matrix learns with the last stage
    assert sum(p.requires_grad for p in network.parameters()) == 3 * 3 + 2


def test_mixing_goes_from_the_base_to_the_tuned_network() -> None:
    base, tuned = random_sface(), random_sface()
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(1.0)
    first = next(base.parameters()).clone()
    for share in (0.0, 0.25, 1.0):
        mixed = siamese_training.mixed_with(base, tuned, share)
        assert torch.allclose(next(mixed.parameters()), first + share, atol=1e-6)
    assert torch.equal(next(base.parameters()), first)


def sample_crops() -> np.ndarray:
    paths = sorted(SAMPLE.glob("*.jpg"))
    return np.stack([cv2.resize(cv2.imread(str(path))[..., ::-1], (112, 112)) for path in paths])


def test_sface_serves_what_it_trains() -> None:
    network = embedder.create_embedder("sface")
    assert network.source.licence == "Apache-2.0"
    embedder.check_served_alike(network, sample_crops())
    with torch.no_grad():
        next(network.parameters()).mul_(1.1)
    with pytest.raises(ModelError, match="agree only to cosine"):
        embedder.check_served_alike(network, sample_crops())


def test_faces_are_found_and_aligned_as_the_runtime_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("obama", "biden", "astronaut"):
        (tmp_path / name).mkdir()
        for path in SAMPLE.glob(f"{name}*.jpg"):
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    cv2.imwrite(str(tmp_path / "biden" / "wall.png"), rng.integers(90, 110, (200, 200, 3), dtype=np.uint8))
    folder = scan(tmp_path, CheckOptions(min_per_class=1))
    network = embedder.create_embedder("sface")
    crops = embedder.crops_of(folder, network, aligned=False, detector="yunet", progress=Silence())
    assert crops.without_face == ("biden/wall.png",)
    assert crops.images.shape == (5, 112, 112, 3)
    names = np.array([folder.classes[label] for label in crops.labels])
    rows = unit_rows(embedder.embed(network, crops.images))
    similarity = rows @ rows.T
    obama = names == "obama"
    assert similarity[np.ix_(obama, obama)].min() > similarity[np.ix_(obama, ~obama)].max() + 0.2


# --- whole runs, on drawn things: discs, squares, crosses ... in noise


def draw_things(root: Path, kinds: int = 6, each: int = 6, size: int = 64) -> Path:
    rng = np.random.default_rng(0)
    for kind in range(kinds):
        (root / f"thing{kind}").mkdir(parents=True)
        for number in range(each):
            picture = rng.integers(0, 80, (size, size, 3), dtype=np.uint8)
            x, y = (int(v) for v in rng.integers(24, 40, 2))
            colour = tuple(int(v) for v in np.eye(3)[kind % 3] * 175 + 80)
            if kind < 3:
                cv2.circle(picture, (x, y), 16, colour, -1)
            else:
                cv2.rectangle(picture, (x - 14, y - 14), (x + 14, y + 14), colour, 4)
            cv2.imwrite(str(root / f"thing{kind}" / f"{number}.png"), picture)
    return root


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_things(tmp_path_factory.mktemp("things"))


TINY = "timm:test_efficientnet"
"""timm's network for tests: 0.4 million weights."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights for TINY, which offline has none of its own."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(create_backbone(TINY, pretrained=False).body.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small(things: Path, weights: Path) -> Callable[..., SiameseOptions]:
    """Options of a run that takes seconds."""
    plain = options(
        things, base=TINY, weights=weights, epochs=2, views=1, identities_per_batch=4, pictures_per_batch=4,
        learning_rate=1e-3, device="cpu",
    )  # fmt: skip
    return lambda output, **changes: replace(plain, output=output, **changes)


@pytest.fixture(scope="module")
def finished(small: Callable[..., SiameseOptions], tmp_path_factory: pytest.TempPathFactory) -> siamese.SiameseResult:
    output = tmp_path_factory.mktemp("runs") / "run"
    return siamese.train(small(output, splits=2, loss="arcface"), Silence())


def test_a_run_writes_a_checkpoint_that_embeds_again(
    finished: siamese.SiameseResult, things: Path, weights: Path
) -> None:
    assert "best" in finished.checkpoint.name
    saved = checkpoint.load(finished.checkpoint)
    assert (saved.kind, saved.base.name) == ("embedder", TINY)
    assert saved.data_sha256 == scan(things).sha256
    assert set(saved.classes) < {f"thing{kind}" for kind in range(6)}
    assert saved.configuration["mixture"] == siamese_training.MIXTURE_UNCHOSEN
    network = embedder.load_embedder(saved)
    base = embedder.create_embedder(TINY, weights=weights)
    crops = embedder.crops_of(scan(things), base, aligned=True, detector="yunet", progress=Silence()).images[:4]
    rows, plain = unit_rows(embedder.embed(network, crops)), unit_rows(embedder.embed(base, crops))
    assert rows.shape == (4, base.features)
    assert (rows * plain).sum(axis=1).min() < 0.99999  # it moved
    assert (finished.checkpoint.stat().st_mode & 0o777) == 0o600


def test_a_run_reports_before_and_after_on_identities_it_never_saw(finished: siamese.SiameseResult) -> None:
    report = json.loads(finished.report.read_text())
    for split in report["splits"]:
        assert not set(split["learning"]) & set(split["held_out"])
        assert len(split["history"]) == 2
    assert {"1-shot accuracy", "2-shot accuracy", "5-shot accuracy"} <= set(report["figures"])
    assert report["verdict"] == finished.verdict
    assert any("1-shot accuracy" in line for line in finished.summary())


def test_a_finished_run_keeps_no_state_and_resuming_it_says_so(
    small: Callable[..., SiameseOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    first = siamese.train(small(output), Silence())
    assert sorted(path.name for path in output.iterdir()) == [
        "embedder-best.safetensors", "logs", "run.json", "siamese.html", "siamese.json",
    ]  # fmt: skip
    monkeypatch.setattr(siamese, "tune", lambda *_: pytest.fail("it was trained again"))
    listening = Listening()
    again = siamese.train(small(output, resume=True), listening)
    assert any("finished already" in note for note in listening.notes)
    assert again.verdict == first.verdict
    assert judge.plain(again.judgements) == judge.plain(first.judgements)


def test_the_page_tells_the_figures_and_needs_no_network(finished: siamese.SiameseResult) -> None:
    page = finished.html.read_text()
    report = json.loads(finished.report.read_text())
    assert page.count("<svg") == 3 and "{{" not in page
    assert report["verdict"][1:].split(":")[0] in page
    for name, figure in report["figures"].items():
        assert f'<td class="c">{name}</td>' in page
        assert f"{100 * figure['after']['value']:.1f} %" in page
    assert f"<code>{html.escape(report['command'])}</code>" in page
    assert str(finished.checkpoint.parent) in report["command"]
    told = checkpoint.load(finished.checkpoint).configuration["command"]
    assert told.startswith("edge-app train siamese things") and str(finished.checkpoint.parent.parent) not in told
    assert 'src="http' not in page and 'href="http' not in page


def test_other_pictures_do_not_go_on_with_a_run(
    small: Callable[..., SiameseOptions], things: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "things"
    shutil.copytree(things, folder)
    siamese.train(small(tmp_path / "run", directory=folder, epochs=1, views=0), Silence())
    (folder / "thing0" / "0.png").unlink()
    with pytest.raises(UsageError, match="begun with other pictures"):
        siamese.train(small(tmp_path / "run", directory=folder, epochs=1, views=0, resume=True), Silence())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(small: Callable[..., SiameseOptions], tmp_path: Path) -> None:
    runs = [siamese.train(small(tmp_path / name, choosing=2, held_out=2), Silence()) for name in "ab"]
    first, second = (checkpoint.load(run.checkpoint).tensors for run in runs)
    assert len(first) > 10 and first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_left(
    small: Callable[..., SiameseOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = siamese.train(small(tmp_path / "whole"), Silence())
    wanted = checkpoint.load(whole.checkpoint).tensors

    def cut(self: Watch, *_: object) -> None:
        if self.history and self.history[-1]["epoch"] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
        patched.setattr(Watch, "on_train_epoch_start", cut)
        siamese.train(small(tmp_path / "run"), Silence())
    assert (tmp_path / "run" / "state" / "split0-last.safetensors").is_file()
    assert not (tmp_path / "run" / siamese.CHECKPOINT_NAME).exists()
    again = siamese.train(small(tmp_path / "run", resume=True), Silence())
    found = checkpoint.load(again.checkpoint).tensors
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with pytest.raises(UsageError, match="was begun with other loss"):
        siamese.train(small(tmp_path / "run", resume=True, loss="contrastive"), Silence())


@pytest.mark.slow
def test_a_run_that_was_cut_off_while_its_report_was_written_tells_the_same(
    small: Callable[..., SiameseOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> str:
        raise KeyboardInterrupt

    whole = siamese.train(small(tmp_path / "whole"), Silence())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(siamese, "page", cut)
        siamese.train(small(tmp_path / "run"), Silence())
    assert (tmp_path / "run" / siamese.CHECKPOINT_NAME).is_file()
    assert not (tmp_path / "run" / siamese.PAGE_NAME).exists()
    again = siamese.train(small(tmp_path / "run", resume=True), Silence())
    first, second = (checkpoint.load(run.checkpoint).tensors for run in (whole, again))
    assert len(first) > 10 and first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    told = [json.loads(run.report.read_text()) for run in (whole, again)]
    assert told[0]["figures"] == told[1]["figures"] and told[0]["verdict"] == told[1]["verdict"]


def test_nothing_is_chosen_that_is_worse_than_the_base(tmp_path: Path) -> None:
    base = embedder.create_embedder("sface")
    chosen = options(output=tmp_path, views=0, device="cpu")
    bank = siamese_training.lower_layers(base, sample_crops(), chosen, Silence())
    labels = np.array([0, 1, 2, 2, 2])  # astronaut, biden, obama three times: SFace tells them apart
    for spoil in (torch.randn_like, torch.zeros_like):
        spoiled = copy.deepcopy(base)
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in [p for group in spoiled.unfreeze(3) for p in group]:
                weight.copy_(spoil(weight))
        share, network = siamese_training._best_mixture(base, spoiled, bank, np.arange(5), labels, chosen)
        assert share == 0.0
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), base.parameters(), strict=True))


def test_features_of_an_interrupted_run_are_used_again_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(output=tmp_path, views=1, device="cpu")
    network, crops = random_sface(), sample_crops()
    first = siamese_training.lower_layers(network, crops, chosen, Silence())
    assert first[0].dtype == torch.float32 and first[1].dtype == torch.float16 and len(first[1]) == 1
    with torch.inference_mode():
        pixels = torch.from_numpy(crops.transpose(0, 3, 1, 2).astype(np.float32))
        assert torch.allclose(first[0], network.lower(pixels, 3), atol=1e-4)
    computed: list[int] = []
    lower = network.lower
    monkeypatch.setattr(network, "lower", lambda *given: computed.append(1) or lower(*given))
    again = siamese_training.lower_layers(network, crops, chosen, Silence())
    assert not computed
    assert torch.equal(again[0], first[0])
    assert torch.equal(again[1], first[1])
    siamese_training.lower_layers(network, crops[::-1].copy(), chosen, Silence())
    assert computed


def test_folders_that_cannot_work_are_told_in_words(
    small: Callable[..., SiameseOptions], tmp_path: Path, things: Path
) -> None:
    with pytest.raises(UsageError, match="holds 3 usable identities; expected at least 4"):
        siamese.train(small(tmp_path / "run", directory=draw_things(tmp_path / "three", kinds=3)), Silence())
    faceless = options(things, tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match=r"0 identities have two pictures with a face.*--aligned"):
        siamese.train(faceless, Silence())
    with pytest.raises(UsageError, match="--views is -1; expected at least 0"):
        siamese.train(options(things, tmp_path / "run", views=-1), Silence())
    assert not (tmp_path / "run").exists()


def test_weights_that_make_no_embedding_any_more_are_told_as_training_going_wrong(
    small: Callable[..., SiameseOptions], tmp_path: Path
) -> None:
    # One batch: its loss is of the weights before the only step, and what that step makes of them is finite.
    with pytest.raises(TrainingError, match=r"stage split0 is not a number in epoch 0.*lower --learning-rate"):
        siamese.train(small(tmp_path / "run", epochs=1, learning_rate=1e30, identities_per_batch=16), Silence())


def test_a_base_that_was_misspelt_is_told_the_right_one() -> None:
    with pytest.raises(UsageError, match="no backbone called 'sfac'; expected sface"):
        embedder.create_embedder("sfac")


def test_a_checkpoint_of_another_kind_is_refused(finished: siamese.SiameseResult) -> None:
    saved = checkpoint.load(finished.checkpoint)
    with pytest.raises(ModelError, match="holds a classifier"):
        embedder.load_embedder(replace(saved, kind="classifier"))
    with pytest.raises(ModelError, match="do not fit timm:test_efficientnet"):
        embedder.load_embedder(replace(saved, tensors=dict(list(saved.tensors.items())[1:])))


def test_facenet_weights_that_cannot_be_had_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def offline(*_args: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ModelError, match=r"20180402-114759-vggface2.pt .*put it at"):
        embedder.create_embedder("inception-resnet-v1:vggface2")


def test_the_command_line_reaches_every_option_without_torch(things: Path, tmp_path: Path) -> None:
    def given(*words: str) -> SiameseOptions:
        return chosen(SiameseOptions, parse(["train", "siamese", str(things), *words]).arguments.values())

    assert given("--output", str(tmp_path / "run")) == SiameseOptions(things, tmp_path / "run")
    found = given("--output", "o", "--held-out", "3", "--loss", "arcface", "--aligned")
    assert (found.held_out, found.loss, found.aligned) == (3, "arcface", True)
    code = "import sys, edge_models.siamese.options; assert not {'torch', 'numpy', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
