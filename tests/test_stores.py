"""Stores: the contract on each that is shipped, packages that are missing, addresses, servers that do not answer."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from servers import HOST, Server, free_port, ipv6_loopback, running_etcd, running_redis, running_zookeeper

from gloompi import (
    EtcdStore,
    FileStore,
    HashStore,
    PrefixStore,
    RedisStore,
    RendezvousError,
    Store,
    TCPStore,
    ZooKeeperStore,
)
from gloompi.store_url import FORMS, check_url, parse_url, shown
from gloompi.stores.url import open_store
from gloompi.testing import check_store

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PASSWORD = "hunter2"
CLIENTS = {"redis": "redis", "rediss": "redis", "etcd": "etcd3gw", "etcds": "etcd3gw", "zookeeper": "kazoo"}


def require_client(url: str) -> None:
    """Skip the test if the Python package of a URL's store is not installed."""
    package = CLIENTS.get(url.partition(":")[0])
    if package:
        pytest.importorskip(package, reason=f"no {package}: pip install {package}")


def secured(server: Server, password: str | None = None) -> str:
    """The URL of a Redis with password and TLS."""
    return f"rediss://:{password or server.password}@{HOST}:{server.port}/0?ssl_ca_certs={server.ca}"


@pytest.fixture(params=["hash", "file", "prefix", "tcp", "redis", "redis_tls", "etcd", "zookeeper"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """A function that opens a store of some kind once more."""
    shared = HashStore()
    match request.param:
        case "hash":
            yield lambda: shared
        case "file":
            yield lambda: FileStore(tmp_path / "store")
        case "prefix":
            yield lambda: PrefixStore("a/b ☃", shared)
        case "tcp":
            port = free_port()
            with TCPStore(HOST, port, serve=True):
                yield lambda: TCPStore(HOST, port)
        case "redis":
            url = request.getfixturevalue("redis_server").url
            yield lambda: RedisStore(url)
        case "redis_tls":
            url = secured(request.getfixturevalue("redis_tls_server"))
            yield lambda: RedisStore(url)
        case "etcd":
            url = request.getfixturevalue("etcd_server").url
            yield lambda: EtcdStore(url)
        case "zookeeper":
            url = request.getfixturevalue("zookeeper_server").url
            yield lambda: ZooKeeperStore(url)


class Recorded(Store):
    """Another store, and the keys that were ever written there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.keys: set[str] = set()

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._store._read(keys)

    def _write(self, items: Mapping[str, bytes]) -> None:
        self.keys.update(items)
        self._store._write(items)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        self.keys.add(key)
        return self._store._swap(key, old, new)

    def _remove(self, keys: Sequence[str]) -> None:
        self._store._remove(keys)

    def _add(self, key: str, n: int) -> int:
        self.keys.add(key)
        return self._store._add(key, n)

    def _append(self, key: str, value: bytes) -> None:
        self.keys.add(key)
        self._store._append(key, value)


# -- the contract -------------------------------------------------------------------------------------------------------


def test_every_client_of_a_store_keeps_the_contract(reopen: Callable[[], Store]) -> None:
    check_store(reopen)


def test_one_client_keeps_the_contract_and_nothing_stays(reopen: Callable[[], Store]) -> None:
    with reopen() as store:
        recorded = Recorded(store)
        check_store(recorded)
        keys = sorted(recorded.keys)
        assert len(keys) > 200
        assert store.peek(keys) == [None] * len(keys)


def test_prefixes_do_not_meet(reopen: Callable[[], Store]) -> None:
    with reopen() as store:
        views = [PrefixStore(prefix, store) for prefix in ("a", "a/b", "a%2Fb", "A", "ä", "a b")]
        for number, view in enumerate(views):
            view.set("b/key", b"%d" % number)
        assert [view.peek(["b/key", "key"]) for view in views] == [[b"%d" % number, None] for number in range(len(views))]
        views[0].close()
        assert views[1].get("b/key", 0.0) == b"1"  # the store below is open
        for view in views:
            view.delete(["b/key"])


# -- packages that are not installed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "package", "extra", "url"),
    [
        (RedisStore, "redis", "redis", "redis://127.0.0.1:1"),
        (EtcdStore, "etcd3gw", "etcd", "etcd://127.0.0.1:1"),
        (ZooKeeperStore, "kazoo", "zookeeper", "zookeeper://127.0.0.1:1"),
    ],
)
def test_missing_package(store: type[Store], package: str, extra: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for make in (store, lambda: open_store(url)):
        with pytest.raises(ImportError) as caught:
            make()
        assert str(caught.value) == f"{store.__name__} needs the package {package}: pip install 'gloompi[{extra}]'"
        assert caught.value.name == package


# -- addresses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://node7:6380/1", "RedisStore('redis://node7:6380/1')"),
        ("redis://user:hunter2@node7/0?socket_timeout=1", "RedisStore('redis://node7/0')"),
        ("rediss://:hunter2@node7:6380", "RedisStore('rediss://node7:6380')"),
        ("rediss://:hunter2@node7/0?ssl_ca_certs=/home/me%40site/ca.pem", "RedisStore('rediss://node7/0')"),
        ("etcd://node7:2380", "EtcdStore('http://node7:2380')"),
        ("etcd://[::1]:2380", "EtcdStore('http://[::1]:2380')"),
        ("etcds://node7:2380", "EtcdStore('https://node7:2380')"),
    ],
)
def test_store_by_url(url: str, shown: str) -> None:
    require_client(url)
    with open_store(url) as store:
        assert repr(store) == shown


def test_file_store_by_url(tmp_path: Path) -> None:
    with open_store(f"file://{tmp_path}/a%20b") as store:
        assert repr(store) == f"FileStore('{tmp_path}/a b')"


def test_tcp_store_by_url() -> None:
    url = f"tcp://{HOST}:{free_port()}"
    with open_store(url, clients=1) as served, open_store(url) as store:
        store.set("key", b"value")
        assert served.get("key", 0.0) == b"value"
        store.close()


def test_zookeeper_store_by_url(zookeeper_server: Server) -> None:
    with open_store(f"zookeeper://{zookeeper_server.url}") as store:
        assert repr(store) == f"ZooKeeperStore('{zookeeper_server.url}')"


@pytest.mark.parametrize(
    "url",
    ["", "redis", "http://node7", "node7:6379", "etcd://", "zookeeper://", "file:folder", "file://node7/folder",
     "tcp://node7", "tcp://:29500", "tcp://node7:0"],
)  # fmt: skip
def test_url_that_names_no_store(url: str) -> None:
    with pytest.raises(ValueError, match=r"names no store; there are: redis://host:port/db, rediss://.*, tcp://host:port$"):
        open_store(url)


def test_all_schemes_are_in_the_error_of_an_unknown_one() -> None:
    with pytest.raises(ValueError, match=r"names no store") as caught:
        open_store("etc://node7:2379")
    assert str(caught.value) == (
        "'etc://node7:2379' names no store; there are: redis://host:port/db, rediss://host:port/db, file:///folder, "
        "etcd://host:port, etcds://host:port, zookeeper://host:port, tcp://host:port"
    )
    assert all(f"{scheme}://" in str(caught.value) for scheme in FORMS)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:///scratch/store", "file:///scratch/store"),
        ("file:folder", "file:folder"),
        ("redis://node7:6379/0?password=hunter2", "redis://node7:6379/0"),
        ("redis://:hunter2@node7:6379/0", "redis://node7:6379/0"),
        ("zookeeper://node7:2181,node8:2181/top", "zookeeper://node7:2181,node8:2181/top"),
        ("file:///scratch/me@site", "file:///scratch/me@site"),
        ("redis://user:hunter2@[::1]:6379", "redis://[::1]:6379"),
        ("node7:6379", "node7:6379"),
        ("", ""),
        # Where anything may be the password, nothing is shown.
        ("redis://:hunter2", "redis://..."),
        ("redis://node7:hunter2", "redis://..."),
        ("redis://hunter2@hunter2@node7", "redis://..."),
        ("redis://node7/hunter2@node7", "redis://..."),
        ("redis://node7?hunter2@node7", "redis://..."),
        ("redis:///hunter2@node7", "redis://..."),
        ("redis://:hunter@/hunter2@node7/0", "redis://..."),
        ("file:///scratch#hunter2", "file://..."),
        ("file://:hunter2@/hunter2@node7", "file://..."),
        (":hunter2", "..."),
        ("user:hunter2@node7", "..."),
        ("redis//:hunter2@node7", "..."),
        ("hunter2hunter2://node7:port", "..."),
    ],
)
def test_url_as_it_may_be_shown(url: str, text: str) -> None:
    assert shown(url) == text


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@node7",
        "file://user:hunter2@node7/folder",
        "tcp://user:hunter2@node7",
        "redis//:hunter2@node7:6379/0",
        "redis:/:hunter2@node7:6379/0",
        "redis://:hunter2@node7:port/0",
        "redis://:hunter2/hunter2@node7:6379/0",  # a slash, hash or question mark in a password has to be quoted
        "redis://:hunter2#hunter2@node7:6379/0",
        "redis://:hunter2?hunter2@node7:6379/0",
        "zookeeper://user:hunter2@node7:port",
        "etcd://user:hunter2@node7:port",
        "etcd://user:hunter2@node7",
        "etcds://node7/hunter2@node7",
        "tcp://:hunter2@node7:29500",
        "redis://node7/hunter2?@",
    ],
)
def test_bad_url_does_not_show_its_password(url: str) -> None:
    require_client(url)
    with pytest.raises(ValueError, match=r".") as caught:
        open_store(url)
    assert PASSWORD not in str(caught.value)


PARTS = ("hunter", "secret")
SECRETS = [
    character.join(PARTS)
    for character in (*map(chr, range(128)), "".join(map(chr, range(128))), "@@", "/@", "?@", "#@", "%40", "%", "%4")
]


def assert_hidden(use: Callable[[], object], url: str) -> None:
    """What comes of a URL, and what is said about it, shows nothing of its user and password."""
    told = [shown(url)]
    try:
        told += [repr(use())]
    except (ValueError, RendezvousError) as exc:
        cause: BaseException | None = exc
        while cause is not None:
            told += [repr(cause), str(cause)]
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    assert not any(part in text for part in PARTS for text in told), (url, told)


@pytest.mark.parametrize("scheme", [*FORMS, "http", "https", "zk", ""])
def test_no_password_is_shown_whatever_it_is_made_of(scheme: str) -> None:
    """Each ASCII character in the middle of user and password, and all of them at once, as they are and quoted."""
    for secret in SECRETS:
        for who in (secret, f":{secret}", f"{secret}:{secret}", quote(secret, safe=""), f":{quote(secret, safe='')}"):
            for rest in ("@127.0.0.1:1", "@127.0.0.1:1/0?ssl_ca_certs=/tmp", "@/folder", "@node7:1,node8:1/top"):
                url = f"{scheme}://{who}{rest}"
                assert_hidden(partial(check_url, url), url)


@pytest.mark.parametrize(
    ("make", "url"),
    [
        (RedisStore, "rediss://{}@127.0.0.1:1?socket_timeout=1"),
        (EtcdStore, "http://{}@127.0.0.1:1"),
        (ZooKeeperStore, "{}@127.0.0.1:1"),
    ],
)
def test_no_store_shows_its_password(make: Callable[[str], Store], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("redis", "etcd3gw", "kazoo"):
        pytest.importorskip(package)
    monkeypatch.setattr("gloompi.stores.zookeeper._check_reachable", refuse)  # kazoo would wait for a server

    def use() -> str:
        with make(found) as store:
            return repr(store)

    for secret in SECRETS:
        for who in (f":{secret}", f":{quote(secret, safe='')}"):
            found = url.format(who)
            assert_hidden(use, found)


def refuse(*arguments: object) -> None:
    raise ConnectionRefusedError(111, "refused")


@pytest.mark.parametrize("secret", [*map(chr, range(1, 128)), "".join(map(chr, range(1, 128))), "100%", "%2F"])
def test_quoted_password_is_the_one_that_is_used(secret: str) -> None:
    parts = parse_url(f"redis://{quote(secret, safe='')}:{quote(secret, safe='')}@node7:6379/0")
    assert (parts.user, parts.password, parts.host, parts.port, parts.path) == (secret, secret, "node7", 6379, "/0")
    assert str(parts) == "redis://node7:6379/0"
    assert repr(parts) == "StoreURL('redis://node7:6379/0')"


@pytest.mark.parametrize(
    ("url", "hosts", "path"),
    [
        ("zookeeper://node7:2181,[::1]:2182,10.0.0.1/top", (("node7", 2181), ("::1", 2182), ("10.0.0.1", None)), "/top"),
        ("REDIS://n\u00f6de7", (("n\u00f6de7", None),), ""),
        ("tcp://[fe80::1%eth0]:7", (("fe80::1%eth0", 7),), ""),
        ("file:///a%20b", (), "/a%20b"),
    ],
)
def test_parts_of_a_url(url: str, hosts: object, path: str) -> None:
    parts = parse_url(url)
    assert (parts.hosts, parts.path, parts.user, parts.password, parts.options) == (hosts, path, None, None, "")


def test_option_that_redis_does_not_have() -> None:
    require_client("redis:")
    with pytest.raises(ValueError, match="nonsense"):
        with open_store("redis://127.0.0.1:1/0?nonsense=1") as store:
            store.get("key", 0.0)


@pytest.mark.parametrize("prefix", ["", None, b"job", 7])
def test_bad_prefix(prefix: object) -> None:
    with pytest.raises(ValueError, match=r"^prefix must be a str that is not empty, not "):
        PrefixStore(prefix, HashStore())  # type: ignore[arg-type]


def test_prefix_of_no_store() -> None:
    with pytest.raises(TypeError, match=r"^store must be a gloompi.Store, not dict$"):
        PrefixStore("job", {})  # type: ignore[arg-type]


# -- servers that do not answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hunter2@127.0.0.1:{port}/0", "RedisStore('redis://127.0.0.1:{port}/0')"),
        ("rediss://:hunter2@127.0.0.1:{port}", "RedisStore('rediss://127.0.0.1:{port}')"),
        ("etcd://127.0.0.1:{port}", "EtcdStore('http://127.0.0.1:{port}')"),
        ("zookeeper://user:hunter2@127.0.0.1:{port}", "ZooKeeperStore('127.0.0.1:{port}')"),
    ],
)
def test_nobody_is_there(url: str, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    require_client(url)
    caplog.set_level(logging.DEBUG)
    port = free_port()
    with pytest.raises(RendezvousError, match="refused") as caught:
        with open_store(url.format(port=port)) as store:
            store.get("key", 5.0)
    assert shown.format(port=port) in str(caught.value)
    assert PASSWORD not in str(caught.value) + caplog.text


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_address_with_or_without_brackets(host: str) -> None:
    if not ipv6_loopback():
        pytest.skip("no IPv6 here")
    port = free_port()
    with TCPStore(host, port, serve=True, clients=1) as served, TCPStore(host, port) as store:
        store.set("key", b"value")
        assert served.get("key", 0.0) == b"value"
        assert repr(store) == f"TCPStore('::1', {port})"
        store.close()


def unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no name were known, without asking a server."""

    def getaddrinfo(*arguments: object, **more: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("serve", [False, True])
def test_host_that_nobody_knows(serve: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    unknown_names(monkeypatch)
    with pytest.raises(RendezvousError) as caught:
        TCPStore("noed7", 29500, serve=serve, timeout=0.2)
    assert isinstance(caught.value.__cause__, socket.gaierror)
    text = (
        f"TCPStore('noed7', 29500) cannot be found: {socket.gethostname()} cannot resolve 'noed7' (Name or service not "
        "known); check its spelling (getent hosts noed7), or give an IP address"
    )
    assert caught.value.reason == text
    # A name that others have to make known first is tried for all of the budget, but not in silence.
    assert caplog.messages == ([] if serve else [f"{text}; trying on"])


@pytest.mark.parametrize("serve", [False, True])
def test_host_that_is_no_name(serve: bool) -> None:
    with pytest.raises(RendezvousError, match=r"cannot resolve 'node\.\.7' \(it is no name of a host\); check its spelling"):
        TCPStore("node..7", 29500, serve=serve, timeout=20.0)


def test_nobody_serves() -> None:
    port = free_port()
    with pytest.raises(RendezvousError) as caught:
        TCPStore(HOST, port, timeout=0.3)
    assert str(caught.value) == (
        f"rendezvous failed: nobody serves TCPStore('127.0.0.1', {port}): [Errno 111] Connection refused after 0.3 s; the "
        "rank that serves is late, has died or is behind a firewall, or host and port are wrong"
    )


def test_wrong_password(redis_tls_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = ""
    for password in (PASSWORD, redis_tls_server.password):
        with RedisStore(secured(redis_tls_server, password)) as store:
            told += repr(store)
            if password != PASSWORD:
                assert store.peek(["key"]) == [None]
                continue
            with pytest.raises(RendezvousError, match="invalid username-password pair") as caught:
                store.peek(["key"])
            told += str(caught.value)
    with RedisStore(f"rediss://:{redis_tls_server.password}@{HOST}:{redis_tls_server.port}/0") as store:
        with pytest.raises(RendezvousError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            store.peek(["key"])
    told += str(caught.value) + caplog.text
    assert f"rediss://{HOST}:{redis_tls_server.port}/0" in told
    assert redis_tls_server.password is not None
    assert redis_tls_server.password not in told
    assert PASSWORD not in told


def test_redis_with_the_certificate_of_another_host(redis_tls_server: Server) -> None:
    """Its authority is trusted, its name is 127.0.0.1; redis-py before version 6 does not compare unless it is told to."""
    url = secured(redis_tls_server).replace(f"@{HOST}:", "@localhost:")
    with RedisStore(url) as store:
        with pytest.raises(RendezvousError, match=r"certificate is not valid for 'localhost'|doesn't match 'localhost'"):
            store.peek(["key"])
        assert store._client.connection_pool.connection_kwargs["ssl_check_hostname"] is True
    with RedisStore(f"{url}&ssl_check_hostname=false") as store:  # whoever says so
        assert store.peek(["key"]) == [None]


def test_redis_whose_certificate_is_not_looked_at(redis_tls_server: Server) -> None:
    url = f"rediss://:{redis_tls_server.password}@localhost:{redis_tls_server.port}/0"
    with RedisStore(f"{url}?ssl_cert_reqs=none") as store:
        assert store.peek(["key"]) == [None]


def test_redis_that_refuses(redis_server: Server) -> None:
    with RedisStore(f"{redis_server.url}/99") as store:
        with pytest.raises(RendezvousError, match="DB index is out of range"):
            store.peek(["key"])


def test_zookeeper_user_has_nodes_of_his_own(zookeeper_server: Server) -> None:
    """Nobody else can read, write or delete them, whether he gives another password, another user or none."""
    from kazoo.client import KazooClient
    from kazoo.exceptions import NoAuthError

    with ZooKeeperStore(f"me:hunter2@{zookeeper_server.url}") as store:
        assert "hunter2" not in repr(store)
        store.set("key", b"value")
        with ZooKeeperStore(f"me:hunter2@{zookeeper_server.url}") as again, ZooKeeperStore(zookeeper_server.url) as nobody:
            assert again.peek(["key"]) == [b"value"]
            assert nobody.peek(["key"]) == [None]
        with pytest.raises(
            RendezvousError, match=r"refused a request: this user has no right to /gloompi-me \(NoAuthError\)"
        ):
            ZooKeeperStore(f"me:hunter3@{zookeeper_server.url}")
        stranger = KazooClient(zookeeper_server.url, auth_data=[("digest", "you:hunter2")])
        stranger.start()
        try:
            for attack in (
                lambda: stranger.get("/gloompi-me/key=key"),
                lambda: stranger.set("/gloompi-me/key=key", b"mine"),
                lambda: stranger.delete("/gloompi-me/key=key"),
                lambda: stranger.create("/gloompi-me/key=another", b"mine"),
            ):
                with pytest.raises(NoAuthError):
                    attack()
        finally:
            stranger.stop()
            stranger.close()
        store.delete(["key"])


def test_zookeeper_node_that_somebody_else_has_made(zookeeper_server: Server) -> None:
    """Beforehand, open to all, so that he could replace what the ranks write there."""
    from kazoo.client import KazooClient

    stranger = KazooClient(zookeeper_server.url)
    stranger.start()
    try:
        stranger.create("/gloompi-her")
        with pytest.raises(
            RendezvousError, match="others have rights to the node /gloompi-her, which somebody else has made"
        ):
            ZooKeeperStore(f"her:hunter2@{zookeeper_server.url}")
    finally:
        stranger.stop()
        stranger.close()


def test_zookeeper_path_that_is_not_there(zookeeper_server: Server) -> None:
    with pytest.raises(RendezvousError, match="the path behind the hosts is not there"):
        ZooKeeperStore(f"{zookeeper_server.url}/no/such/path")


@pytest.mark.parametrize("who", ["me", "me:", ":hunter2", "a%3Ab:hunter2"])
def test_zookeeper_user_without_a_name_or_a_password(who: str) -> None:
    pytest.importorskip("kazoo")
    with pytest.raises(ValueError, match="a user of ZooKeeper has a name without a colon, and a password") as caught:
        ZooKeeperStore(f"{who}@node7:2181")
    assert "hunter2" not in str(caught.value)


def test_zookeeper_that_is_lost_at_once_leaves_nothing(zookeeper_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from kazoo.client import KazooClient
    from kazoo.exceptions import ConnectionLoss

    def lost(*args: object, **options: object) -> None:
        raise ConnectionLoss

    monkeypatch.setattr(KazooClient, "create_async", lost)
    with pytest.raises(RendezvousError, match=str(zookeeper_server.port)):
        ZooKeeperStore(zookeeper_server.url)


@contextmanager
def stranger(says: bytes) -> Iterator[int]:
    """The port of a program that reads a little, says something else, and hangs up."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(says)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            thread.join()


STRANGE = pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"\xff" * 100])


@STRANGE
@pytest.mark.parametrize("scheme", ["redis", "rediss", "etcd", "zookeeper"])
def test_somebody_else_is_there(scheme: str, says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    require_client(scheme)
    monkeypatch.setattr("gloompi.stores.zookeeper._SECONDS", 0.5)
    with stranger(says) as port:
        with pytest.raises(RendezvousError, match=str(port)):
            with open_store(f"{scheme}://{HOST}:{port}") as store:
                store.get("key", 1.0)


@STRANGE
def test_somebody_else_serves(says: bytes) -> None:
    with stranger(says) as port:
        with pytest.raises(RendezvousError, match=str(port)):
            TCPStore(HOST, port, timeout=0.3)


@pytest.mark.parametrize(
    ("running", "make"), [(running_redis, RedisStore), (running_etcd, EtcdStore), (running_zookeeper, ZooKeeperStore)]
)
def test_server_that_dies(running: Callable[[], AbstractContextManager[Server]], make: Callable[[str], Store]) -> None:
    with running() as server:
        with make(server.url) as store:
            store.set("key", b"1")
            os.kill(server.pid, 9)
            for use in (
                lambda: store.set("key", b"2"),
                lambda: store.compare_set("key", b"1", b"2"),
                lambda: store.add("key", 1),
                lambda: store.append("key", b"1"),
                lambda: store.get("key", 1.0),
                lambda: store.delete(["key"]),
            ):
                with pytest.raises(RendezvousError, match=str(server.port)):
                    use()


def test_etcd_takes_no_password() -> None:
    pytest.importorskip("etcd3gw")
    with pytest.raises(ValueError, match="has no passwords") as caught:
        EtcdStore("http://me:hunter2@node7:2379")
    assert "hunter2" not in str(caught.value)
