"""`tether annotate`: what it refuses, what it prints, how it starts and ends."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.feedback.web.conftest import PASSWORD

from tether.cli import main
from tether.pipeline.annotate import Listen, names, reached_at

COMMAND = [sys.executable, "-c", "import sys; from tether.cli import main; sys.exit(main(sys.argv[1:]))", "annotate"]


class Served:
    """A running `tether annotate`."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen([*COMMAND, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.first = self._line()
        self.address = re.search(r"https?://\S+?(?=/$)", self.first.strip())[0]

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def link(self) -> str:
        return self._line().split(": ")[1].strip()

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Exit code, the rest of what it printed, and what it complained of."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*args: str) -> Served:
        started.append(Served(*args))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@pytest.mark.slow
def test_a_first_run_prints_an_admin_link_and_a_kill_loses_nothing(serve, tmp_path):
    store = str(tmp_path / "here.sqlite")
    server = serve(store, "--port", "0")
    link, form = server.link(), {"name": "root", "password": PASSWORD}
    with httpx2.Client() as browser:
        answer = browser.post(link, data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        session = dict(browser.cookies)
    code, _, complaints = server.end(signal.SIGKILL)
    assert (code, complaints) == (-signal.SIGKILL, "")
    again = serve(store, "--port", "0")
    with httpx2.Client(base_url=again.address, cookies=session) as browser:
        assert browser.get("/password").status_code == 200
    assert again.end(signal.SIGTERM) == (0, "", "")  # no second link, no traceback, no secrets


@pytest.mark.slow
def test_it_serves_by_tls(serve, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout {key} -out {cert}"
    subprocess.run(["openssl", *make.split()], check=True, capture_output=True)
    store = str(tmp_path / "here.sqlite")
    server = serve(store, "--host", "0.0.0.0", "--port", "0", "--tls-cert", str(cert), "--tls-key", str(key))
    port = server.address.rpartition(":")[2]
    token = server.link().rpartition("/")[2]
    with httpx2.Client(base_url=f"https://localhost:{port}", verify=False) as browser:
        answer = browser.post(f"/invite/{token}", data={"name": "root", "password": PASSWORD})
        assert "Secure" in answer.headers["set-cookie"]
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert browser.get("/sign-in", headers={"host": "evil.example"}).status_code == 400
    assert server.end(signal.SIGINT)[0] == 0


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `tether annotate` says when it ends with exit code 2."""

    def ask(*args: str) -> str:
        assert main(["annotate", str(tmp_path / "here.sqlite"), *args]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    return ask


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_it_refuses_other_machines_without_tls(refused, host):
    assert "--insecure-public" in refused("--host", host)


def test_it_refuses_what_it_cannot_use(refused, tmp_path):
    assert "both" in refused("--tls-cert", str(tmp_path / "a.pem"))
    assert "no such file" in refused("--tls-cert", str(tmp_path / "a.pem"), "--tls-key", str(tmp_path / "b.pem"))
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    assert "no certificate" in refused("--port", "0", "--tls-cert", str(nonsense), "--tls-key", str(nonsense))
    assert "no such folder" in refused("--files", str(tmp_path / "nowhere"))
    assert "is no address" in refused("--host", "no such host.invalid", "--insecure-public")


def test_it_refuses_a_port_that_is_taken(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "give another --port" in refused("--port", str(other.getsockname()[1]))


def test_a_store_that_is_none_is_refused(capsys, tmp_path):
    (tmp_path / "text.sqlite").write_text("this is no database, and long enough to be seen as such" * 20)
    assert main(["annotate", str(tmp_path / "text.sqlite"), "--port", "0"]) == 2
    assert "cannot be used as a preference store" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'tether-rlhf[web]'" in refused("--port", "0")


def test_the_names_it_answers_to():
    assert names(Listen()) == {"localhost", "127.0.0.1", "::1"}
    assert names(Listen("192.0.2.7", allowed_hosts=("label.example",))) >= {"192.0.2.7", "label.example"}
    assert socket.gethostname() in names(Listen("0.0.0.0"))
    assert "0.0.0.0" not in names(Listen("0.0.0.0"))


def test_the_address_it_prints():
    tls = {"tls_cert": Path("cert"), "tls_key": Path("key")}
    assert reached_at(Listen(), 8400) == "http://127.0.0.1:8400"
    assert reached_at(Listen("::1", **tls), 1) == "https://[::1]:1"
    assert reached_at(Listen("0.0.0.0", allowed_hosts=("label.example",), **tls), 8400) == "https://label.example:8400"
    assert reached_at(Listen(behind_proxy=True, allowed_hosts=("label.example",)), 8400) == "https://label.example"
