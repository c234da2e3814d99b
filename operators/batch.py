"""Gathers the questions of many waiting triggers of one process into single queries, made in a thread."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(ABC, Generic[Question, Answer]):
    """Questions that arrive within `gather_s` of one another are one query."""

    def __init__(self, gather_s: float) -> None:
        self._gather_s = gather_s
        self._waiting: dict[Question, asyncio.Future[Answer]] = {}
        self._round: asyncio.Task[None] | None = None

    @abstractmethod
    def query(self, questions: list[Question]) -> list[Answer]:
        """The answers, in the order of the questions; runs in a thread, and may raise."""

    async def ask(self, question: Question) -> Answer:
        """The answer; raises what the query raised."""
        if question not in self._waiting:
            self._waiting[question] = asyncio.get_running_loop().create_future()
        answer = self._waiting[question]
        if self._round is None:
            self._round = asyncio.create_task(self._answer())
        return await asyncio.shield(answer)  # one asker's cancellation is not the others'

    async def _answer(self) -> None:
        await asyncio.sleep(self._gather_s)
        asked, self._waiting, self._round = self._waiting, {}, None
        try:
            answers = await asyncio.to_thread(self.query, list(asked))
        except Exception as error:  # whatever the query raises, all askers are told
            for future in asked.values():
                future.set_exception(error)
                future.exception()  # an asker that has gone must not make a warning of it
            return
        for future, answer in zip(asked.values(), answers, strict=True):
            future.set_result(answer)
