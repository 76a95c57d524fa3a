"""What is accepted means the same to a hop that decodes, resolves dots, merges slashes or drops parameters."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.handler import Route, Routes
from gateway.spelling import is_plain_path, is_plain_uri

TOKENS = [
    "/", "/", "/", "a", "api", "v1", "private", "hr", "x", ".", "..", ";", ";a=b", "~", "-", "_", ":", "@", "%", "%7", "%zz",
    "%70", "%50", "%68", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", "%00", "%0a", "%1F", "%7f", "%7e", "%2d", "%5F", "%30",
    "%20", "%C3%A9", "%c3%a9", "%25", "%2570", "%3b", "%3F", "%23", "\\", "\n", " ", "\u00e9", "\udc80", "\x7f", "?", "#",
]  # fmt: skip
TEXT = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=8).map("".join),
    st.text(max_size=8),
    st.text("/%.;0123456789abcdefABCDEF", max_size=8),
)


async def _nothing(*_: object) -> web.StreamResponse:
    return web.Response()


def _for(*needed: str) -> dict[str, Route]:
    return {"GET": Route(_nothing, needed)}


ROUTES = Routes(
    {"/api/v1": _for("outer"), "/api/v1/private": _for("inner")},
    {"/api/v1/": _for("outer"), "/api/v1/private/": _for("inner"), "/api/v1/private/x/": _for("innermost")},
)


@settings(max_examples=1500)
@given(st.sampled_from(["/", "/api/v1/", "/api/v1/private/", "/api/v1/p", ""]), TEXT)
def test_an_accepted_path_is_chosen_alike_before_and_after_decoding(start: str, rest: str) -> None:
    path = start + rest
    if not is_plain_path(path):
        return
    decoded = unquote(path)
    segments = decoded.split("/")
    assert segments == [unquote(segment) for segment in path.split("/")]
    assert not {".", ".."} & set(segments)
    assert "" not in segments[1:-1]
    for reading in (decoded, posixpath.normpath(decoded) + "/" * (decoded.endswith("/") and decoded != "/")):
        assert ROUTES.methods(reading) == ROUTES.methods(path)


@settings(max_examples=1500)
@given(st.sampled_from(["file:///", "file:///pub/", "file:///hr/", "file:///h", "file://", "file:"]), TEXT)
def test_an_accepted_uri_names_the_same_file_after_decoding(start: str, rest: str) -> None:
    uri = start + rest
    if not is_plain_uri(uri):
        return
    path = uri.removeprefix("file:").removeprefix("//")
    read = posixpath.normpath(unquote(path))
    assert read.startswith("/hr/") is path.startswith("/hr/")
    assert (read == "/hr") is (path == "/hr")


@pytest.mark.parametrize("octet", range(0x80))
@pytest.mark.parametrize("form", ["%{:02x}", "%{:02X}"])
def test_an_escape_is_needed_or_refused(octet: int, form: str) -> None:
    escaped = form.format(octet)
    allowed = chr(octet) in " !\"#$%&'()*+,:;<=>?@[]^`{|}"
    assert is_plain_path(f"/a{escaped}b") is allowed
    assert is_plain_uri(f"x://a/b{escaped}c") is allowed


@pytest.mark.parametrize(
    "uri",
    [
        "https://SECRET.example/x",
        "HTTPS://secret.example/x",
        "https://secret.example:443/x",
        "http://secret.example:80",
        "wss://secret.example:0443/x",
        "https://secret.example:/x",
        "https://secret.example./x",
        "https://any@secret.example/x",
        "https://secret%EF%BC%8Eexample/x",
        "https:/secret.example/x",
        "https:secret.example/x",
        "http://127.1/x",
        "http://2130706433/x",
        "http://0x7f.0.0.1/x",
        "http://127.0.0.0x1/x",
        "http://[::0]/x",
        "http://[0::1]/x",
        "http:///x",
    ],
)
def test_a_host_that_is_spelled_in_another_way_is_not_plain(uri: str) -> None:
    assert not is_plain_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://secret.example/x",
        "https://secret.example:8443/x?y#z",
        "http://secret.example:443",
        "http://127.0.0.1:8080/x",
        "http://[::1]/x",
        "ws://a_b.xn--caf-dma/x",
        "everything://Item/x",
        "mail://alice@example.org/1",
    ],
)
def test_an_ordinary_host_is_plain(uri: str) -> None:
    assert is_plain_uri(uri)


@pytest.mark.parametrize(
    "path",
    ["/", "/a", "/a/", "/a.b/..c/d..", "/...", "/a%20b/c", "/caf%C3%A9", "/a:b/@c,d/!$&'()*+=", "/a%3Bb"],
)
def test_ordinary_paths_are_plain(path: str) -> None:
    assert is_plain_path(path)
