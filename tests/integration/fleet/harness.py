"""The command line in this process against an embedded stack, as a person would see it."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from mqtt_service.cli import main

Database = psycopg.Connection[tuple[Any, ...]]
COMPANY = "a0000000-0000-4000-8000-000000000001"
PROGRAM = "a0000000-0000-4000-8000-000000000011"


@dataclass(frozen=True)
class Finished:
    """How a verb ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Finished]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `mqtt-service …` and hands back what it did."""

    def run(*words: str) -> Finished:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["mqtt-service", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Finished(int(ended.value.code or 0), printed.out, printed.err)

    return run


def add_site(database: Database, name: str, devices: int) -> list[str]:
    """A site of company A with so many active devices; returns their codes."""
    database.execute(
        "insert into public.sites (company_id, program_id, name, timezone) values (%s, %s, %s, 'UTC')",
        (COMPANY, PROGRAM, name),
    )
    rows = database.execute(
        """
        insert into public.devices
            (device_mac, device_code, provisioning_status, is_active, company_id, program_id, site_id)
        select upper(substr(md5(%(name)s || n), 1, 12)), %(name)s || '-' || to_char(n, 'FM0000'),
            'active', true, %(company)s, %(program)s, (select site_id from public.sites where name = %(name)s)
        from generate_series(1, %(count)s) n returning device_code
        """,
        {"name": name, "company": COMPANY, "program": PROGRAM, "count": devices},
    ).fetchall()
    return sorted(str(code) for (code,) in rows)
