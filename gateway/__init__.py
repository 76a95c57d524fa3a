"""Ostiary, the doorkeeper: a gateway that lets each client reach what it may use, and nothing else.

The way of a request, in one direction:

    TLS handshake   tls.listener.TlsListener: the certificate becomes a PeerIdentity, or the handshake is refused and audited
      → edge        the one outer handler: request → Inbound; what a next hop might misread is refused
        → admission   throttle → authenticate → authorize → limit: one ClientContext, or a Deny
          → handler     mcp.endpoint | services.http | the gateway's own api
            → catalogue   decide(entry, context): the second, visible authorization
              → upstream    what goes out, once the intent is durable in the audit
      ← edge        Deny → response by the one table in problems; the outcome goes to the audit, then the reply leaves

Credentials are read once, in ``authn`` (passwords: ``api.oauth``). Everything after it takes a ``ClientContext``, never a header or a claim.
"""

__version__ = "0.1.0"
