"""The way to the database: each fault is one line that says what to do, and none shows the password."""

import psycopg
import pytest

from mqtt_service.adoption.database import connect, listed
from mqtt_service.errors import ConfigurationError

SECRET = "s3cr3t"


def fault_of(url: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        connect(url)
    [fault] = refused.value.faults
    assert "\n" not in fault
    assert SECRET not in fault
    return fault


def test_no_url_is_said() -> None:
    assert fault_of(" ") == "the URL of the database (--database-url or SUPABASE_DB_URL) is not set"


@pytest.mark.parametrize("character", "@:/?#%[")
def test_a_password_that_is_not_encoded_is_never_shown(character: str) -> None:
    for password in (
        f"a{character}{SECRET}",
        f"{SECRET}{character}a",
        f"1{character}{SECRET}",
        character + SECRET,
    ):
        fault = fault_of(f"postgresql://postgres:{password}@127.0.0.1:1/postgres")
        assert "password" in fault or "nothing listens there" in fault


@pytest.mark.parametrize("url", ["https://project.example.test", "postgres", f"host=x {SECRET} y"])
def test_what_is_no_connection_string_is_said(url: str) -> None:
    assert "cannot be read" in fault_of(url)


def test_the_pooler_in_transaction_mode_is_refused_with_the_one_to_take() -> None:
    fault = fault_of(f"postgresql://postgres.ref:{SECRET}@pooler.example.test:6543/postgres")
    assert "transaction mode" in fault
    assert "Session pooler, port 5432" in fault


def test_a_host_where_nothing_listens_is_named() -> None:
    fault = fault_of(f"postgresql://postgres:{SECRET}@127.0.0.1:1/postgres")
    assert fault == "no connection to 127.0.0.1:1: nothing listens there: check host and port"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (
            'could not translate host name "db.example.test" to address: Name or service not known',
            "no such host",
        ),
        ("failed to resolve host 'db.example.test': [Errno -2] Name or service not known", "IPv6 alone"),
        ("connection is bad: Network is unreachable", "this machine does not reach it"),
        ("connection timeout expired", "no answer: check the host, and whether a firewall is between"),
        ('FATAL:  password authentication failed for user "postgres"', "the password or the user is wrong"),
        ("FATAL:  Tenant or user not found", "it is postgres.<project ref>"),
        ('FATAL:  database "x" does not exist', "there is no such database or user"),
        ("FATAL:  sorry, too many clients already", "no connection left"),
        ("some error\nof another kind", "of another kind"),
    ],
)
def test_what_a_server_or_the_network_says_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, words: str, advice: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise psycopg.OperationalError(words)

    monkeypatch.setattr(psycopg, "connect", refuse)
    fault = fault_of(f"postgresql://postgres:{SECRET}@db.example.test:5432/postgres")
    assert fault.startswith("no connection to db.example.test:5432: ")
    assert advice in fault


def test_a_long_list_is_cut() -> None:
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed(["a", "b"], 2) == "a, b"
