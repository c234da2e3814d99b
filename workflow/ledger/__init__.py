"""The truth about coverage. Reading order: tables (what is written), store (opened, written in bulk, migrated)."""

from workflow.ledger.store import Ledger

__all__ = ["Ledger"]
