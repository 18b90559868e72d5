"""``tidemill doctor``: compares database, engine and machine, and says what is not as it should be.

It works beside a running server and without one, and changes nothing unless it is asked to.
"""
