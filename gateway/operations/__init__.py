"""The administrative operations: one table, whoever asks (the admin API, the control socket, a command that owns the store)."""
