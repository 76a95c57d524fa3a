"""The configuration: ``ostiary.toml`` and the environment, read once into frozen values (``values``)."""
