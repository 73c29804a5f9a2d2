"""Write app.json, Heroku's form of the settings: names from config.py, words from docs/operations.md.

Run it when a setting is new or its row in the table has changed, with the Python of `.venv`.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mqtt_service.config import Settings  # noqa: E402 - the project's folder has to be on the path first

# Heroku chooses it.
NOT_ASKED = {"PORT"}
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ASIDE = re.compile(r" \(" + _LINK.pattern + r"\)")  # a link in brackets says where there is more


def meanings(table: str) -> dict[str, tuple[str, str]]:
    """Setting → its default and its meaning, as the table in docs/operations.md has them, without markup."""
    found = {}
    for line in table.splitlines():
        if line.startswith("| `"):
            names, default, meaning = (_plain(cell) for cell in line.strip("|").split(" | "))
            found.update(dict.fromkeys(names.split(", "), (default, meaning)))
    return found


def _plain(cell: str) -> str:
    return _LINK.sub(r"\1", _ASIDE.sub("", cell)).replace("`", "").strip()


def app_json(operations: str) -> dict[str, Any]:
    """The document, from the text of docs/operations.md. Raises KeyError where a setting has no row."""
    said = meanings(operations.split("\n## Settings\n", 1)[1].split("\n## ", 1)[0])
    env = {
        name.upper(): {"description": _description(*said[name.upper()]), "required": field.is_required()}
        for name, field in Settings.model_fields.items()
        if name.upper() not in NOT_ASKED
    }
    return {
        "name": "mqtt-service",
        "description": "Carries commands from a Supabase project to MQTT devices, and answers back. "
        "Only required settings need a value; durations are seconds.",
        "keywords": ["mqtt", "supabase", "esp32"],
        "success_url": "/health",
        "stack": "heroku-24",
        "buildpacks": [{"url": "heroku/python"}],
        "formation": {"web": {"quantity": 1, "size": "basic"}},
        "env": env,
    }


def _description(default: str, meaning: str) -> str:
    text = meaning[:1].upper() + meaning[1:]
    return text if default in {"required", "none"} else f"{text}. Default: {default}"


def main() -> None:
    """Write app.json anew."""
    document = app_json((ROOT / "docs" / "operations.md").read_text(encoding="utf-8"))
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (ROOT / "app.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
