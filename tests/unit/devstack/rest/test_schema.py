"""What the stand-in reads of the catalog while a migration changes it."""

from mqtt_service.devstack.rest.schema import Table, relationships_of

_KEY = {"name": "fk", "pairs": [["site_id", "site_id"]], "is_unique": False}


def test_a_key_of_a_table_that_was_not_there_yet_is_left_out() -> None:
    tables = {name: Table(name, {}, ()) for name in ("sites", "devices")}
    keys = [{**_KEY, "origin": origin, "target": "sites"} for origin in ("devices", "windows")]
    assert [found.target for found in relationships_of(keys, tables)["sites"]] == ["devices"]
