"""What ``make bench`` runs: the gateway's speed beside its peers', in one alternating run on one machine.

``machine`` pins processes to cores and reads their CPU time and memory; ``upstream`` is the MCP server behind every
target; ``identities`` makes certificates and tokens; ``targets`` says what a target is, ``peers`` and ``ostiary`` start
them; ``load`` drives wrk. On these stand four measurements, a module each: ``calls``, ``latency``, ``idle`` and
``handshakes``. ``soak`` lets the gateway work for long, with clients of ``soak_client``. ``journal`` measures the store's journal by itself.
"""
