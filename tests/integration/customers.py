"""What stands on the other side of the wire: a tenant's programs and its admin, over real HTTP."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import anyio
import httpx

KeyName = Literal["api_key", "test_key"]
IRIS = (5.1, 3.5, 1.4, 0.2)
PATIENT_S = 30.0
PAGE = 37
SINCE_EVER = "2024-01-01T00:00:00Z"


class Customer:
    """One tenant of a demo, at one server."""

    def __init__(self, client: httpx.AsyncClient, credentials: dict[str, Any]) -> None:
        self.client = client
        self._admin = credentials["admin"]
        self._keys: dict[KeyName, str] = {"api_key": credentials["api_key"], "test_key": credentials["test_key"]}
        self._signed_in: dict[str, str] | None = None

    def key(self, name: KeyName = "api_key") -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[name]}"}

    async def admin(self) -> dict[str, str]:
        """Sign in, once."""
        if self._signed_in is None:
            form = {
                "grant_type": "password",
                "username": self._admin["email"],
                "password": self._admin["password"],
            }
            answer = await self.client.post("/v1/auth/token", data=form)
            assert answer.status_code == 200, answer.text
            self._signed_in = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        return self._signed_in

    async def predict(
        self,
        rows: int | Sequence[Sequence[float]] = 1,
        *,
        key: KeyName = "api_key",
        headers: dict[str, str] | None = None,
        model: str = "iris",
    ) -> httpx.Response:
        """Ask for so many rows, or for these."""
        inputs = [IRIS] * rows if isinstance(rows, int) else rows
        return await self.client.post(
            "/v1/predict", json={"model": model, "inputs": inputs}, headers=self.key(key) | (headers or {})
        )

    async def events(self) -> list[dict[str, Any]]:
        """Page through all of the tenant's events, up to the watermark."""
        found: list[dict[str, Any]] = []
        params: dict[str, str | int] | None = {"limit": PAGE}
        while params:
            answer = await self.client.get("/v1/usage/events", params=params, headers=await self.admin())
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert page["has_more"] == (page["next_cursor"] is not None)
            found += page["data"]
            params = {"limit": PAGE, "cursor": page["next_cursor"]} if page["has_more"] else None
        return found

    async def summary(self, **query: str) -> dict[str, Any]:
        params = {"bucket": "month", "from": SINCE_EVER} | query
        answer = await self.client.get("/v1/usage/summary", params=params, headers=await self.admin())
        assert answer.status_code == 200, answer.text
        summary: dict[str, Any] = answer.json()
        return summary

    async def ledger(self) -> list[dict[str, Any]]:
        """Return all events, once the watermark lets through as many as the summary counts.

        On PostgreSQL it is held back by whatever transaction is open on the server, also another test's.
        """
        with anyio.fail_after(PATIENT_S):
            while len(found := await self.events()) != (await self.summary())["totals"]["events"]:
                await anyio.sleep(0.02)
        return found


class Customers:
    """Every tenant of a demo, at one server."""

    def __init__(self, base_url: str, credentials: dict[str, Any]) -> None:
        # Plain HTTP on loopback: loading certificates would take longer than the test.
        self.client = httpx.AsyncClient(base_url=base_url, timeout=PATIENT_S, verify=False)
        self._tenants = {each["slug"]: Customer(self.client, each) for each in credentials["tenants"]}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    def __getitem__(self, slug: str) -> Customer:
        return self._tenants[slug]
