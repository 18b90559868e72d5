"""Which tidemill this is. Read from here, not from the installed package's notes: those take long to find."""

VERSION = "0.1.0"
