"""What does a small JSON file hold, and if it is not there or damaged, what is to be done?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtrap_data.errors import UsageError
from vtrap_data.parsing import parse_json


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        path: The file.
        remedy: What makes a good one, for the message.

    Raises:
        UsageError: There is no such file, or it holds something else.
    """
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no JSON object; {remedy}")
    return data
