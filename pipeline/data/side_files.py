"""What systems and tools leave beside files, in folders and in the tars made of them."""

from pathlib import PurePosixPath
from typing import Final

# Where macOS, Synology, QNAP, Windows, Python and file systems keep what is theirs, in lower case.
_FOLDERS: Final = frozenset({
    *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__"),
})  # fmt: skip


def is_side_file(path: str) -> bool:
    """Whether a file is hidden (AppleDouble's `._cat.jpg`), or lies in a folder that is, or that a system keeps."""
    *folders, name = PurePosixPath(path).parts or ("",)
    return name.startswith(".") or any(map(is_side_folder, folders))


def is_side_folder(name: str) -> bool:
    """Whether a folder is hidden (`.ipynb_checkpoints`) or one that a system keeps."""
    return (name.startswith(".") and name != "..") or name.lower() in _FOLDERS
