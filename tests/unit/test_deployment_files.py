"""The files that hosts read are true to the settings, to each other, and to what their hosts take."""

import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from pydantic import SecretStr

from mqtt_service.config import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = {name.upper(): field for name, field in Settings.model_fields.items()}
REQUIRED = {name for name, field in SETTINGS.items() if field.is_required()}
SECRETS = {
    name
    for name, field in SETTINGS.items()
    if SecretStr in {field.annotation, *getattr(field.annotation, "__args__", ())}
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> Any:
    return yaml.safe_load(read(name))


def dockerfile(word: str) -> list[str]:
    """What follows an instruction, once for each time; lines that go on are joined."""
    return re.findall(rf"^{word} (.+)$", read("Dockerfile").replace("\\\n", " "), re.MULTILINE)


def app_json_script() -> ModuleType:
    path = ROOT / "scripts" / "write_app_json.py"
    spec = importlib.util.spec_from_file_location("write_app_json", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_secrets_are_known() -> None:
    assert {"SUPABASE_SECRET_KEY", "MQTT_PASSWORD"} <= SECRETS


def test_every_host_starts_the_worker_with_the_same_words() -> None:
    expected = ["python", "-m", "mqtt_service", "run"]
    assert read("Procfile").splitlines() == [f"web: {shlex.join(expected)}"]
    (service,) = load("render.yaml")["services"]
    assert shlex.split(service["startCommand"]) == expected
    assert [*json.loads(dockerfile("ENTRYPOINT")[0]), *json.loads(dockerfile("CMD")[0])] == expected


def test_every_host_runs_the_python_that_is_tested() -> None:
    (version,) = read(".python-version").split()
    assert {image.split()[0] for image in dockerfile("FROM")} == {f"python:{version}-slim-bookworm"}


def test_app_json_is_what_its_script_writes() -> None:
    written = app_json_script().app_json(read("docs/operations.md"))
    assert json.loads(read("app.json")) == written, "run scripts/write_app_json.py"


def test_app_json_asks_for_every_setting_and_gives_away_none() -> None:
    env = json.loads(read("app.json"))["env"]
    assert set(env) == set(SETTINGS) - {"PORT"}  # Heroku's
    assert {name for name, entry in env.items() if entry["required"]} == REQUIRED
    assert not [name for name, entry in env.items() if not entry["description"] or "value" in entry]


def test_app_json_has_only_what_heroku_describes() -> None:
    """devcenter.heroku.com/articles/app-json-schema, and the lengths of Heroku's package app.json."""
    document = json.loads(read("app.json"))
    about = {"name", "description", "keywords", "website", "repository", "logo", "success_url"}
    made = {"scripts", "env", "formation", "addons", "buildpacks", "environments", "stack", "image"}
    assert set(document) <= about | made
    assert len(document["name"]) <= 30
    assert len(document["description"]) <= 140
    for entry in document["env"].values():
        assert set(entry) <= {"description", "value", "required", "generator"}


def test_render_asks_for_what_is_required_and_for_secrets_without_a_value() -> None:
    (service,) = load("render.yaml")["services"]
    variables = {variable["key"]: variable for variable in service["envVars"]}
    assert set(SETTINGS) >= set(variables) >= REQUIRED | SECRETS
    for name in REQUIRED | SECRETS:
        assert variables[name] == {"key": name, "sync": False}
    assert service["healthCheckPath"] == "/health"
    assert "free" not in service["plan"]


def test_compose_follows_its_published_schema() -> None:
    jsonschema.validate(load("compose.yaml"), get_builtin_schema("vendor.compose-spec"))


def test_compose_sets_what_exists_and_no_secret() -> None:
    environment = load("compose.yaml")["services"]["worker"]["environment"]
    assert set(environment) <= set(SETTINGS) - SECRETS
    assert environment["MQTT_HOST"] in load("compose.yaml")["services"]


def test_nothing_in_compose_runs_as_root_or_may_write_where_it_need_not() -> None:
    services = load("compose.yaml")["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
    assert services["mosquitto"]["user"].endswith(":-1000:1000}")
    assert all(int(number) > 0 for number in dockerfile("USER")[-1].split(":"))


def test_the_image_has_no_pip_no_compiler_and_only_checked_wheels() -> None:
    (install,) = (line for line in dockerfile("RUN") if "pip" in line and "install" in line)
    assert {"--without-pip", "--require-hashes", ":all:"} <= set(install.split())
    # The last stage installs no package, and takes the environment alone from the first.
    last = read("Dockerfile").rpartition("\nFROM ")[2]
    assert not re.search(r"\b(apt-get|pip|gcc)\b", last)
    assert re.findall(r"--from=build (\S+)", last) == ["/venv"]


def test_only_what_the_image_copies_is_sent_to_its_build() -> None:
    lines = [line for line in read(".dockerignore").splitlines() if not line.startswith("#")]
    copied = {source for source, _ in (line.split() for line in dockerfile("COPY") if "--from" not in line)}
    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "deploying").glob("*.md")), ids=lambda page: page.name
)
def test_pages_name_settings_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\b(?:SUPABASE|MQTT)_[A-Z_]+", text)) <= set(SETTINGS)
    for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        document = tomllib.loads(block)
        assert set(document.get("env", {})) <= set(SETTINGS) - SECRETS
        if "http_service" in document:
            assert document["env"]["PORT"] == str(document["http_service"]["internal_port"])


@pytest.mark.parametrize("name", ["README.md", "docs/deploying/heroku.md"])
def test_the_files_that_hosts_look_for_are_named_where_people_look(name: str) -> None:
    assert "app.json" in read(name)
