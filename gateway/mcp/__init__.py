"""The Model Context Protocol: its messages, the catalogue, the endpoint, and the upstream servers."""
