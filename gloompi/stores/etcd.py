"""A store in an etcd cluster (API v3, package etcd3gw)."""

from __future__ import annotations

import socket
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..signatures import public
from ..store_url import parse_url, shown
from .bounded import BoundedSocket, connect, request
from .remote import USERS, extra, unreachable
from .store import Store

if TYPE_CHECKING:
    from requests.adapters import HTTPAdapter

__all__ = ["EtcdStore"]

_ANSWER_SECONDS = 10.0
# etcd refuses transactions of more operations than this (its option --max-txn-ops), unless it is told otherwise.
_MAX_OPERATIONS = 128
# What comes of an answer that is none, or none of etcd's.
_NONSENSE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


@public
class EtcdStore(Store):
    """A store in an etcd cluster.

    Parameters
    ----------
    url : str
        ``"http://host:port"`` or ``"https://host:port"`` of one member.
    ca_cert, cert, key : str, optional
        Files for TLS: the authority that signed the server's certificate, this client's certificate and its key.

    Raises
    ------
    ImportError
        The package etcd3gw is missing: ``pip install 'gloompi[etcd]'``.
    ValueError
        The URL has no meaning.

    Notes
    -----
    Connects at the first use.  A server that cannot be reached is a RendezvousError.  It has 10 s for an answer, of 16 MiB
    at most; no redirection is followed.
    """

    _exposed = USERS

    def __init__(
        self,
        url: str = "http://127.0.0.1:2379",
        *,
        ca_cert: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        with extra("etcd", "EtcdStore"):
            import etcd3gw
            import etcd3gw.exceptions
        try:
            parts = parse_url(url)
        except ValueError as exc:
            raise ValueError(f"url must be http://host:port or https://host:port, not {shown(url)!r}: {exc}") from None
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError(f"url must be http://host:port or https://host:port, not {shown(url)!r}")
        if parts.user is not None:
            raise ValueError(f"the client of etcd has no passwords: {shown(url)!r} takes cert= and key= instead")
        if parts.path.strip("/") or parts.options:
            raise ValueError(f"url must end with the port, not {shown(url)!r} with a path or options")
        self._shown = shown(url)
        self._error = etcd3gw.exceptions.Etcd3Exception
        self._client = etcd3gw.Etcd3Client(
            f"[{parts.host}]" if ":" in parts.host else parts.host,
            parts.port or 2379,
            protocol=parts.scheme,
            ca_cert=ca_cert,
            cert_cert=cert,
            cert_key=key,
            timeout=_ANSWER_SECONDS,
            api_path=None,  # asks the server, whose path depends on its version
        )
        # A proxy of the site's (http_proxy) does not lead to a server within the cluster.
        self._client.session.trust_env = False
        self._client.session.headers["Accept-Encoding"] = "identity"
        self._client.session.mount(f"{parts.scheme}://", _adapter())

    def __repr__(self) -> str:
        return f"EtcdStore({self._shown!r})"

    def _transact(self, transaction: dict[str, Any]) -> dict[str, Any]:
        try:
            with request(_ANSWER_SECONDS):
                return dict(self._client.transaction(transaction))
        except self._error as exc:
            raise unreachable(self, "etcd", exc.detail_text or exc) from exc
        except OSError as exc:  # requests' errors are some
            raise unreachable(self, "etcd", exc) from exc
        except _NONSENSE as exc:
            raise unreachable(self, "etcd", f"what answers is not etcd ({exc})") from None

    def _do(self, operations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Operations in as few round trips as etcd allows, and their answers."""
        answers: list[dict[str, Any]] = []
        for start in range(0, len(operations), _MAX_OPERATIONS):
            transaction = {"success": operations[start : start + _MAX_OPERATIONS]}
            found = self._transact(transaction).get("responses")
            if not isinstance(found, list) or len(found) != len(transaction["success"]):
                raise unreachable(self, "etcd", "what answers is not etcd (no answer to each operation)")
            answers += found
        return answers

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        answers = self._do([{"request_range": {"key": _base64(key.encode())}} for key in keys])
        try:
            found = [answer["response_range"].get("kvs") for answer in answers]
            return [b64decode(each[0].get("value", "")) if each else None for each in found]
        except _NONSENSE as exc:
            raise unreachable(self, "etcd", f"what answers is not etcd ({exc})") from None

    def _write(self, items: Mapping[str, bytes]) -> None:
        self._do([_put(key, value) for key, value in items.items()])

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        # A key that is not there was created at revision 0.
        wanted = {"target": "CREATE", "create_revision": 0} if old is None else {"target": "VALUE", "value": _base64(old)}
        condition = {"key": _base64(key.encode()), "result": "EQUAL", **wanted}
        return bool(self._transact({"compare": [condition], "success": [_put(key, new)]}).get("succeeded"))

    def _remove(self, keys: Sequence[str]) -> None:
        self._do([{"request_delete_range": {"key": _base64(key.encode())}} for key in keys])

    def close(self) -> None:
        self._client.session.close()


def _put(key: str, value: bytes) -> dict[str, Any]:
    return {"request_put": {"key": _base64(key.encode()), "value": _base64(value)}}


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _adapter() -> HTTPAdapter:
    """The connections of requests: sockets that keep to the request, no redirections, nothing that is to be unpacked."""
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import NewConnectionError

    class Bounded:
        def _new_conn(self: Any) -> Any:
            try:
                sock = connect(self._dns_host, self.port, _ANSWER_SECONDS)
            except OSError as exc:
                raise NewConnectionError(self, str(exc)) from exc
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock

        def connect(self: Any) -> None:
            super().connect()  # type: ignore[misc]
            self.sock = BoundedSocket(self.sock)

    plain: Any = type("Plain", (Bounded, HTTPConnection), {})
    tls: Any = type("TLS", (Bounded, HTTPSConnection), {})
    pools = {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
            super().init_poolmanager(*arguments, **more)
            self.poolmanager.pool_classes_by_scheme = pools

        def send(self, *arguments: Any, **more: Any) -> Any:
            response = super().send(*arguments, **more)
            if response.is_redirect or response.headers.get("Content-Encoding", "identity") != "identity":
                response.close()
                raise ConnectionError("it redirects, or packs its answer, which etcd does not")
            return response

    return Adapter()
