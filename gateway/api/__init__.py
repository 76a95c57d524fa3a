"""The gateway's own HTTP handlers, a file a concern."""
