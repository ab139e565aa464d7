"""Stand-ins for tests: each passes the same behaviour battery as the real thing."""
