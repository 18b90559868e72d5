"""``tidemill audit``: every charge reckoned a second time, and compared with the ledger.

It shares nothing with the code that charges (``model.charging``, ``model.tariff``, ``store.metering``) but
the table of states and the tables of the database, and is as plain as it can be: what it says is to be
believed because everybody can read it. It works beside a running server and without one, and changes nothing.
"""
