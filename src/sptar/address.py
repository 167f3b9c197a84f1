"""The address of a server: checked, and shown without the secrets that it may hold."""

from __future__ import annotations

import base64
from urllib.parse import unquote, urlsplit, urlunsplit

__all__ = ["address_problem", "address_secrets", "masked_address"]

_MASK = "***"


def address_problem(address: str) -> str | None:
    """What is wrong with an address, in words that quote nothing of it; ``None`` if nothing is.

    >>> address_problem("http://127.0.0.1:8000/v1")
    >>> address_problem("ftp://name:secret@host")
    'it does not begin with http:// or https://'
    """
    if not address.isprintable() or " " in address:
        return "it holds a blank or a control character"
    if not address.startswith(("http://", "https://")):
        return "it does not begin with http:// or https://"
    try:
        parts = urlsplit(address)
        # Reading the port checks it.
        if not parts.hostname or parts.port == 0:
            return "it names no host"
    except ValueError:
        return "its host or port cannot be read"
    if parts.netloc.count("@") > 1:
        return "a sign of its password must be written as %40 and the like"
    return None


def masked_address(address: str) -> str:
    """The address as it may be written down: no user, no password, no values of its query.

    >>> masked_address("https://me:secret@host:8000/v1?key=abc&x=1")
    'https://***@host:8000/v1?key=***&x=***'
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return _MASK
    user, at, host = parts.netloc.rpartition("@")
    netloc = f"{_MASK}{at}{host}" if user or at else host
    query = "&".join(f"{item.partition('=')[0]}={_MASK}" for item in parts.query.split("&") if item)
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def address_secrets(address: str) -> list[str]:
    """What must not be quoted of an address: its password (or a token in the user's place) and the
    values of its query, as they stand there and as they are sent.

    >>> address_secrets("https://me:secret@host/v1?key=abc")
    ['bWU6c2VjcmV0', 'secret', 'abc']
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return []
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    sent = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    if not password:
        password = user  # a token in the place of a name
    values = [item.partition("=")[2] for item in parts.query.split("&")]
    found = (sent, password, parts.password, *values, *map(unquote, values))
    return [secret for secret in dict.fromkeys(found) if secret]
