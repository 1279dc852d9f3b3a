"""What a disk may do to a file."""

from __future__ import annotations

from pathlib import Path


def files_of(step: Path) -> list[Path]:
    return [file.relative_to(step) for file in sorted(step.rglob("*")) if file.is_file()]


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
