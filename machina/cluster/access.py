"""Who may reach a Ray cluster and how it is reached: token, authentication mode, address.

Anyone who reaches the ports of a Ray cluster without authentication can run code there. So what Machina starts asks for
a token and listens on loopback only. Verified with Ray 2.60.0; the environment variables are those of its documentation
(docs.ray.io, "Ray token authentication").
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import ipaddress
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from machina.errors import UserError

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
TOKEN_BYTES = 32

ANSWER_TIMEOUT_S = 5.0
"""How long a head may take to answer the first question; it answers in milliseconds."""


class Token(NamedTuple):
    """The secret that all nodes of a cluster share."""

    text: str
    source: str
    """The variable or the file that it was found in."""


def default_token_file() -> Path:
    """Where Ray looks when no variable names another place."""
    return Path.home() / ".ray" / "auth_token"


def find_token() -> Token | None:
    """The token that Ray will use in this process, or None.

    Raises:
        UserError: the file that a variable names, or the default one, can't be read or is empty.
    """
    if text := os.environ.get(TOKEN, "").strip():
        return Token(text, TOKEN)
    named = os.environ.get(TOKEN_PATH)
    file = Path(named) if named else default_token_file()
    if not named and not file.exists():
        return None
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{TOKEN_PATH if named else 'token file'} {str(file)!r} can't be read: {error}") from error
    if not text:
        raise UserError(f"token file {str(file)!r} is empty; write the cluster's token into it, or remove it")
    return Token(text, str(file))


def make_token() -> Token:
    """Write a new token to the default file, for this user's eyes only: Ray itself leaves it readable by all.

    Raises:
        UserError: the file can't be written.
    """
    file = default_token_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(secrets.token_hex(TOKEN_BYTES))
    except FileExistsError:
        pass  # another process has just made one
    except OSError as error:
        raise UserError(f"token file {str(file)!r} can't be written: {error.strerror}; or set {TOKEN}") from error
    token = find_token()
    assert token is not None
    return token


def use_authentication(mode: str | None) -> None:
    """Set Ray's authentication mode, ``token`` or ``disabled``, in this process and those it starts; None unsets it.

    Ray reads mode and token once, when it is imported, which a user's program may have done before.
    """
    if mode is None:
        os.environ.pop(AUTH_MODE, None)
    else:
        os.environ[AUTH_MODE] = mode
    # Private, and what Ray itself calls for this.
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def authentication_of_own() -> bool:
    """Whether a cluster of our own asks for a token: yes, unless the environment says otherwise. Makes the token."""
    if os.environ.get(AUTH_MODE, "token").lower() != "token":
        return False
    if find_token() is None:
        make_token()
    return True


def authentication_of(address: str) -> bool:
    """Ask the head of a cluster whether it wants a token, and show it ours if so.

    Ray's own attempt takes 20 s for a wrong token and ten minutes for a wrong address, so this comes first.

    Args:
        address: HOST:PORT.

    Raises:
        UserError: no Ray answers there, the token is missing or wrong, or the cluster is less guarded than
            RAY_AUTH_MODE=token demands.
    """
    mode = os.environ.get(AUTH_MODE, "").lower()
    what = f"address {address!r}"
    if _answers(address, None):
        if mode == "token":
            raise UserError(
                f"{what}: this cluster asks for no token although {AUTH_MODE}=token; restart it with {AUTH_MODE}=token "
                f"on every node, or unset {AUTH_MODE} here to join it anyway"
            )
        return False
    if mode == "disabled":
        raise UserError(f"{what}: this cluster asks for a token; unset {AUTH_MODE}, which is 'disabled' here")
    token = find_token()
    remedy = f"copy ~/.ray/auth_token of the cluster's head to {str(default_token_file())!r}, or set {TOKEN}"
    if token is None:
        raise UserError(f"{what}: this cluster asks for a token and there is none here; {remedy}")
    if not _answers(address, token):
        raise UserError(f"{what}: the token of {token.source} is not this cluster's; {remedy}")
    return True


def _answers(address: str, token: Token | None) -> bool:
    """Whether the head at ``address`` accepts ``token``.

    Raises:
        UserError: no Ray answers there.
    """
    import grpc

    def as_they_are(message: bytes) -> bytes:
        return message

    metadata = [("authorization", f"Bearer {token.text}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        # What Ray's own processes ask their head. Its message has no fields: nothing need be encoded.
        ask = channel.unary_unary(
            "/ray.rpc.NodeInfoGcsService/CheckAlive",
            request_serializer=as_they_are,
            response_deserializer=as_they_are,
        )
        try:
            ask(b"", timeout=ANSWER_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            reason = " ".join(str(error.details()).rpartition("last error: ")[2].split())
            raise UserError(
                f"address {address!r}: no Ray head answers there ({reason}); give HOST:PORT of `ray start --head`, "
                "whose port is 6379 unless --port says otherwise"
            ) from error
    return True


def running_head() -> str | None:
    """HOST:PORT of the cluster that ``auto`` means: RAY_ADDRESS, or one that has a node on this machine."""
    from ray._private import services  # what ray.init asks; we must know the address before Ray does

    try:
        address: str = services.get_ray_address_from_environment("auto", None)
    except ConnectionError:
        return None
    return address


def head_address(address: str) -> str:
    """HOST:PORT of the cluster that ``address`` means.

    Raises:
        UserError: not of a form that can be joined, or there is no cluster.
    """
    where = running_head() if address == "auto" else address
    if where is None:
        raise UserError(
            "address 'auto': no Ray cluster has a node on this machine; run `ray start --head` or "
            "`ray start --address=HOST:PORT` here first, or leave --address out to start one for this run"
        )
    if "://" in where:
        raise UserError(
            f"address {where!r}: Ray's client protocol can't carry unrolls; run on a node of the cluster and give "
            "auto, or HOST:PORT of its head"
        )
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"address {where!r} must be auto or HOST:PORT, such as 10.0.0.5:6379")
    return where


def stay_on_loopback(stay: bool) -> None:
    """Whether Ray takes 127.0.0.1 for this machine's address, and listens there only.

    Otherwise it replaces 127.0.0.1 by the address of a network card, even where it was given, and listens on all.
    """
    from ray._private import ray_constants  # the public way is a variable that is read at import

    ray_constants.ENABLE_RAY_CLUSTER = not stay


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def describe() -> str:
    """Ray's version, the token, and the cluster that ``--address auto`` joins, in one line."""
    if importlib.util.find_spec("ray") is None:
        return "not installed"
    parts = [f"version {importlib.metadata.version('ray')}"]
    for line in (_token_line, _head_line):
        try:
            parts.append(line())
        except UserError as error:
            parts.append(str(error))
    return "; ".join(parts)


def _token_line() -> str:
    token = find_token()
    if token is None:
        return "no token yet, the first cluster started here makes one"
    others_read = token.source != TOKEN and Path(token.source).stat().st_mode & 0o077
    return f"token in {token.source}" + (f", which others can read (chmod 600 {token.source})" if others_read else "")


def _head_line() -> str:
    address = running_head()
    if address is None:
        return "no cluster on this machine"
    return f"cluster at {address} asks for {'our token' if authentication_of(address) else 'NO token'}"
