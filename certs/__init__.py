"""Certificates, on their own: nothing here knows the gateway or its store.

- ``identity``   a certificate becomes a ``PeerIdentity``; ordered rules make a ``client_id`` of it. Pure.
- ``contexts``   PEM files become an ``ssl.SSLContext``, once every problem in them has been looked for.
- ``authority``  a development CA in a folder: issue, list, revoke.
- ``issuer``     a CA's signature on certificates and CRLs; touches no file.
- ``description``  what a certificate says of itself, in the standards' words.
- ``names``      a subject alternative name as text, and back. Pure.
- ``pem``        PEM files: read, create (never wider than asked for), replace.

Whatever is wrong with a certificate, key or revocation list is a ``CertificateError`` that says what to do.
"""
