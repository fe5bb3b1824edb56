"""Understanding a command line: suggestions, defaults, --home, odd values, completion, questions."""

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from edge_app.cli import main
from edge_app.cli.commands import parse, program
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from tests.gallery.test_storage import shots

ADA = "Ada Lovelace"


def told(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["recognise", "x"], "edge-app: there is no command recognise, did you mean recognize?; see edge-app --help"),
        (["gallery", "fogret", "x"], "edge-app gallery: there is no command fogret, did you mean forget?; see edge-app "
            "gallery --help"),
        (["recognize", "x", "--recursiv"], "edge-app recognize: there is no option --recursiv, did you mean "
            "--recursive or --precision?; see edge-app recognize --help"),
        (["xyzzy"], "edge-app: there is no command xyzzy; see edge-app --help"),
        (["--xyzzy"], "edge-app: there is no option --xyzzy; see edge-app --help"),
        (["recognize"], "edge-app recognize: missing argument 'SOURCE...'; see edge-app recognize --help"),
        (["gallery"], "edge-app gallery: missing command; see edge-app gallery --help"),
        (["recognize", "x", "--save"], "edge-app recognize: option '--save' requires an argument; see edge-app "
            "recognize --help"),
        (["recognize", "x", "--save", "--json"], "edge-app recognize: option '--save' requires an argument; see "
            "edge-app recognize --help"),
        (["recognize", "x", "--fpir", "much"], "edge-app recognize: invalid value for '--fpir': 'much' is not a valid "
            "float; see edge-app recognize --help"),
        (["recognize", "x", "--precision", "fp8"], "edge-app recognize: invalid value for '--precision': 'fp8' is not "
            "one of 'auto', 'fp32', 'int8', 'fp16'; see edge-app recognize --help"),
        (["gallery", "list", "\x1b[31mmore"], "edge-app gallery list: got unexpected extra argument (\\x1b[31mmore); "
            "see edge-app gallery list --help"),
        (["completion", "tcsh"], "edge-app completion: invalid value for 'bash|zsh|fish': 'tcsh' is not one of 'bash', "
            "'zsh', 'fish'; see edge-app completion --help"),
        (["train", "classifer", "x"], "edge-app train: there is no command classifer, did you mean classifier?; see "
            "edge-app train --help"),
    ],
)  # fmt: skip
def test_misuse_is_one_line_that_says_where_to_read_on(capsys, words, line):
    assert told(capsys, *words) == (2, "", line + "\n")


@pytest.mark.parametrize("words", [["verify", "Ada Lovelase"], ["gallery", "forget", "ada lovelase"]])
def test_names_of_people_are_suggested(capsys, home, words):
    pictures = sample.people()["Barack Obama"]
    assert told(capsys, "enroll", ADA, *pictures, "--home", home.path)[0] == 0
    _, out, err = told(capsys, *words, "--home", home.path)
    assert out == "" and err.endswith(f"did you mean {ADA!r}?\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--home", "H", "gallery", "list"],
        ["--home=H", "gallery", "list"],
        ["gallery", "--home", "H", "list"],
        ["gallery", "list", "--home", "H"],
        ["--home", "other", "gallery", "list", "--home=H"],
    ],
)
def test_the_data_folder_stands_before_or_after_the_command(words):
    assert parse(words).arguments.home == Path("H")


def test_without_a_data_folder_none_is_told():
    assert parse(["gallery", "list"]).arguments.home is None


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["recognize", "x", "--fpir", "-1"], "fpir", -1.0),
        (["recognize", "--margin=-.5", "x"], "margin", -0.5),
        (["recognize", "--top", "-3", "x"], "top", -3),
        (["recognize", "--", "-x.jpg", "--json"], "sources", ("-x.jpg", "--json")),
        (["recognize", "a", "--json", "b"], "sources", ("a", "b")),
        (["enroll", "Ada", "--", "-1.jpg"], "images", (Path("-1.jpg"),)),
        (["models", "add", "f", "--mean", "1", "-2", ".5"], "mean", (1.0, -2.0, 0.5)),
        (["models", "add", "--mean", "1", "2", "--json", "f"], "mean", (1.0, 2.0)),
        (["models", "add", "--std=1", "--", "f"], "std", (1.0,)),
        (["models", "add", "f", "--no-commercial-use"], "commercial_use", False),
        (["models", "add", "f"], "commercial_use", None),
        (["bench", "--classifier", "a", "b", "--rounds", "2"], "classifier", (Path("a"), Path("b"))),
        (["watch", "--on-known", "a b", "--on-known", "-c"], "on_known", ("a b", "-c")),
        (["watch"], "on_known", ()),
        (["train", "classifier", "d", "--no-mirror"], "mirror", False),
        (["train", "classifier", "d"], "mirror", True),
        (["train", "classifier", "d", "--patience", "never"], "patience", None),
        (["train", "classifier", "d", "--compare", "mixup", "cosine"], "compare", ("mixup", "cosine")),
    ],
)
def test_values_arrive_as_they_were_given(words, name, value):
    found = getattr(parse(words).arguments, name)
    assert found == value and type(found) is type(value)


def test_arguments_are_never_changed():
    args = Arguments(threads=None, home=Path("a"))
    with pytest.raises(AttributeError, match="threads"):
        args.threads = 1
    with pytest.raises(AttributeError, match="nonsense"):
        print(args.nonsense)
    assert args.replaced(threads=1).threads == 1 and args.threads is None
    assert getattr(args, "model", None) is None


def test_options_are_told_under_their_headings(capsys):
    code, out, _ = told(capsys, "recognize", "--help")
    assert code == 0 and out.index("Model:") < out.index("--model") < out.index("Recognition:") < out.index("--fpir")


def test_every_command_takes_help_and_version_is_told(capsys):
    assert told(capsys, "-h")[:2] == told(capsys, "--help")[:2]
    assert told(capsys, "--version")[1].startswith("edge-app 0.")


def commands_below(command, context, path=()):
    yield path, command
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        inner = command.get_command(context, name)
        yield from commands_below(inner, click.Context(inner, parent=context), (*path, name))


def test_what_every_help_gives_as_an_example_is_understood():
    top = program()
    tried = set()
    for path, command in commands_below(top, click.Context(top)):
        for example in re.findall(r"edge-app( [^&>)\n]*)", (command.epilog or "").partition("example:")[2]):
            words = shlex.split(example)
            parsed = parse(words)  # raises where a word is not understood, or one is missing
            tried.add(words[0])
            if words[:2] == ["train", "classifier"]:  # it may show the augmentation, and asks for a run's folder later
                assert parsed.arguments.output is not None, path
    assert {"annotate", "compose", "export", "fetch", "generate", "sift", "train", "translate"} <= tried


def test_the_training_side_is_missed_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr("edge_app.cli.training_side.entry_points", lambda **_: ())
    code, out, err = told(capsys, "train", "classifier", "x")
    assert (code, out) == (2, "") and "which is not installed" in err and "pip install" in err and err.count("\n") == 1
    assert "train " in told(capsys, "--help")[1]


def test_a_command_of_ours_says_when_it_is_declared_wrongly():
    doubled = Command("x", lambda _: 0, help="do", example="edge-app x", params=[
        Option("--a", help="one"), Argument("b", "B", "two")])  # fmt: skip
    assert [param.name for param in doubled.params] == ["a", "b", "home", "quiet", "verbose"]


# Completion


def completions(words, **variables):
    """What a shell is offered for the last of `words`."""
    environment = os.environ | {"_EDGE_APP_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["edge-app", *words]),
        "COMP_CWORD": str(len(words))} | variables  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "edge_app"], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.stderr == ""
    return [line.split(",", 1)[1] for line in done.stdout.split("\n") if line]


def test_commands_and_options_are_completed():
    assert completions(["ga"]) == ["gallery"]
    assert {"rename", "reenroll"} <= set(completions(["gallery", "re"]))
    assert completions(["recognize", "--recu"]) == ["--recursive"]
    assert completions(["recognize", "--precision", "i"]) == ["int8"]
    assert completions(["train", "clas"]) == ["classifier"]


def test_names_of_people_are_completed(home):
    with Vault(home.gallery_path) as vault:
        for name in (ADA, "Adam", "Eve"):
            vault.add(name, shots(1, seed=len(name)))
    variables = {"EDGE_APP_HOME": str(home.path)}
    assert completions(["gallery", "forget", "ad"], **variables) == [ADA, "Adam"]
    assert completions(["--home", str(home.path), "verify", "E"]) == ["Eve"]
    home.gallery_path.write_bytes(b"no database")
    assert completions(["gallery", "forget", "ad"], **variables) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed_and_no_file_written(shell, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, _ = told(capsys, "completion", shell)
    assert code == 0 and f"{shell}_complete" in out and "edge-app" in out and not list(tmp_path.iterdir())
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=out, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


# Questions

PATIENCE_S = 120.0
CTRL_C = b"\x03"


def on_a_terminal(words, answer):
    """Run a command on a terminal of its own and type `answer`; its exit code and what the terminal showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background is told to ignore it
        os.execv(sys.executable, [sys.executable, "-m", "edge_app", *words])
    shown = b""
    asked = not answer
    end_s = time.monotonic() + PATIENCE_S
    while True:
        if not select.select([terminal], [], [], 1)[0]:
            assert time.monotonic() < end_s, shown
            if asked and answer == CTRL_C:
                # One that comes between the question and the reading of its answer is seen after the answer only.
                os.write(terminal, answer)
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:
            part = b""
        if not part:
            break
        shown += part
        if not asked and b"[y/N]" in shown:
            os.write(terminal, answer)
            asked = True
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 1), (b"\n", 1, 1), (CTRL_C, 130, 1), (b"y\n", 0, 0)])
def test_forgetting_is_asked_for_on_a_terminal(home, answer, code, left):
    with Vault(home.gallery_path) as vault:
        vault.add(ADA, shots(1))
    found, shown = on_a_terminal(["gallery", "forget", ADA, "--home", str(home.path)], answer)
    assert f"Delete {ADA}'s 1 template for good?" in shown and "Traceback" not in shown
    with Vault(home.gallery_path) as vault:
        assert (found, len(vault.names())) == (code, left)


def test_forgetting_is_not_asked_for_in_a_script_nor_with_yes(home, capsys):
    for _ in range(2):
        with Vault(home.gallery_path) as vault:
            vault.add(ADA, shots(1))
        assert told(capsys, "gallery", "forget", ADA, "--home", home.path)[0] == 0
    with Vault(home.gallery_path) as vault:
        vault.add(ADA, shots(1))
    code, shown = on_a_terminal(["gallery", "forget", ADA, "--yes", "--home", str(home.path)], b"")
    assert code == 0 and "?" not in shown


def test_colour_is_for_terminals_without_no_color(home, monkeypatch):
    words = ["gallery", "show", "x", "--home", str(home.path)]
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[31medge-app:\x1b[0m nobody" in on_a_terminal(words, b"")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in (shown := on_a_terminal(words, b"")[1]) and "edge-app: nobody" in shown
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" not in on_a_terminal(words, b"")[1]
