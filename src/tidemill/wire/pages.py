"""Pages of lists: which one is asked for, and which one it is."""

from __future__ import annotations

from typing import Annotated

from tidemill.wire.answers import Answer
from tidemill.wire.fields import Request, Whole
from tidemill.wire.limits import PAGE_SIZE_MOST


class Pager(Request):
    """Which page; the first is 1."""

    currentPage: Annotated[int, Whole(1)]
    pageSize: Annotated[int, Whole(1, PAGE_SIZE_MOST)]

    @property
    def offset(self) -> int:
        """How many entries come before the page."""
        return (self.currentPage - 1) * self.pageSize


class PagerInfo(Answer):
    """Which page this is, and how many entries there are on all."""

    currentPage: int = 1
    pageSize: int = 0
    totalEntries: int

    @classmethod
    def of(cls, pager: Pager, total: int) -> PagerInfo:
        return cls(currentPage=pager.currentPage, pageSize=pager.pageSize, totalEntries=total)
