"""Foreign text: what other ranks, and whoever else writes where they meet, have to say.

It ends on terminals and in logs.  Control characters there move the cursor, change its colour or forge another line; others
turn the direction of what follows, or are not to be seen.
"""

from __future__ import annotations

__all__ = ["plain"]


def plain(text: str, most: int) -> str:
    """Return a text of others as it may be shown: what cannot be printed as an escape such as ``\\x1b``, on one line.

    Parameters
    ----------
    most : int
        Characters of the result; the rest is left out.
    """
    text = text[:most]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)[:most]
