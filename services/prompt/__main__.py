"""`python -m services.prompt ORDER.json`: a prompt worker, as its pool starts it (by way of payloads.runner)."""

from __future__ import annotations

import faulthandler
import logging
import sys
from pathlib import Path

from backbone.messages.opened import open_transport
from backbone.messages.prompt import WorkerOrder
from services.prompt.science import NullScience, Science
from services.prompt.worker import Worker


def main() -> int:
    """Entry point."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    order = WorkerOrder.model_validate_json(Path(sys.argv[1]).read_text())
    transport = open_transport(order.messages, Path(order.home))
    return Worker(order, transport, science_of(order)).run()


def science_of(order: WorkerOrder) -> Science:
    """The payload that an order names."""
    if order.science == "null":
        return NullScience()
    from services.prompt.chain import PromptChain

    return PromptChain(order)


if __name__ == "__main__":
    sys.exit(main())
