"""Certificates: made anew each time, and never in a file with a name."""

from __future__ import annotations

import os
import ssl
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from gloompi.transport.certificate import is_described, make_certificate

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def test_every_certificate_is_another() -> None:
    made = [make_certificate() for _ in range(3)]
    for each in made:
        assert each.digest == sha256(each.der).digest()
        assert len(each.der) < 1024
        assert [is_described(each.der, other.digest) for other in made] == [each is other for other in made]
        each.close()
    assert len({each.digest for each in made}) == 3


@pytest.mark.parametrize("memfd", [True, False])
def test_the_key_is_in_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch, memfd: bool) -> None:
    if not memfd:
        monkeypatch.delattr(os, "memfd_create")
    certificate = make_certificate()
    target = os.readlink(certificate.path)
    assert target.endswith(" (deleted)")
    assert target.startswith("/memfd:gloompi" if memfd else "/dev/shm/")
    described = os.stat(certificate.path)
    assert described.st_nlink == 0
    if not memfd:
        assert described.st_mode & 0o777 == 0o600
    pem = Path(certificate.path).read_text()
    assert pem.count("PRIVATE KEY") == 2
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path)
    inheritable = os.get_inheritable(int(certificate.path.rpartition("/")[2]))
    assert not inheritable
    certificate.close()
    certificate.close()
    with pytest.raises(ValueError, match=r"^the certificate is closed: its private key is gone$"):
        _ = certificate.path


def test_representation_tells_nothing() -> None:
    certificate = make_certificate()
    assert "KEY" not in repr(certificate)
    certificate.close()


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ImportError) as caught:
        make_certificate()
    assert str(caught.value) == (
        "Device(tls=True) (GLOOMPI_TLS=1) needs the package cryptography: pip install 'gloompi[tls]'"
    )
    assert caught.value.name == "cryptography"
