"""Files from the web for a server: of public addresses only, of bounded size, in bounded time.

A name is resolved once and the connection goes to the very address that was checked, so that a name
that changes its address in between gains nothing. Redirects are followed by hand and checked alike.
Proxies named in the environment are not used: they would connect where they like.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
import urllib.parse
from typing import Final

from fourd4d.core.errors import InputError

_REDIRECTS: Final = {301, 302, 303, 307, 308}
_MOST_REDIRECTS: Final = 3
_CHUNK: Final = 1 << 16
# Not for hosts of the public network, which ipaddress does not say in all versions of Python.
_RESERVED: Final = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("fec0::/10"))
# Ranges that carry an IPv4 address inside.
_NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public network, its embedded IPv4 included."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if any(ip in net for net in _NAT64):
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if int(ip) < 1 << 32:  # ::a.b.c.d, the old embedding.
            return False
        if any(part is not None and not is_public(str(part)) for part in inner):
            return False
    if any(ip in net for net in _RESERVED):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def resolve(host: str, port: int, where: object) -> str:
    """Return an address of a host all of whose addresses are public.

    Raises InputError where it has none, or any that is not.
    """
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise InputError(where, f"the host {host!r} is not known", "Check the address") from error
    if not found or not all(is_public(str(address)) for address in found):
        raise InputError(where, f"the host {host!r} is not on the public network",
                         "Send the file as a data URL")
    return str(found[0])


def fetch(url: str, where: object, *, most_bytes: int, seconds: float) -> bytes:
    """Return what lies at an ``http`` or ``https`` address.

    Args:
      where: names the address in errors.
      most_bytes: longer files are refused.
      seconds: for all of it, redirects included.

    Raises:
      InputError: another scheme, a host off the public network, no reply in time, another status
        than 200, too long.
    """
    deadline = time.monotonic() + seconds
    for _ in range(_MOST_REDIRECTS + 1):
        status, data, target = _get(url, where, most_bytes, deadline)
        if status not in _REDIRECTS or not target:
            break
        url = urllib.parse.urljoin(url, target)
    else:
        raise InputError(where, f"more than {_MOST_REDIRECTS} redirects", "Give the last address")
    if status != 200:
        raise InputError(where, f"the server there answers with status {status}",
                         "Check the address")
    return data


def _get(url: str, where: object, most_bytes: int, deadline: float) -> tuple[int, bytes, str]:
    """(status, body, Location) of one address."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(where, f"it is not a web address ({error})", "Check it") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(where, f"{url[:200]!r} is not a web address", "Give http(s)://HOST/…")
    secure = parts.scheme == "https"
    port = port or (443 if secure else 80)
    address = resolve(host, port, where)
    path = urllib.parse.quote(parts.path or "/", safe="/%:=&?~#+!$,;'@()*[]")
    path += f"?{urllib.parse.quote(parts.query, safe='/%:=&?~+!$,;@()*[]')}" if parts.query else ""
    connection = http.client.HTTPConnection(host, port, timeout=_left(deadline, where))
    try:
        raw = socket.create_connection((address, port), _left(deadline, where))
        line = (ssl.create_default_context().wrap_socket(raw, server_hostname=host)
                if secure else raw)
        connection.sock = line
        named = host if port in (80, 443) else f"{host}:{port}"
        connection.request("GET", path, headers={
            "Host": f"[{host}]" if ":" in host else named, "User-Agent": "fourd4d",
            "Accept-Encoding": "identity"})
        reply = connection.getresponse()
        target = reply.headers.get("Location", "")
        if reply.status != 200:
            return reply.status, b"", target
        data = bytearray()
        while chunk := reply.read1(_CHUNK):
            data += chunk
            if len(data) > most_bytes:
                raise InputError(where, f"the file is longer than {most_bytes} bytes",
                                 "Give a shorter one")
            line.settimeout(_left(deadline, where))
        return reply.status, bytes(data), target
    except (OSError, http.client.HTTPException) as error:
        raise InputError(where, f"it cannot be fetched ({type(error).__name__})",
                         "Check the address, or send the file as a data URL") from error
    finally:
        connection.close()


def _left(deadline: float, where: object) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise InputError(where, "it was not fetched in time", "Send the file as a data URL")
    return left
