"""A TLS 1.3 client that sends nothing but KeyUpdate messages: ``key_updates.py PORT NUMBER``.

Python's ssl module cannot send them, so this speaks to OpenSSL itself. Prints how many the server took.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
import sys

REQUEST_ONE_BACK = 1
WRITE = 1 << 16


def main(port: int, number: int) -> None:
    openssl = ctypes.CDLL(ctypes.util.find_library("ssl"))
    for name in ("SSL_CTX_new", "SSL_new", "TLS_client_method"):
        getattr(openssl, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(openssl.SSL_CTX_new(ctypes.c_void_p(openssl.TLS_client_method())))
    connection = ctypes.c_void_p(openssl.SSL_new(context))
    with socket.create_connection(("127.0.0.1", port)) as plain:
        openssl.SSL_set_fd(connection, plain.fileno())
        if openssl.SSL_connect(connection) != 1:
            raise SystemExit("no connection")
        taken = 0
        for _ in range(number):
            openssl.SSL_key_update(connection, REQUEST_ONE_BACK)
            if openssl.SSL_do_handshake(connection) != 1:
                break
            taken += 1
        print(taken, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
