"""Real HTCondor pools on this machine. Reading order: programs, config, pool."""
