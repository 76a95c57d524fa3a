"""Requests that two hops could read differently, or that are none: each by name, as the bytes on the wire.

``{}`` in a request stands for a mark of its own, by which a leak is found. All are sent by a client that may do
everything, so nothing but their form keeps them out.
"""

from __future__ import annotations

from typing import Final

H: Final = "Host: localhost\r\n"
SERVICE: Final = "POST /mirror/{} HTTP/1.1\r\n" + H
READ: Final = "GET /mirror/{} HTTP/1.1\r\n"
CALL: Final = (
    '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"note","arguments":{{"mark":"{}"}}}}}}'
)
MCP: Final = "POST /mcp HTTP/1.1\r\n" + H + "Content-Type: application/json\r\n"
CHUNKED: Final = "Transfer-Encoding: chunked\r\n"
HELLO: Final = "5\r\nhello\r\n0\r\n\r\n"
SMUGGLED: Final = "GET /mirror/{}smuggled HTTP/1.1\r\n" + H + "\r\n"


def _mcp(fields: str, body: str = CALL) -> str:
    return f"{MCP}{fields}\r\n{body}"


_FRAMING: Final = {
    "te and length": f"{SERVICE}{CHUNKED}Content-Length: 5\r\n\r\n{HELLO}",
    "length and te": f"{SERVICE}Content-Length: 5\r\n{CHUNKED}\r\n{HELLO}",
    "te in http/1.0": f"POST /mirror/{{}} HTTP/1.0\r\n{H}{CHUNKED}\r\n{HELLO}",
    "gzip, chunked": f"{SERVICE}Transfer-Encoding: gzip, chunked\r\n\r\n{HELLO}",
    "chunked, gzip": f"{SERVICE}Transfer-Encoding: chunked, gzip\r\n\r\n{HELLO}",
    "te twice": f"{SERVICE}{CHUNKED}{CHUNKED}\r\n{HELLO}",
    "te twice, one identity": f"{SERVICE}{CHUNKED}Transfer-Encoding: identity\r\n\r\n{HELLO}",
    "te identity": f"{SERVICE}Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
    "te unknown": f"{SERVICE}Transfer-Encoding: xchunked\r\n\r\n{HELLO}",
    "te with a control character": f"{SERVICE}Transfer-Encoding: \x0bchunked\r\n\r\n{HELLO}",
    "te quoted": f'{SERVICE}Transfer-Encoding: "chunked"\r\n\r\n{HELLO}',
    "te empty": f"{SERVICE}Transfer-Encoding: \r\nContent-Length: 5\r\n\r\nhello",
    "te name with a space": f"{SERVICE}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n{HELLO}",
    "te name with a tab": f"{SERVICE}Transfer-Encoding\t: chunked\r\nContent-Length: 5\r\n\r\n{HELLO}",
    "te folded": f"{SERVICE}Transfer-Encoding:\r\n chunked\r\n\r\n{HELLO}",
    "length twice, different": f"{SERVICE}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length twice, the same": f"{SERVICE}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length as a list": f"{SERVICE}Content-Length: 5, 5\r\n\r\nhello",
    "length with a sign": f"{SERVICE}Content-Length: +5\r\n\r\nhello",
    "length negative": f"{SERVICE}Content-Length: -1\r\n\r\nhello",
    "length hexadecimal": f"{SERVICE}Content-Length: 0x5\r\n\r\nhello",
    "length with a fraction": f"{SERVICE}Content-Length: 5.0\r\n\r\nhello",
    "length with an underscore": f"{SERVICE}Content-Length: 1_0\r\n\r\nhellohello",
    "length empty": f"{SERVICE}Content-Length: \r\n\r\nhello",
    "length beyond 64 bits": f"{SERVICE}Content-Length: 99999999999999999999999\r\n\r\nhello",
    "length with words": f"{SERVICE}Content-Length: 5 five\r\n\r\nhello",
    "chunk size that is none": f"{SERVICE}{CHUNKED}\r\nzz\r\nhello\r\n0\r\n\r\n",
    "chunk size negative": f"{SERVICE}{CHUNKED}\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk size with 0x": f"{SERVICE}{CHUNKED}\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": f"{SERVICE}{CHUNKED}\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": f"{SERVICE}{CHUNKED}\r\n3\r\nhello\r\n0\r\n\r\n",
    "second chunk without a size": f"{SERVICE}{CHUNKED}\r\n5\r\nhello\r\n\r\n0\r\n\r\n",
    "chunk with bare line feeds": f"{SERVICE}{CHUNKED}\r\n5\nhello\n0\n\n",
    "chunk extension of 200 KB": f"{SERVICE}{CHUNKED}\r\n5;x={'a' * 200_000}\r\nhello\r\n0\r\n\r\n",
    "chunk extension with a bare line feed": f"{SERVICE}{CHUNKED}\r\n5;x\nhello\r\n0\r\n\r\n",
    "many chunk extensions": f"{SERVICE}{CHUNKED}\r\n" + f"1;x={'a' * 1000}\r\na\r\n" * 100 + "0\r\n\r\n",
    "trailers without end": f"{SERVICE}{CHUNKED}\r\n5\r\nhello\r\n0\r\n" + f"X-T: {'a' * 1000}\r\n" * 200 + "\r\n",
    "upgrade with a body that is a request": (
        f"{SERVICE}Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 55\r\n\r\n{SMUGGLED}"
    ),
    "mcp: upgrade with a body that is a request": (
        f"{MCP}Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 55\r\n\r\n{SMUGGLED}"
    ),
    "mcp: te and length": _mcp(f"{CHUNKED}Content-Length: 5\r\n"),
    "mcp: te in http/1.0": f"POST /mcp HTTP/1.0\r\n{H}Content-Type: application/json\r\n{CHUNKED}\r\n{HELLO}",
}  # fmt: skip
_FIELDS: Final = {
    "no host": f"{READ}\r\n",
    "host twice": f"{READ}{H}{H}\r\n",
    "host empty": f"{READ}Host:\r\n\r\n",
    "host of somebody else": f"{READ}Host: evil.example\r\n\r\n",
    "host with a user": f"{READ}Host: user@localhost\r\n\r\n",
    "host with a user and a password": f"{READ}Host: localhost:8443@evil.example\r\n\r\n",
    "host as a list": f"{READ}Host: localhost, evil.example\r\n\r\n",
    "host with a path": f"{READ}Host: localhost/evil\r\n\r\n",
    "host with two ports": f"{READ}Host: localhost:1:2\r\n\r\n",
    "host with a space": f"{READ}Host: local host\r\n\r\n",
    "host with an unclosed bracket": f"{READ}Host: [::1\r\n\r\n",
    "host with a null byte": f"{READ}Host: localhost\x00.evil.example\r\n\r\n",
    "origin of somebody else": f"{READ}{H}Origin: https://evil.example\r\n\r\n",
    "origin null": f"{READ}{H}Origin: null\r\n\r\n",
    "origin twice": f"{READ}{H}Origin: https://localhost\r\nOrigin: https://localhost\r\n\r\n",
    "origin with a user": f"{READ}{H}Origin: https://localhost@evil.example\r\n\r\n",
    "underscore for host": f"{READ}{H}X_Forwarded_For: 1.2.3.4\r\n\r\n",
    "underscore for length": f"{SERVICE}Content_Length: 5\r\n\r\n",
    "field name with a space": f"{READ}{H}X Bad: 1\r\n\r\n",
    "field name with a trailing space": f"{READ}{H}X-Bad : 1\r\n\r\n",
    "field name empty": f"{READ}{H}: 1\r\n\r\n",
    "field name of other bytes": f"{READ}{H}X-B\u00e4d: 1\r\n\r\n",
    "field name with a null byte": f"{READ}{H}X-B\x00d: 1\r\n\r\n",
    "field without a colon": f"{READ}{H}nonsense\r\n\r\n",
    "field folded": f"{READ}{H}X-Folded: a\r\n b\r\n\r\n",
    "first field folded": f"{READ} Host: localhost\r\n{H}\r\n",
    "value with a bare carriage return": f"{READ}{H}X-Bad: a\rX-Evil: b\r\n\r\n",
    "value with a bare line feed": f"{READ}{H}X-Bad: a\nX-Evil: b\r\n\r\n",
    "value with a null byte": f"{READ}{H}X-Bad: a\x00b\r\n\r\n",
    "value with a control character": f"{READ}{H}X-Bad: a\x08b\r\n\r\n",
    "bare line feeds throughout": "GET /mirror/{} HTTP/1.1\nHost: localhost\n\n",
    "a field of 20 KB": f"{READ}{H}X-Big: {'a' * 20_000}\r\n\r\n",
    "two hundred fields": READ + H + "".join(f"X-{n}: 1\r\n" for n in range(200)) + "\r\n",
    "content type twice": f"{SERVICE}Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n\r\n",
    "range twice": f"{READ}{H}Range: bytes=0-1\r\nRange: bytes=0-9\r\n\r\n",
    "method overridden": f"{READ}{H}X-HTTP-Method-Override: DELETE\r\n\r\n",
    "method overridden, in small letters": f"{READ}{H}x-method-override: delete\r\n\r\n",
    "path overridden": f"{READ}{H}X-Original-URL: /admin\r\n\r\n",
    "path rewritten": f"{READ}{H}X-Rewrite-URL: /admin\r\n\r\n",
    "authorization twice": f"{READ}{H}Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "authorization and an api key": f"{READ}{H}Authorization: Bearer a\r\nX-API-Key: b\r\n\r\n",
    "request id twice": f"{READ}{H}X-Request-ID: a\r\nX-Request-ID: b\r\n\r\n",
    "content encoding unknown": f"{SERVICE}Content-Encoding: zstd\r\nContent-Length: 5\r\n\r\nhello",
    "content encoding gzip, and none it is": f"{SERVICE}Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "expectation unknown": f"{SERVICE}Expect: a-pony\r\nContent-Length: 5\r\n\r\nhello",
    "upgrade to http/2": (
        f"{READ}{H}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    ),
    "mcp: session twice": _mcp("Mcp-Session-Id: a\r\nMcp-Session-Id: b\r\nContent-Length: 0\r\n", ""),
    "mcp: revision twice": _mcp(
        "MCP-Protocol-Version: 2025-06-18\r\nMCP-Protocol-Version: 2025-03-26\r\nContent-Length: 0\r\n", ""
    ),
    "mcp: keys twice": _mcp(
        "Content-Length: 108\r\n",
        '{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"note","name":"x","arguments":{{"m":"{}"}}}}}}',
    ),
}  # fmt: skip
_TARGETS: Final = {
    "absolute form": f"GET http://localhost/mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "absolute form of another host": f"GET http://evil.example/mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "authority form": f"GET localhost:443 HTTP/1.1\r\n{H}X-Mark: {{}}\r\n\r\n",
    "connect": f"CONNECT localhost:443 HTTP/1.1\r\n{H}X-Mark: {{}}\r\n\r\n",
    "asterisk": f"OPTIONS * HTTP/1.1\r\n{H}X-Mark: {{}}\r\n\r\n",
    "no slash": f"GET mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "two slashes": f"GET //mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "an empty segment": f"GET /mirror//{{}} HTTP/1.1\r\n{H}\r\n",
    "dot segments": f"GET /mirror/../mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "encoded dots": f"GET /mirror/%2e%2e/mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "half-encoded dots": f"GET /mirror/.%2E/mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "encoded slash": f"GET /mirror/%2F{{}} HTTP/1.1\r\n{H}\r\n",
    "encoded backslash": f"GET /mirror/%5C{{}} HTTP/1.1\r\n{H}\r\n",
    "backslash": f"GET /mirror\\{{}} HTTP/1.1\r\n{H}\r\n",
    "encoded letter": f"GET /mirr%6fr/{{}} HTTP/1.1\r\n{H}\r\n",
    "encoded letter within": f"GET /mirror/%61{{}} HTTP/1.1\r\n{H}\r\n",
    "encoded null byte": f"GET /mirror/%00{{}} HTTP/1.1\r\n{H}\r\n",
    "encoded line break": f"GET /mirror/%0d%0a{{}} HTTP/1.1\r\n{H}\r\n",
    "broken escape": f"GET /mirror/%zz{{}} HTTP/1.1\r\n{H}\r\n",
    "path parameter": f"GET /mirror/..;/{{}} HTTP/1.1\r\n{H}\r\n",
    "fragment": f"GET /mirror/{{}}#x HTTP/1.1\r\n{H}\r\n",
    "space in the target": f"GET /mirror/a b{{}} HTTP/1.1\r\n{H}\r\n",
    "tab in the target": f"GET /mirror/a\tb{{}} HTTP/1.1\r\n{H}\r\n",
    "control character in the target": f"GET /mirror/\x01{{}} HTTP/1.1\r\n{H}\r\n",
    "other bytes in the target": f"GET /mirror/\u00e4{{}} HTTP/1.1\r\n{H}\r\n",
    "control character in the query": f"GET /mirror/{{}}?a=\x01 HTTP/1.1\r\n{H}\r\n",
    "other bytes in the query": f"GET /mirror/{{}}?a=\u00e4 HTTP/1.1\r\n{H}\r\n",
    "target of 20 KB": f"GET /mirror/{{}}{'a' * 20_000} HTTP/1.1\r\n{H}\r\n",
    "garbage": "GARBAGE {}\r\n\r\n",
    "http/0.9": "GET /mirror/{}\r\n\r\n",
    "http/1.2": f"GET /mirror/{{}} HTTP/1.2\r\n{H}\r\n",
    "http/2": f"GET /mirror/{{}} HTTP/2.0\r\n{H}\r\n",
    "http/2 preface": "PRI * HTTP/2.0\r\n\r\nSM {}\r\n\r\n",
    "http spelled otherwise": f"GET /mirror/{{}} HTTQ/1.1\r\n{H}\r\n",
    "version with more digits": f"GET /mirror/{{}} HTTP/1.10\r\n{H}\r\n",
    "method in small letters": f"get /mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "method with a null byte": f"GE\x00T /mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "method unknown": f"BREW /mirror/{{}} HTTP/1.1\r\n{H}\r\n",
    "words after the version": f"GET /mirror/{{}} HTTP/1.1 x\r\n{H}\r\n",
}  # fmt: skip

CORPUS: Final = {**_FRAMING, **_FIELDS, **_TARGETS}
"""By name."""
UNFRAMED: Final = frozenset(_FRAMING) - {"mcp: upgrade with a body that is a request"}
"""After these nobody can know where the next request would begin: nothing more may be read on the connection."""


def request(name: str, mark: str) -> bytes:
    """The request with its mark, and one more behind it where its own end is in doubt."""
    text = CORPUS[name].replace("{}", mark).replace("{{", "{").replace("}}", "}")
    return text.encode("utf-8") + (SMUGGLED.replace("{}", mark).encode() if name in UNFRAMED else b"")
