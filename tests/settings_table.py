"""The configuration table of the README, made from ``Settings``: ``python -m tests.settings_table`` writes it."""

import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from backend.settings import Settings

README = Path(__file__).resolve().parents[1] / "README.md"
_PLACE = re.compile(r"(<!-- settings:[^\n]*-->\n)(.*?)(<!-- end of settings -->)", re.DOTALL)


def settings_table() -> str:
    """Return the table: every setting with its default and its description."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        description = (field.description or "").replace("|", "\\|")
        rows.append(f"| `FORECOURT_{name.upper()}` | {_default(field)} | {description} |")
    return "\n".join(rows)


def table_in(readme: str) -> str:
    """Return the table as it stands in the README."""
    match = _PLACE.search(readme)
    return match[2].strip() if match else ""


def with_table(readme: str, table: str) -> str:
    """Return the README with another table."""
    return _PLACE.sub(lambda match: f"{match[1]}\n{table}\n\n{match[3]}", readme)


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ((), {}, ""):
        return "unset"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(), settings_table()))
