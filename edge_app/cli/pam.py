"""The command `pam`."""

from __future__ import annotations

import sys
from pathlib import Path

from edge_app.cli import options
from edge_app.cli.parameters import Arguments, Command, Option
from edge_app.core.errors import UsageError


def command() -> Command:
    return Command(
        "pam",
        run,
        example="edge-app pam --account ada='Ada Lovelace' --service sudo --home /var/lib/edge-app-login --output pam/",
        more=(
            "Writes two files for you to read and to install: nothing in /etc is touched. The face stands beside the "
            "password (`sufficient`), so a camera that is gone ends at the password. A mask, a twin, or a good deep "
            "fake on a screen may pass: see `edge-app verify --help`."
        ),
        params=[
            Option("--account", metavar="LOGIN=NAME", repeated=True, required=True,
                help="which enrolled person an account is; may be given more than once"),
            Option("--service", metavar="NAME", required=True, help="the PAM service: sudo, login, swaylock, ..."),
            Option("--output", kind=Path, metavar="DIR", required=True, help="write the helper and the service there"),
            Option("--source", metavar="SOURCE", default="/dev/video0", help="what to look at (/dev/video0)"),
            Option("--timeout", kind=float, default=15.0, metavar="S", help="seconds to look (15)"),
            Option("--liveness", kind=options.LIVENESS, default="challenge", help="see `verify` (challenge)"),
            Option("--services", kind=Path, metavar="DIR", default=Path("/etc/pam.d"),
                help="where the machine's services lie (/etc/pam.d)"),
            Option("--helper", kind=Path, metavar="FILE", default=Path("/usr/local/sbin/edge-app-pam"),
                help="where the helper will be installed (/usr/local/sbin/edge-app-pam)"),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Write the helper and the service file, and tell how to install them."""
    import shutil

    from edge_app.core.suggest import did_you_mean
    from edge_app.notify.pam import PamOptions, helper_of, service_of
    from edge_app.recognition.gallery_session import open_vault
    from edge_app.system.data_folder import Home
    from edge_app.system.files import make_private_folder, readable_os_errors
    from edge_app.system.new_file import write_new

    home = Home.locate(args.home)
    program = shutil.which(sys.argv[0]) or sys.argv[0]
    pairs = [text.partition("=") for text in args.account]
    wrong = next((login for login, sign, name in pairs if not sign or not login or not name), None)
    if wrong is not None:
        raise UsageError(f"--account {wrong} names nobody", expected="LOGIN=NAME, such as ada='Ada Lovelace'")
    chosen = PamOptions(
        {login: name for login, _, name in pairs},
        Path(program).absolute(),
        home.path.absolute(),
        args.source,
        args.timeout,
        args.liveness,
        args.helper,
    )
    if not 0 < args.timeout < 3600:
        raise UsageError(f"the time-out is {args.timeout} s", expected="more than 0 and less than an hour")
    helper = helper_of(chosen)
    place = args.services / args.service
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{place} cannot be read: {error}", expected="a PAM service of this machine") from error
    service = service_of(args.service, text, chosen)
    vault, _ = open_vault(home)
    names = () if vault is None else vault.names()
    for _, _, name in pairs:
        if name not in names:
            remedy = did_you_mean(name, names, "enroll first, into this data folder")
            raise UsageError(f"nobody named {name!r} is enrolled in {home.path}", remedy=remedy)
    if args.liveness == "off":
        options.warn("without liveness a photo on a phone opens this login")
    with readable_os_errors(args.output):
        make_private_folder(args.output)
        written = [
            write_new(args.output / "edge-app-pam", lambda path: path.write_text(helper), mode=0o755),
            write_new(args.output / args.service, lambda path: path.write_text(service), mode=0o644),
        ]
    options.say(f"Read both files, keep a root shell open while you try them, and then, as root:\n"
                f"  install -o root -m 0755 {written[0]} {chosen.helper}\n"
                f"  cp {place} {place}.before-edge-app && install -o root -m 0644 {written[1]} {place}")  # fmt: skip
    return 0
