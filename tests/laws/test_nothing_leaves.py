"""Nothing leaves the machine unasked: what the libraries do on their own is switched off."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from edge_app.model_store import catalogue
from edge_app.system.data_folder import platform_folder

SESSION = "import time, onnxruntime; onnxruntime.InferenceSession({path!r}); time.sleep({wait_s})"


@pytest.fixture
def listener():
    """A proxy that writes down what it is asked for, and answers nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                asked.append(connection.recv(300).partition(b"\r\n")[0].decode())

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
    server.close()


def run(code, proxy, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment |= {"https_proxy": proxy, "HTTPS_PROXY": proxy, "http_proxy": proxy, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no variable for it")
def test_tests_keep_off_the_data_folder_of_whoever_runs_them(tmp_path_factory):
    assert platform_folder().is_relative_to(tmp_path_factory.getbasetemp())


@pytest.mark.slow
@pytest.mark.parametrize("package", ["edge_app", "edge_models", "edge_export"])
def test_onnx_runtime_tells_nobody(listener, tmp_path, package):
    proxy, asked = listener
    session = SESSION.format(path=str(catalogue.build(None, "yunet", "fp32").path), wait_s=14)
    run(f"import {package}\n{session}", proxy, tmp_path)
    assert asked == [] and not list(tmp_path.rglob("*.db"))


@pytest.mark.slow
def test_the_listener_would_hear_it(listener, tmp_path):
    proxy, asked = listener
    run(SESSION.format(path=str(catalogue.build(None, "yunet", "fp32").path), wait_s=14), proxy, tmp_path)
    if not asked:
        pytest.skip("this ONNX Runtime tells nobody anyway")
    assert "microsoft.com" in asked[0]
