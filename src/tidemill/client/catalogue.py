"""Calls about what can be rented."""

from __future__ import annotations

from tidemill.client.effects import Steps
from tidemill.client.kinds import K, operation
from tidemill.client.modelled import Modelled
from tidemill.wire.accounts import EmptyRequest
from tidemill.wire.catalogue import ImageListAnswer, ImageRow, RegionListAnswer, StockAnswer
from tidemill.wire.regions import RegionInfo


class Catalogue(Modelled[K]):
    """``client.catalogue``."""

    @operation
    def stock(self) -> Steps[StockAnswer]:
        """Every type with its prices and whether it is in stock, by family and region."""
        return (
            yield from self._post(
                "/api/resource/user/instance/list", StockAnswer, EmptyRequest(), repeatable=True
            )
        )

    @operation
    def images(self) -> Steps[list[ImageRow]]:
        """The images that can be launched."""
        answer = yield from self._post(
            "/api/resource/image/list", ImageListAnswer, EmptyRequest(), repeatable=True
        )
        return answer.images

    @operation
    def regions(self) -> Steps[list[RegionInfo]]:
        """The regions that take launches."""
        answer = yield from self._post(
            "/api/resource/region/list", RegionListAnswer, EmptyRequest(), repeatable=True
        )
        return answer.regions
