"""A dashboard in JavaScript signs in with a password and shows its company's pictures."""

import json
from pathlib import Path

import pytest

from mqtt_service.devstack.auth.routes import SEEDED_PASSWORD
from tests.integration.devstack.storage.harness import COMPANY_A, COMPANY_B, run_script, running_storage
from tests.integration.devstack.supabase_js_harness import node_modules
from tests.requirements import needs

BYTES = "ffd80d0a2d2d00ffd9"
PICTURE = f"{COMPANY_A}/site/device/2026-01-02/image one.jpg"
OTHER = f"{COMPANY_B}/site/device/2026-01-02/image.jpg"


@needs("node")
async def test_a_dashboard_signs_in_and_shows_its_pictures(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    async with running_storage() as storage:
        environment = storage.stack.env() | {
            "EMAIL": "viewer.a@example.test",
            "PASSWORD": SEEDED_PASSWORD,
            "PICTURE": PICTURE,
            "OTHER": OTHER,
        }
        output = await run_script(
            "sign_in_and_see.mjs", tmp_path / "dashboard", node_modules(pytestconfig), environment
        )
    unreadable = "Either the object does not exist or you do not have access to it"
    assert json.loads(output) == {
        "taken": [400, "409", "The resource already exists"],
        "before": "StorageApiError",
        "wrong": [400, "invalid_credentials"],
        "user": "viewer.a@example.test",
        "companies": [{"name": "Alder Farms"}],
        "downloaded": BYTES,
        "opened": [200, "image/jpeg", BYTES],
        "addresses": [[PICTURE, None], [OTHER, unreadable]],
        "listed": ["image one.jpg"],
        "exists": [True, False],
        "info": "image/jpeg",
        "refused": [400, "403", "new row violates row-level security policy"],
        "refreshed": True,
        "out": None,
        "after": "AuthSessionMissingError",
    }
