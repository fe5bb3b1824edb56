"""Files for a login by face under PAM: the helper that `pam_exec` runs, and a service file with the line that runs it.

The face is an alternative to the password that stands behind it ("sufficient"): a camera that is unplugged, a helper
that is killed and a name that rests end at the password, and lock nobody out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_app.core.errors import UsageError
from edge_app.core.names import valid_name
from edge_app.notify.login import Liveness

SERVICES: Final = Path("/etc/pam.d")
_ACCOUNT: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_SERVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REMOTE: Final = frozenset({"sshd", "remote", "vsftpd", "proftpd", "dovecot", "cockpit", "samba"})
"""Services whose users sit elsewhere: the camera would look at whoever is at the machine."""
_ASKS: Final = re.compile(r"^\s*(?:auth\s.*\bpam_(?:unix|sss|ldap|krb5|systemd_home)\.so|@include\s+common-auth"
                          r"|auth\s+(?:include|substack)\s+\S+)", re.M)  # fmt: skip
"""A line that asks for a password, or includes the file that does."""
_SPARE_S: Final = 15
"""Beyond its own time-out the helper is ended after so many seconds."""


@dataclass(frozen=True, slots=True)
class PamOptions:
    """Who may come in, and how they are looked at."""

    accounts: Mapping[str, str]
    """Which enrolled person each account of the machine is."""
    program: Path
    """The installed `edge-app`."""
    home: Path
    """The data folder, which root alone may write to."""
    source: str = "/dev/video0"
    timeout_s: float = 15.0
    liveness: Liveness = "challenge"
    helper: Path = Path("/usr/local/sbin/edge-app-pam")
    """Where the helper will lie."""


def helper_of(options: PamOptions) -> str:
    """The helper's text. Raises UsageError for an account that is none, and for root."""
    if not options.accounts:
        raise UsageError("nobody was named", expected="--account LOGIN=NAME")
    cases = []
    for account, name in options.accounts.items():
        if not _ACCOUNT.fullmatch(account):
            raise UsageError(f"{account!r} is no account", expected="the name of a login, in lower case")
        if account == "root":
            raise UsageError("a face does not open root's account", expected="another login")
        cases.append(f"    {account}) name={shlex.quote(valid_name(name))} ;;")
    if not options.program.is_absolute() or not options.home.is_absolute():
        raise UsageError("the program or the data folder is a relative path", expected="whole paths: PAM has no folder")
    words = [
        str(options.program), "verify", "--home", str(options.home), "--source", options.source,
        "--timeout", f"{options.timeout_s:g}", "--liveness", options.liveness,
    ]  # fmt: skip
    limit_s = int(options.timeout_s) + _SPARE_S
    return "\n".join(
        [
            "#!/bin/sh",
            "# Made by `edge-app pam`; owned by root, mode 0755. Run by pam_exec: exit code 0 lets somebody in.",
            '[ -z "$PAM_RHOST" ] || exit 1  # a login from elsewhere: the camera is here',
            'case "$PAM_USER" in',
            *cases,
            "    *) exit 1 ;;",
            "esac",
            "exec 2>&1  # what to do is told to the person who logs in",
            "# Nothing of the caller's environment reaches a program that runs with root's rights.",
            f"exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 timeout -k 2 {limit_s} \\",
            f'    {shlex.join(words)} -- "$name"',
            "",
        ]
    )


def line_of(options: PamOptions) -> str:
    """The line for the service."""
    return f"auth  sufficient  pam_exec.so quiet stdout {options.helper}"


def service_of(service: str, text: str, options: PamOptions) -> str:
    """A service file with the line before what asks for the password.

    Raises UsageError for a name that is none, for a service whose users sit elsewhere, and for a file in which nothing
    asks for a password: there the line could let in, or lock out, by the face alone.
    """
    if not _SERVICE.fullmatch(service):
        raise UsageError(f"{service!r} is no PAM service", expected=f"the name of a file in {SERVICES}")
    if service in _REMOTE:
        raise UsageError(
            f"users of {service} sit elsewhere", expected="a service of this machine: sudo, login, a screen lock"
        )
    if str(options.helper) in text:
        raise UsageError(f"{service} runs {options.helper} already", expected="a service without it")
    asks = _ASKS.search(text)
    if asks is None:
        raise UsageError(
            f"nothing in {service} asks for a password",
            expected="a service in which pam_unix or common-auth stands behind the face",
            remedy="a login by face alone is not written",
        )
    return f"{text[: asks.start()].rstrip(chr(10))}\n{line_of(options)}\n{text[asks.start() :].lstrip(chr(10))}".lstrip(
        "\n"
    )
