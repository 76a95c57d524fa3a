"""The edge: what a request and its answer look like on the wire. Nothing behind it sees a header that a client made up."""
