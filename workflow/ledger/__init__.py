"""The truth about coverage. Reading order: tables, audit, nights (what is written), store (opened, written in bulk, migrated)."""

from workflow.ledger import audit as audit  # its tables belong to the metadata
from workflow.ledger import nights as nights  # and so do these
from workflow.ledger.store import Ledger

__all__ = ["Ledger"]
