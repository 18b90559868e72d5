"""What goes into every instance: ssh server, sftp, first process, init script, keys.

``build`` makes it from Debian packages, ``installed`` says what a driver must know of it,
``base_image`` makes a Debian image without a registry. What it does inside an instance is told
in docs/guest.md, next to the paths that users and drivers may rely on.
"""
