"""The command `completion`: prints what a shell needs to complete this command line; writes no file."""

from __future__ import annotations

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command

_MORE = """\
Put the lines where the shell reads them, for instance
  bash   eval "$(edge-app completion bash)"         in ~/.bashrc
  zsh    eval "$(edge-app completion zsh)"          in ~/.zshrc
  fish   edge-app completion fish | source          in ~/.config/fish/config.fish"""


def command() -> Command:
    return Command(
        "completion",
        run,
        example='eval "$(edge-app completion bash)"',
        more=_MORE,
        params=[Argument("shell", "bash|zsh|fish", "the shell", kind=("bash", "zsh", "fish"))],
    )


def run(args: Arguments) -> int:
    """Print the script."""
    from click.shell_completion import get_completion_class

    from edge_app.cli import commands

    kind = get_completion_class(args.shell)
    if kind is None:
        raise LookupError(args.shell)
    options.print_exactly(kind(commands.program(), {}, commands.PROGRAM, commands.COMPLETE_VARIABLE).source())
    return 0
