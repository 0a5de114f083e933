"""Where data come from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One file that data are read from, and what is owed to those who made it.

    Attributes:
        name: short name, as used in reports.
        file_name: name of the file in a data directory or in the cache.
        url: public address, or None if there is none to download from.
        sha256: hash of the file, or None if it is not known (its content is then checked instead).
        licence: terms of the data as stated by their publisher.
        citation: what to cite.
    """

    name: str
    file_name: str
    url: str | None
    sha256: str | None
    licence: str
    citation: str
