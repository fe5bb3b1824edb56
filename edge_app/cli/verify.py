"""The command `verify`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edge_app.cli import options, output
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.cli.watch import SOURCE_HELP, source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_app.notify.login import Login


def command() -> Command:
    return Command(
        "verify",
        run,
        example="edge-app verify 'Ada Lovelace' --source 0 --timeout 20",
        more=(
            "Exit codes: 0 verified, 1 not recognized in time, 3 recognized but not live, 4 the challenge was not "
            "answered, 2 misuse.\n"
            "A challenge asks for movements in random order, which prints and photos on a phone cannot make. It does "
            "not stop a mask, a twin, or a good deep fake that answers on a screen: one factor beside another, never "
            "the only lock. After five failures in a row the name rests, for longer with each further one."
        ),
        params=[
            Argument("name", "NAME", "who is waited for, as enrolled", complete=options.enrolled_names),
            Option("--source", metavar="SOURCE", help=f"{SOURCE_HELP} (default: see `cameras --use`)"),
            Option("--timeout", kind=float, default=20.0, metavar="S",
                help="seconds from the start of the program, loading included (20)"),
            Option("--liveness", kind=options.LIVENESS, default="challenge",
                help="movements to make, installed liveness networks alone, or recognition alone (challenge)"),
            Option("--mirrored", kind=bool, help="the camera delivers mirrored pictures"),
            Option("--on-prompt", metavar="CMD",
                help="run CMD at each movement asked for, EDGE_APP_PROMPT says which; no shell"),
            Option("--record", kind=Path, metavar="DIR",
                help="keep the challenge's pictures in a new private folder in DIR (off)"),
            Option("--reset-failures", kind=bool, help="forget failed logins in this name, and end"),
            options.json_flag(),
            options.candidates(),
            *options.recognition(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Answer by exit code; prompts go to standard error, the JSON to standard output."""
    from edge_app.live.challenge import ChallengeOptions
    from edge_app.live.challenge_record import Recorder
    from edge_app.notify.login import LoginOptions, login
    from edge_app.system.data_folder import Home
    from edge_app.system.timing import process_began_s

    began_s = process_began_s()
    options.exchange(Home.locate(args.home), connect_s=2.0)
    session = options.people(args)
    if args.reset_failures:
        if session.vault is not None:
            session.vault.note_attempt(args.name, passed=True)
        return 0
    output.tell_unpromised(session)
    source = source_of(args.source, session.settings)
    asked = ChallengeOptions(mirrored=args.mirrored)
    with ExitStack() as stack:
        record = None if args.record is None else stack.enter_context(Recorder(args.record, asked))
        how = LoginOptions(args.liveness, args.timeout, began_s, asked, record)
        found = login(session, args.name, source, options.warn, _prompter(args, stack), how)
    if args.json:
        options.print_json(_as_dict(args.name, found))
    elif found.reason:
        options.note(found.reason)
    return int(found.outcome)


def _as_dict(name: str, found: Login) -> dict[str, object]:
    return {
        "name": name,
        "outcome": found.outcome.name.lower().replace("_", " "),
        "reason": found.reason,
        "steps": [asdict(step) for step in found.steps],
        "seconds": round(found.seconds, 2),
    }


def _prompter(args: Arguments, stack: ExitStack) -> Callable[[str], None]:
    """Tells what to do, on the terminal and to a program."""
    from edge_app.notify.hooks import Command as Program
    from edge_app.notify.hooks import HookOptions, Hooks

    if args.on_prompt is None:
        return options.warn
    program = Program.parse(args.on_prompt)
    hooks = Hooks(HookOptions(cooldown_s=0.0, timeout_s=10.0), options.warn)
    stack.callback(hooks.close, 1.0)

    def tell(text: str) -> None:
        options.warn(text)
        hooks.fire(program, None, text, {"EDGE_APP_PROMPT": text})

    return tell
