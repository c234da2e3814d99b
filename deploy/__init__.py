"""Start and stop of every real component, site descriptions, the demo, and the `pachon` command that gathers the others'."""
