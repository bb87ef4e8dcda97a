"""What the catalogues of codes and of kinds of events have in common: a word that is stored, with its meaning."""

from enum import StrEnum
from typing import Self


class Catalogue(StrEnum):
    """Members are written as (word, meaning) or (word, meaning, remedy). ``meaning`` is a sentence for people; ``remedy`` is
    the smallest remedy, empty if the condition passes by itself or needs no action."""

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str, remedy: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.remedy = meaning, remedy
        return member

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """Keep an unknown word, written by a newer version, unchanged."""
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.upper(), value
        member.meaning = member.remedy = ""
        return member

    @classmethod
    def of(cls, value: str) -> Self:
        """The member with that word. Raises KeyError if there is none."""
        return cls.__members__[value.upper()]
