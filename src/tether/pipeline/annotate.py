"""Serving the annotation app: where it listens, who may reach it, and live samples for its projects."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.errors import InputError

if TYPE_CHECKING:
    import uvicorn

    from tether.data.formats import Said
    from tether.feedback.store import Store
    from tether.feedback.web.sampling import Drawing, Drawn

_PACKAGES = {
    *("fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "argon2", "python_multipart", "multipart"),
    *("jinja2", "markupsafe", "markdown_it", "mdit_py_plugins", "latex2mathml", "nh3"),
}
_ANY = ("0.0.0.0", "::")
_INVITE = 86_400.0  # seconds an admin link is good for
_PORTION = 16  # prompts between two looks at whether to go on
_PATIENCE = 5  # seconds that requests under way have when the server is told to stop


@dataclass(frozen=True)
class Listen:
    """Where the server listens, and by which ways it is reached."""

    host: str = "127.0.0.1"
    port: int = 8400
    """0 for any free one."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_public: bool = False
    """Listen to other machines without TLS all the same."""
    behind_proxy: bool = False
    """A proxy on this machine terminates TLS and says who asks (X-Forwarded-For)."""
    allowed_hosts: tuple[str, ...] = ()
    """Names it is reached by, besides those that follow from `host`."""

    @property
    def secure(self) -> bool:
        """Whether browsers reach it by TLS only."""
        return self.tls_cert is not None or self.behind_proxy


def annotate(where: str, listen: Listen, files: Path) -> None:
    """Serves the annotation app over a store until it is told to stop (SIGINT, SIGTERM).

    All state is in the store: the process may be killed at any time. `files` is the folder whose files and checkpoints
    an admin may name.

    Raises:
        InputError: it would listen to other machines without TLS, the port is taken, no such certificate or folder, a
            package is missing, or `where` is no store.
    """
    check(listen)
    if not files.is_dir():
        raise InputError(f"{files}: no such folder; --files names the folder whose files admins may use")
    with installed():
        import uvicorn

        from tether.feedback.store import Store
        from tether.feedback.web.app import create_app
    with contextlib.closing(bind(listen.host, listen.port)) as listener, Store.open(where) as store:
        app = create_app(store, sampler=sample, files=files, hosts=names(listen), secure=listen.secure)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # addresses hold invitations
            server_header=False,
            proxy_headers=listen.behind_proxy,
            forwarded_allow_ips=["127.0.0.1", "::1"],
            timeout_graceful_shutdown=_PATIENCE,
            ssl_certfile=listen.tls_cert,
            ssl_keyfile=listen.tls_key,
        )
        _load(config, listen)
        address = reached_at(listen, listener.getsockname()[1])
        print(f"Tether annotates {where_said(where)} at {address}/", flush=True)
        if link := admin_link(store, address):
            print(f"There is no admin yet. Make yourself one, within 24 hours: {link}", flush=True)
        _run(uvicorn.Server(config), listener)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Turns a missing package of the web extra into an InputError that says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise InputError(f"the annotation app needs the package {package}: pip install 'tether-rlhf[web]'") from None


def check(listen: Listen) -> None:
    """InputError for a certificate without its key, and for what other machines would read on the way."""
    if (listen.tls_cert is None) != (listen.tls_key is None):
        raise InputError("TLS needs both --tls-cert and --tls-key")
    for path in (listen.tls_cert, listen.tls_key):
        if path is not None and not path.is_file():
            raise InputError(f"{path}: no such file")
    if not is_loopback(listen.host) and not (listen.secure or listen.insecure_public):
        raise InputError(
            f"--host {listen.host} lets other machines in, and without TLS anybody between reads passwords and answers:"
            " give --tls-cert and --tls-key, put a TLS proxy in front (--behind-proxy), or say --insecure-public"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("::"), is_loopback("example.org")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. InputError when the address is none of this machine's, or the port is taken."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: is no address ({error})") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen at {host}, port {port} ({error.strerror}); give another --port, or 0 for a free one"
        ) from None
    return listener


def names(listen: Listen) -> set[str]:
    """The host names the server answers to: a page of another name could be somebody else's (DNS rebinding)."""
    found = {"localhost", "127.0.0.1", "::1", listen.host, *listen.allowed_hosts} - set(_ANY)
    return found | {socket.gethostname(), socket.getfqdn()} if listen.host in _ANY else found


def reached_at(listen: Listen, port: int) -> str:
    """The address to print."""
    if listen.behind_proxy and listen.allowed_hosts:
        return f"https://{listen.allowed_hosts[0]}"
    host = [*listen.allowed_hosts, socket.gethostname()][0] if listen.host in _ANY else listen.host
    return f"{'https' if listen.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def where_said(where: str) -> str:
    """The store's place without a password."""
    if "://" not in where:
        return where
    from sqlalchemy.engine import make_url

    return make_url(where).render_as_string(hide_password=True)


def sample(checkpoint: str, asked: Sequence[Said], how: Drawing) -> Iterator[Drawn]:
    """Responses of a checkpoint (`base`, a folder, a hub id) to prompts, in their order: a `Sampler` for the app.

    Raises InputError for what is no model, and for a prompt that its template or its context cannot take.
    """
    from tether.config import SamplingConfig
    from tether.data.template import Template
    from tether.feedback.intake import Written
    from tether.models.load import load_policy
    from tether.pipeline.place import model_at
    from tether.rollout.native import NativeSampler

    path = model_at(checkpoint)
    template = Template.load(path)
    params = SamplingConfig(temperature=how.temperature, max_new_tokens=how.max_new_tokens)
    sampler = NativeSampler(load_policy(path), template, params)
    origin = {"temperature": how.temperature, "max_new_tokens": how.max_new_tokens, "seed": how.seed}
    for first in range(0, len(asked), _PORTION):
        prompts = [template.prompt(said) for said in asked[first : first + _PORTION]]
        for group in sampler.generate(prompts, how.per_checkpoint, seed=how.seed):
            yield [Written(r.text, r.token_ids, r.ended, sampling=origin) for r in group.responses]


def admin_link(store: Store, address: str) -> str | None:
    """A link that makes its first user an admin; None when there is one already."""
    from tether.feedback.accounts import Accounts

    accounts = Accounts(store)
    return None if accounts.has_admin() else f"{address}/invite/{accounts.invite(admin=True, lifetime=_INVITE)}"


def _load(config: uvicorn.Config, listen: Listen) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{listen.tls_cert} and {listen.tls_key}: are no certificate and its key ({error})") from None


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM, each the usual way to end it and so no failure.

    uvicorn catches both, finishes, puts the handlers that were there back and raises the signal again.
    """

    def stop(*_: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
