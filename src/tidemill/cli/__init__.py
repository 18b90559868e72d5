"""The commands of those who rent: one file for each noun, and the rooms that they share.

They speak to a server through :mod:`tidemill.client` alone. Nothing here imports the client, Rich or pydantic
before a command is run: ``--help`` and the shell's completion answer at once.
"""
