"""Connections: accepted, their handshake seen to its end, watched while they live, and their files read anew."""
