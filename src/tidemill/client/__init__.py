"""The Python client of tidemill, and of HPC-AI Cloud for what both have.

>>> from tidemill.client import Client
>>> with Client("https://gpu.example.org", api_key="tm_...") as client:  # doctest: +SKIP
...     made = client.instances.launch("train", type="1x H100", image="PyTorch")
...     row = client.instances.wait_until_running(made)

What is asked and answered are the models of ``tidemill.wire``. ``AsyncClient`` has the same calls, to be
awaited. All that is raised is below ``errors.ClientError``.
"""

from tidemill.client import errors
from tidemill.client.client import AsyncClient, Client
from tidemill.client.errors import ClientError
from tidemill.client.sending import Retries
from tidemill.client.service import Service

__all__ = ["AsyncClient", "Client", "ClientError", "Retries", "Service", "errors"]
