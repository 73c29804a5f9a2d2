"""The migrations of supabase/: where they are, what each is about, and all of them as one script.

In a clone the folder supabase/ lies beside the package; an installed package carries it inside (see
pyproject.toml). Pure but for reading those files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path
from typing import Any

from mqtt_service import __version__
from mqtt_service.errors import PermanentError

_HEAD = """\
-- mqtt_service {version}: all {count} migrations as one script, printed by `mqtt-service migrations`.
--
-- Paste it into the SQL editor of your Supabase project, or pipe it into psql. It is one statement:
-- either all of it is applied, or the error names the migration that failed and nothing is kept. It can
-- be run again at any time. In a project that had some of these tables before, use psql: it also shows
-- the warnings, which name what was left as it is and say what to do about it.
--
-- The migration history of the official command line (supabase_migrations.schema_migrations) is left
-- alone: once it names a file that your own folder of migrations lacks, `supabase db push` refuses to
-- work. If you add these files to your folder later and push, each is applied once more, which changes
-- nothing, and is recorded then.

do """
_APPLY = """
  migration := '{file}';
  execute {text};
"""
# Without query_canceled, which `others` leaves out, the error of a statement timeout would name no file.
_BLOCK = """\
declare
  migration text;
  message text;
  detail text;
  hint text;
begin
{applications}
  notify pgrst, 'reload schema';
exception
  when others or query_canceled then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    raise exception using
      errcode = sqlstate,
      message = migration || ': ' || message,
      detail = concat_ws(e'\\n', nullif(detail, ''), 'Nothing of the script was applied.'),
      hint = concat_ws(e'\\n', nullif(hint, ''), 'Put this right, and run the whole script again.');
end
"""


@dataclass(frozen=True)
class Migration:
    """One file of migrations: its name, such as `20261127083117_mqtt_service_devices.sql`, and its SQL."""

    file: str
    text: str

    @property
    def version(self) -> str:
        """The digits at its front, under which the official command line records it."""
        return self.file.partition("_")[0]

    @property
    def name(self) -> str:
        """What follows the version."""
        return self.file.removesuffix(".sql").partition("_")[2]

    @property
    def about(self) -> str:
        """The first sentence of the comment at its head."""
        head = takewhile(lambda line: line.startswith("-- "), self.text.splitlines())
        words = " ".join(line.removeprefix("-- ") for line in head)
        return f"{words} ".partition(". ")[0].rstrip(". ") + "."


def supabase_folder() -> Traversable:
    """Return the folder of the migrations and of seed.sql. Raises PermanentError where it is missing."""
    for folder in (files("mqtt_service") / "supabase", Path(__file__).parents[1] / "supabase"):
        if (folder / "migrations").is_dir():
            return folder
    raise PermanentError("The package lacks its folder of migrations: install mqtt-service again.")


def read_migrations(folder: Traversable | None = None) -> list[Migration]:
    """Return the files in `folder` in the order in which they are to be applied; None: the project's own."""
    folder = folder or supabase_folder() / "migrations"
    found = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return [Migration(file.name, file.read_text(encoding="utf-8")) for file in sorted(found, key=_name)]


def as_script(migrations: Sequence[Migration]) -> str:
    """Return one SQL statement that applies all of them or none, and whose error names the file."""
    applications = "".join(
        _APPLY.format(file=each.file, text=_quote(each.text, "file")) for each in migrations
    )
    head = _HEAD.format(version=__version__, count=len(migrations))
    return f"{head}{_quote(_BLOCK.format(applications=applications), 'mqtt_service')};\n"


def as_list(migrations: Sequence[Migration]) -> str:
    """Return a line for each file: its name, and what it is about."""
    width = max((len(each.file) for each in migrations), default=0)
    return "".join(f"{each.file:{width}}  {each.about}\n" for each in migrations)


def as_document(migrations: Sequence[Migration]) -> dict[str, Any]:
    """Return the list as JSON: `{"migrations": [{"file", "version", "name", "about"}, …]}`."""
    return {
        "migrations": [
            {"file": each.file, "version": each.version, "name": each.name, "about": each.about}
            for each in migrations
        ]
    }


def _name(file: Traversable) -> str:
    return file.name


def _quote(text: str, tag: str) -> str:
    """Return a dollar-quoted literal, in which SQL stays readable as it is."""
    while f"${tag}$" in text:
        tag += "_"
    return f"${tag}$\n{text.rstrip()}\n${tag}$"
