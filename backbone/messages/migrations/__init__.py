"""The message store's migrations."""
