"""No setup: the pool is a table of ../pyproject.toml, and SandboxSession needs no fixture."""
