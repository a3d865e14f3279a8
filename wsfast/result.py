"""What a measurement gives back: numbers, a text table, files in a folder."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .files import writable_folder, write_whole


@dataclass
class Result(ABC):
    """numbers: the content of its JSON file. FILES: names of that file and of the page or figure beside it."""

    FILES: ClassVar[tuple[str, str]]
    numbers: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return self.numbers

    @abstractmethod
    def table(self) -> str:
        """The numbers as text."""

    @abstractmethod
    def drawn(self) -> str:
        """The page or figure."""

    def save(self, out: str | Path) -> Path:
        """Write both files into a folder, each whole or not at all; returns the path of the page or figure.

        OSError where the folder cannot be written.
        """
        numbers, picture = self.FILES
        folder = writable_folder(out)
        write_whole(folder / picture, self.drawn())
        write_whole(folder / numbers, json.dumps(self.numbers, indent=1, allow_nan=False) + "\n")
        return folder / picture
