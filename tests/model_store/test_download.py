"""Fetching from known addresses, against servers on loopback: resumed, through a proxy, checked."""

import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge_app.cli import main
from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_app.model_store import download

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.body, self.break_after, self.tag, self.code = [], BODY, [], '"one"', 200
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/net.bin"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked, self.headers.get("If-Range")))
        if server.code != 200:
            self.send_error(server.code)
            return
        start = 0
        if asked and self.headers.get("If-Range") == server.tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(server.body) - start))
        self.send_header("ETag", server.tag)
        self.end_headers()
        part = server.body[start:]
        self.wfile.write(part[: server.break_after.pop(0)] if server.break_after else part)
        self.close_connection = True


class Proxy(ThreadingHTTPServer):
    """Passes bytes both ways to one server, whatever host it is asked for."""

    daemon_threads = True

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.target, self.asked, self.code = target, [], 200
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"


class Tunnel(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_CONNECT(self):
        self.server.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        if self.server.code != 200:
            self.send_error(self.server.code)
            return
        with socket.create_connection(self.server.target) as far:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=passed_on, args=(far, self.connection), daemon=True)
            back.start()
            passed_on(self.connection, far)
            back.join(5)
        self.close_connection = True


def passed_on(source, sink):
    try:
        while some := source.recv(1 << 16):
            sink.sendall(some)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one end has gone


@pytest.fixture
def plain_environment(monkeypatch):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)


@pytest.fixture
def server(plain_environment):
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for models.invalid that signs itself, with its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl, which is not here")
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=models.invalid", "-addext", "subjectAltName=DNS:models.invalid"]
    command = ["openssl", "req", "-x509", *kind, *name, "-keyout", f"{both}.key", "-out", f"{both}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(both.with_name("both.pem.key").read_text() + both.with_name("both.pem.crt").read_text())
    return both


@pytest.fixture
def proxy(server, certificate, monkeypatch):
    """A proxy in front of the server, which speaks TLS here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Proxy(server.server_address)
    monkeypatch.setenv("https_proxy", f"http://{made.address}")
    yield made
    made.shutdown()
    made.server_close()


def fetch(server, target, sha256=SHA256, **options):
    download.fetch(server.url, target, sha256, lambda have, total: None, **options)


def test_a_file_arrives_whole_and_private(server, tmp_path):
    target, seen = tmp_path / "in" / "net.bin", []
    download.fetch(server.url, target, SHA256, lambda have, total: seen.append((have, total)))
    assert target.read_bytes() == BODY and target.stat().st_mode & 0o077 == 0
    assert seen[-1] == (len(BODY), len(BODY)) and [p.name for p in target.parent.iterdir()] == ["net.bin"]


def test_a_broken_connection_is_taken_up_again(server, tmp_path):
    server.break_after = [300_000, 200_000]
    fetch(server, tmp_path / "net.bin")
    assert (tmp_path / "net.bin").read_bytes() == BODY
    assert [asked for _, asked, _ in server.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_transfer_that_was_given_up_goes_on_with_the_next_call(server, tmp_path):
    server.break_after = [100_000, 100_000, 100_000]
    with pytest.raises(EdgeError, match=r"broke off.*300000 bytes are kept"):
        fetch(server, tmp_path / "net.bin")
    assert not (tmp_path / "net.bin").exists()
    fetch(server, tmp_path / "net.bin")
    assert server.asked[-1][1:] == ("bytes=300000-", '"one"') and (tmp_path / "net.bin").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.break_after = [100_000] * 3
    with pytest.raises(EdgeError):
        fetch(server, tmp_path / "net.bin")
    server.tag, server.body = '"two"', BODY[::-1]
    fetch(server, tmp_path / "net.bin", hashlib.sha256(BODY[::-1]).hexdigest())
    assert (tmp_path / "net.bin").read_bytes() == BODY[::-1]


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    with pytest.raises(ModelError, match="SHA-256"):
        fetch(server, tmp_path / "net.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "word"), [(404, "may have moved"), (403, "403")])
def test_an_address_that_answers_with_an_error(server, tmp_path, code, word):
    server.code = code
    with pytest.raises(EdgeError, match=word):
        fetch(server, tmp_path / "net.bin")
    assert len(server.asked) == 1 and not list(tmp_path.glob("*.bin"))


def test_a_server_that_is_away_is_told_in_one_line(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(EdgeError, match="cannot be fetched") as told:
        fetch(server, tmp_path / "net.bin")
    assert "\n" not in str(told.value)


def test_a_server_that_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net.bin"
        with pytest.raises(EdgeError, match="did not answer"):
            download.fetch(url, tmp_path / "net.bin", SHA256, lambda have, total: None)


def test_a_file_that_is_too_large_is_stopped(server, tmp_path):
    with pytest.raises(ModelError, match="at most 1000"):
        fetch(server, tmp_path / "net.bin", limit_bytes=1000)
    assert not (tmp_path / "net.bin").exists()


def test_only_web_addresses(tmp_path):
    with pytest.raises(UsageError):
        download.fetch("file:///etc/passwd", tmp_path / "x", SHA256, lambda have, total: None)


def test_it_goes_through_the_proxy_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/net.bin"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    download.fetch("http://models.invalid/far/net.bin", tmp_path / "net.bin", SHA256, lambda have, total: None)
    assert server.asked[0][0] == "http://models.invalid/far/net.bin"  # a proxy is asked for the whole address


FAR = "https://models.invalid/far/net.bin"


def test_https_goes_through_a_proxy_and_is_taken_up_again(server, proxy, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("https_proxy", f"http://ada:secret@{proxy.address}")
    server.break_after = [300_000]
    download.fetch(FAR, tmp_path / "net.bin", SHA256, lambda have, total: None)
    assert (tmp_path / "net.bin").read_bytes() == BODY
    # The proxy learns the host and who asks, the path stays between the ends.
    assert proxy.asked == [("models.invalid:443", "Basic YWRhOnNlY3JldA==")] * 2
    assert [asked[:2] for asked in server.asked] == [("/far/net.bin", None), ("/far/net.bin", "bytes=300000-")]


def test_a_certificate_of_nobody_is_not_believed(server, proxy, tmp_path):
    with pytest.raises(EdgeError, match=r"certificate that is not trusted.*SSL_CERT_FILE") as told:
        download.fetch(FAR, tmp_path / "net.bin", SHA256, lambda have, total: None)
    assert "\n" not in str(told.value) and not server.asked and len(proxy.asked) == 1
    assert not list(tmp_path.iterdir())


def test_a_proxy_that_refuses_is_told_in_one_line(server, proxy, tmp_path):
    proxy.code = 407
    with pytest.raises(EdgeError, match=r"407.*HTTPS_PROXY") as told:
        download.fetch(FAR, tmp_path / "net.bin", SHA256, lambda have, total: None)
    assert "\n" not in str(told.value) and not server.asked


def test_no_proxy_is_asked_for_what_is_near(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(server, tmp_path / "net.bin")
    assert server.asked[0][0] == "/net.bin" and (tmp_path / "net.bin").read_bytes() == BODY


def test_a_server_that_is_too_busy_is_asked_again(server, tmp_path):
    server.code = 503
    with pytest.raises(EdgeError, match="503"):
        fetch(server, tmp_path / "net.bin")
    assert len(server.asked) == 3


def test_no_space_keeps_what_came(server, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        with pytest.raises(EdgeError, match="free some space"):
            fetch(server, tmp_path / "net.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "net.bin").exists() and len(server.asked) == 1
    kept = (tmp_path / "net.bin.part").stat().st_size
    assert 0 < kept <= 400_000
    fetch(server, tmp_path / "net.bin")
    assert server.asked[-1][1] == f"bytes={kept}-" and (tmp_path / "net.bin").read_bytes() == BODY


def test_pull_by_command(server, home, monkeypatch, capsys):
    entry = replace(download.REGISTRY["yunet-2023mar"], url=server.url, sha256=SHA256)
    monkeypatch.setattr(download, "REGISTRY", {"net": entry})
    assert main(["models", "pull", "net", "--json", "--home", str(home.path)]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(home.path / "pulled" / "net.bin")
    assert main(["models", "pull", "net", "--home", str(home.path)]) == 0
    assert len(server.asked) == 1  # it was there already
    assert main(["models", "pull", "other", "--home", str(home.path)]) == 2
    assert "one of net" in capsys.readouterr().err


def test_without_a_verified_hash_the_user_has_to_say_it(server, home, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    entry = replace(download.REGISTRY["facenet-casia-webface"], url=server.url)
    with pytest.raises(UsageError, match="--sha256") as told:
        download.pull(home, entry)
    assert str(tmp_path / "torch" / "checkpoints" / "net.bin") in str(told.value) and not server.asked
    path = download.pull(home, entry, SHA256.upper())
    assert path == tmp_path / "torch" / "checkpoints" / "net.bin" and path.read_bytes() == BODY


def test_a_pinned_hash_cannot_be_talked_away(home):
    with pytest.raises(UsageError, match="pinned"):
        download.pull(home, download.REGISTRY["sface-2021dec"], "0" * 64)


def test_the_registry_states_licences_and_whole_hashes():
    for entry in download.REGISTRY.values():
        assert entry.licence and entry.url.startswith("https://")
        assert entry.sha256 is None or (len(entry.sha256) == 64 and set(entry.sha256) <= set("0123456789abcdef"))
    places = download.REGISTRY["facenet-vggface2"]
    backbones = pytest.importorskip("edge_models.networks.backbones")
    assert places.url == backbones._FACENET_URL + backbones.FACENET_FILES["vggface2"]


def test_a_family_of_models_is_known_by_its_name_and_files_for_other_programs_are_not():
    known = download.known
    assert [one.name for one in known("minifasnet")] == ["minifasnet-2.7", "minifasnet-4.0"]
    assert [one.name for one in known("minifasnet-4.0")] == ["minifasnet-4.0"]
    assert all(one.description is not None and one.description.task == "liveness" for one in known("minifasnet"))
    with pytest.raises(UsageError, match="no known address"):
        known("facenet")
