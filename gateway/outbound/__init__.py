"""What goes out: a pooled HTTP/1.1 client, for upstreams and services."""
