"""Signing: every record of an exchange bears a MAC made with the secret that the ranks share.

The signature of rank r in round n, HMAC-SHA256 with a key that is made of the secret, covers::

    label     "gloompi record\\0"
    size, n, r    u32 each
    before    32 bytes: a digest of where the ranks meet, and of all that all ranks have said in the rounds before, as this
              rank has received it
    record

So no record can be moved to another rank, round, number of ranks, meeting or job, and from the second round on none of
another time can be brought back: the first round has fresh random bytes of every rank in it.  Without a secret anybody can
make these signatures; then they only tell ranks apart that have one from ranks that have none.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from struct import Struct

from ..deadline import Deadline
from ..errors import RendezvousError
from .exchange import Exchange
from .record import Record

__all__ = ["SIGNATURE_NBYTES", "Signed", "sign", "signing_key"]

SIGNATURE_NBYTES = 32
_WHERE = Struct("<III")


def signing_key(secret: bytes) -> bytes:
    """The key of all signatures that a secret makes."""
    return hmac.digest(secret, b"gloompi signing key", "sha256")


def sign(key: bytes, size: int, number: int, rank: int, before: bytes, record: bytes) -> bytes:
    """The signature of one rank's record in round `number`; for `before` see above."""
    where = b"gloompi record\0" + _WHERE.pack(size, number, rank)
    return hmac.digest(key, where + before + record, "sha256")


class Signed:
    """An exchange over another one, which others may be able to write to.

    Parameters
    ----------
    exchange : Exchange
    secret : bytes
        Empty if the ranks have none: then who writes to the exchange is believed.
    meeting : bytes
        What the ranks know beforehand of where and when they meet, such as the name of their job; alike on all of them.
    """

    def __init__(self, exchange: Exchange, secret: bytes, meeting: bytes = b"") -> None:
        self.rank, self.size = exchange.rank, exchange.size
        self._exchange = exchange
        self._key = signing_key(secret)
        self._before = sha256(b"gloompi meeting\0" + meeting).digest()
        self._round = 0

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        """See `Exchange`.

        Raises
        ------
        RendezvousError
            Also if a record is not signed with this rank's secret, or is none of this round.
        """
        mine = self._signature(self.rank, record) + record
        found = self._exchange(mine, deadline, watch)
        if found[self.rank] != mine:
            raise RendezvousError("its own record came back changed: somebody alters what the ranks exchange", self.rank)
        records = [self._verified(rank, signed) for rank, signed in enumerate(found)]
        self._before = sha256(self._before + b"".join(sha256(signed).digest() for signed in found)).digest()
        self._round += 1
        return records

    def _signature(self, rank: int, record: bytes) -> bytes:
        return sign(self._key, self.size, self._round, rank, self._before, record)

    def _verified(self, rank: int, signed: bytes) -> bytes:
        signature, record = signed[:SIGNATURE_NBYTES], signed[SIGNATURE_NBYTES:]
        if not hmac.compare_digest(signature, self._signature(rank, record)):
            raise self._refusal(rank, record)
        return record

    def _refusal(self, rank: int, record: bytes) -> RendezvousError:
        if self._round:  # the secrets are the same: that was seen in the first round
            return RendezvousError(
                "its record does not follow from what this rank has received before: somebody alters what the ranks "
                "exchange",
                rank,
            )
        try:
            # A rank that cannot read its secret says so, and can sign it with none. Who forges that wins no more than who
            # forges anything else here: the ranks do not meet.
            who, _, failure = Record.unpack(record)
        except ValueError:
            failure = ""
        if failure:
            return RendezvousError(failure, rank, who.host, who.pid)
        return RendezvousError(
            "its record is not signed with this rank's secret: the ranks have different secrets (secret=, "
            "GLOOMPI_SECRET_FILE), or somebody else alters what they exchange",
            rank,
        )
