"""What can be launched: ``tidemill image`` and ``tidemill region``."""

from __future__ import annotations

from tidemill.cli.connection import connected
from tidemill.cli.lazy import commands
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, show_rows
from tidemill.cli.table import Column
from tidemill.cli.telling import NOTHING

image = commands("Images that instances are launched from.")
region = commands("Regions that take launches.")


@image.command("list")
def list_images(server: ServerOption = None, output: Output = Form.TABLE) -> None:
    """List the images."""
    with connected(server) as client:
        rows = client.catalogue.images()
    columns = [
        Column("NAME", lambda row: row.imageName),
        Column("ID", lambda row: row.imageId, firm=True),
        Column("DESCRIPTION", lambda row: row.description or NOTHING),
    ]
    show_rows(rows, columns, output, name=lambda row: row.imageName, empty="There is no image.")


@region.command("list")
def list_regions(server: ServerOption = None, output: Output = Form.TABLE) -> None:
    """List the regions."""
    with connected(server) as client:
        rows = client.catalogue.regions()
    columns = [
        Column("NAME", lambda row: row.regionName),
        Column("ID", lambda row: row.regionId, firm=True),
        Column("ADDRESS", lambda row: row.sshAddress),
    ]
    show_rows(rows, columns, output, name=lambda row: row.regionName, empty="There is no region.")
