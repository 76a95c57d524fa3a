"""The other side: what a person or a program that calls a gateway needs.

- ``private_folder``: files that nobody else may read.
- ``identities``: which gateways are known, with what to present there, and the tokens; in files or in the keyring.
- ``answers``: what comes from a gateway, checked at the border.
- ``session``: signed in at one gateway: tokens got, kept fresh, ended.
- ``tools``: lists and calls, one request at a time.
- ``bridge``: a whole MCP connection, from standard input and output to the gateway.

Nothing of the gateway itself imports this room.
"""
