"""The API keys of a stack."""

import stat
from pathlib import Path

import pytest

from mqtt_service.devstack.keys import InvalidTokenError, JwtKeys

USER = "a0000000-0000-4000-8000-0000000000e1"


@pytest.fixture
def keys() -> JwtKeys:
    return JwtKeys("s" * 40, clock=lambda: 1_700_000_000.0)


def test_each_key_claims_its_role(keys: JwtKeys) -> None:
    roles = [keys.claims(key)["role"] for key in (keys.anon_key, keys.publishable_key)]
    secret = [keys.claims(key)["role"] for key in (keys.service_role_key, keys.secret_key)]
    assert (roles, secret) == (["anon", "anon"], ["service_role", "service_role"])


def test_opaque_keys_look_like_those_of_hosted_projects(keys: JwtKeys) -> None:
    assert keys.publishable_key.startswith("sb_publishable_")
    assert keys.secret_key.startswith("sb_secret_")
    assert len({keys.anon_key, keys.service_role_key, keys.publishable_key, keys.secret_key}) == 4


def test_a_users_token_names_the_user_and_is_no_api_key(keys: JwtKeys) -> None:
    token = keys.user_token(USER, "viewer.a@example.test")
    claims = keys.claims(token)
    assert (claims["sub"], claims["role"], claims["email"]) == (
        USER,
        "authenticated",
        "viewer.a@example.test",
    )
    assert not keys.is_api_key(token)
    assert keys.is_api_key(keys.secret_key)


def test_a_token_expires_after_its_time_and_the_leeway(keys: JwtKeys) -> None:
    token = keys.user_token(USER, "a@example.test", seconds=-10)
    assert keys.claims(token, leeway=30)["sub"] == USER
    with pytest.raises(InvalidTokenError, match="JWT expired") as refused:
        keys.claims(token)
    assert refused.value.code == "PGRST303"


@pytest.mark.parametrize("token", ["", "x", "a.b", "a.b.c", "sb_secret_guess"])
def test_what_was_not_signed_here_is_refused(keys: JwtKeys, token: str) -> None:
    with pytest.raises(InvalidTokenError) as refused:
        keys.claims(token)
    assert refused.value.code == "PGRST301"


def test_keys_of_another_stack_are_refused(keys: JwtKeys) -> None:
    other = JwtKeys.generate()
    assert not keys.is_api_key(other.service_role_key)
    with pytest.raises(InvalidTokenError):
        keys.claims(other.service_role_key)


def test_a_secret_is_kept_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    first, second = JwtKeys.load_or_create(file), JwtKeys.load_or_create(file)
    assert first.secret == second.secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_secret_is_not_shown(keys: JwtKeys) -> None:
    assert keys.secret not in repr(keys)
