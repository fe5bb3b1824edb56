"""A model whose card or graph was changed after its export is told from one that is as its maker measured it."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.cohort import Cohort, stored_centres
from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec, ModelCard, OperatingPoint
from edge_app.inference import onnx_model
from edge_app.inference.geometry import to_input
from edge_app.model_store import catalogue, fingerprint, install, shipped
from edge_app.model_store.onnx_inspect import inspect, with_card, with_metadata
from edge_app.model_store.protobuf import chunk
from tests.model_store import onnx_by_hand as by_hand

COLOURS = ModelCard(
    "colours",
    "classification",
    "logits",
    InputSpec("input", 32, 32, "RGB", (127.5,) * 3, (127.5,) * 3),
    ("logits",),
    "fp32",
    "CC-BY-NC-4.0",
    False,
    "a test",
    "0" * 64,
    crop="centre-1.0",
    labels=("red", "green", "blue"),
    temperature=1.3,
    unsure_below=0.6,
)
BUILDS = [(entry.id, entry.precision) for entry in shipped.entries() if entry.id == "sface"]


def proven(content, measured):
    """The file with a proof in its metadata."""
    text = measured if isinstance(measured, str) else measured.to_json()
    return content + chunk(14, chunk(1, fingerprint.KEY.encode()) + chunk(2, text.encode()))


def model_of(path, **change):
    model = onnx_model.load(path, threads=1)
    model.card = replace(model.card, **change)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An honest file with its proof."""
    path = tmp_path_factory.mktemp("proof") / "colours.onnx"
    path.write_bytes(with_card(by_hand.colour_classifier(), COLOURS))
    path.write_bytes(proven(path.read_bytes(), fingerprint.measure(model_of(path))))
    return path


def test_an_honest_file_is_installed_with_its_proof_and_shown_as_proven(exported, home, capsys):
    at = ["--home", str(home.path)]
    assert main(["models", "add", str(exported), "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)["proven"] is True
    assert main(["models", "show", "colours", *at]) == 0
    out, err = capsys.readouterr()
    assert "its maker's outputs" in out and "NO COMMERCIAL USE" in err
    [entry] = catalogue.installed(home)
    assert entry.path.read_bytes() == exported.read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": replace(COLOURS.input, channels="BGR")}, "gives other outputs on the sample pictures"),
        ({"input": replace(COLOURS.input, mean=(0.0,) * 3, std=(255.0,) * 3)}, "gives other outputs"),
        ({"input": replace(COLOURS.input, mean=(123.7, 116.3, 103.5))}, "changed after the export: input"),
        ({"labels": ("green", "red", "blue")}, "changed after the export: labels"),
        ({"temperature": 1.4}, "changed after the export: temperature"),
        ({"unsure_below": 0.5}, "changed after the export: unsure_below"),
        ({"crop": "centre-0.9"}, "changed after the export: crop"),
        ({"licence": "MIT", "commercial_use": True}, "changed after the export: licence, commercial_use"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_an_edited_card_is_refused_and_the_field_is_named(exported, change, said):
    measured = fingerprint.read(inspect(exported).metadata, "colours.onnx")
    with pytest.raises(ModelError, match=said) as told:
        fingerprint.check(measured, model_of(exported, **change))
    assert next(iter(change)) in str(told.value) and "\n" not in str(told.value)


def test_an_edited_card_is_not_installed(exported, home, tmp_path, capsys):
    path = tmp_path / "colours.onnx"
    path.write_bytes(with_card(exported.read_bytes(), replace(COLOURS, unsure_below=0.5)))
    assert main(["models", "add", str(path), "--home", str(home.path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "changed after the export: unsure_below" in line and catalogue.installed(home) == ()


def test_a_changed_threshold_of_an_embedder_is_refused():
    model = model_of(catalogue.build(None, *BUILDS[0]).path)
    measured = fingerprint.measure(model)
    lower = OperatingPoint(0.01, 0.1, 1000)
    model.card = replace(model.card, operating_points=(lower,))
    with pytest.raises(ModelError, match="changed after the export: operating_points"):
        fingerprint.check(measured, model)


def test_a_changed_cohort_of_an_embedder_is_refused():
    model = model_of(catalogue.build(None, *BUILDS[0]).path)
    size = model.card.embedding_size or 0
    centres = stored_centres(np.eye(size, dtype=np.float32)[:20])
    cohort = Cohort(centres, size, 5, 0.5, 1.0, 0.1, 0.3, None, 0.29, 60)
    model.card = replace(model.card, cohort=cohort)
    measured = fingerprint.measure(model)
    fingerprint.check(measured, model)
    model.card = replace(model.card, cohort=replace(cohort, usual=0.2))
    with pytest.raises(ModelError, match="changed after the export: cohort"):
        fingerprint.check(measured, model)


def test_proofs_of_version_0_1_0_hold():
    card = replace(COLOURS, operating_points=(OperatingPoint(0.01, 0.25, 1000), OperatingPoint(0.001, 0.5, 1000, 2)))
    listed = [
        {"fmr": 0.01, "impostor_pairs": 1000, "templates": 1, "threshold": 0.25},
        {"fmr": 0.001, "impostor_pairs": 1000, "templates": 2, "threshold": 0.5},
    ]
    then = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    assert then.startswith(fingerprint.claims_of(card)["operating_points"])


def test_other_weights_under_the_same_card_are_refused(exported, home, tmp_path):
    path = tmp_path / "colours.onnx"
    weights = [0.0, 1.5, -1.0, 1.0, -0.5, 0.25, -1.5, 0.5, 1.0]
    content = with_card(by_hand.colour_classifier(weights=weights), COLOURS)
    path.write_bytes(proven(content, inspect(exported).metadata[fingerprint.KEY]))
    with pytest.raises(ModelError, match=r"gives other outputs.*export it again"):
        install.add(home, path)


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build[1])
def test_the_limit_lets_pass_what_machines_differ_by_and_no_other_reading(build):
    model = model_of(catalogue.build(None, *build).path)
    card, crops = model.card, fingerprint._crops(model.card)
    measured = fingerprint.measure(model).outputs

    def apart(pictures, spec=card.input):
        return fingerprint.deviation(card, measured, model.run(to_input(pictures, spec))[0][:, : fingerprint.NUMBERS])

    noise = np.random.default_rng(0).integers(-2, 3, crops.shape)
    assert apart(crops) < 1e-3
    assert 0.02 < apart(np.clip(crops + noise, 0, 255).astype(np.uint8)) < fingerprint.LIMIT / 1.5
    assert (
        apart(crops, replace(card.input, channels="RGB" if card.input.channels == "BGR" else "BGR")) > fingerprint.LIMIT
    )
    assert apart(crops, replace(card.input, mean=(127.5,) * 3, std=(127.5,) * 3)) > 2 * fingerprint.LIMIT


def test_a_file_without_a_proof_is_accepted_and_the_doubt_is_told(home, tmp_path, capsys):
    path, at = tmp_path / "colours.onnx", ["--home", str(home.path)]
    path.write_bytes(with_card(by_hand.colour_classifier(), COLOURS))
    assert main(["models", "add", str(path), *at]) == 0
    assert "checked only roughly" in capsys.readouterr().out
    assert main(["models", "show", "colours", *at]) == 0
    assert "checked only roughly" in capsys.readouterr().out
    assert main(["models", "show", "sface", *at]) == 0
    assert "pinned by its hash" in capsys.readouterr().out


def test_a_description_of_one_s_own_stands_for_the_card_and_drops_the_proof(exported, home, capsys):
    labels = exported.parent / "labels.txt"
    labels.write_text("rouge\nvert\nbleu\n")
    line = ["models", "add", str(exported), "--task", "classification", "--labels", str(labels), "--mean", "127.5"]
    assert main([*line, "--std", "127.5", "--json", "--home", str(home.path)]) == 0
    assert json.loads(capsys.readouterr().out)["proven"] is False
    [entry] = catalogue.installed(home)
    assert fingerprint.KEY not in inspect(entry.path).metadata


def test_an_id_of_one_s_own_keeps_card_and_proof(exported, home, capsys):
    at = ["--home", str(home.path)]
    assert main(["models", "add", str(exported), "--id", "mine", "--json", *at]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["proven"]) == ("mine", True)
    [entry] = catalogue.installed(home)
    assert inspect(entry.path).card == replace(COLOURS, id="mine")


def test_a_proof_on_other_pictures_is_not_compared_but_its_claims_are(exported):
    measured = fingerprint.read(inspect(exported).metadata, "colours.onnx")
    older = replace(measured, sample="another", outputs=measured.outputs + 9)
    fingerprint.check(older, model_of(exported))
    with pytest.raises(ModelError, match="temperature"):
        fingerprint.check(older, model_of(exported, temperature=1.0))


@pytest.mark.parametrize(
    "text",
    ["no json", "[1]", "{}", '{"sample": "a", "claims": [], "outputs": []}', " " * (1 << 17), "[" * 50_000,
     '{"sample": "a", "claims": {}, "outputs": [[1], [2, 3]]}', '{"sample": "a", "claims": {}, "outputs": [[NaN]]}'],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("command", ["add", "show"], ids=str)
def test_a_proof_that_is_none_is_refused_in_one_line(home, tmp_path, capsys, command, text):
    path = tmp_path / "colours.onnx"
    path.write_bytes(proven(with_card(by_hand.colour_classifier(), COLOURS), text))
    assert main(["models", command, str(path), "--home", str(home.path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "proof in colours.onnx cannot be read" in err
    assert catalogue.installed(home) == ()


def test_show_runs_nothing_and_needs_neither_torch_nor_onnx(exported):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'timm', 'lightning'):\n"
        "    sys.modules[name] = None\n"
        "from edge_app.cli import main\n"
        f"sys.exit(main(['models', 'show', {str(exported)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("CC-BY-NC-4.0 (NO COMMERCIAL USE)", "red, green, blue", "proof"):
        assert word in done.stdout


def test_a_card_cannot_steer_the_terminal(home, tmp_path, capsys):
    path = tmp_path / "colours.onnx"
    for changes in (
        {"licence": "free\x1b[2J"},
        {"provenance": {"command\x07": "a"}},
        {"x\x1b[2J": 1},
        {"id": "\u202e"},
    ):
        text = json.dumps(json.loads(COLOURS.to_json()) | changes)
        path.write_bytes(with_metadata(by_hand.colour_classifier(), {ModelCard.KEY: text}))
        assert main(["models", "show", str(path), "--home", str(home.path)]) == 1
        out, err = capsys.readouterr()
        assert err.rstrip("\n").replace("\ufffd", "").isprintable() and not out, err
