"""Figures of the wire that also those need who load no models."""

PAGE_SIZE_MOST = 200  # entries on a page
