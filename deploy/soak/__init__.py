"""The backbone's soak: objects put, replicated, read back while all is killed. Reading order: stand, killer, rounds, record."""
