"""The servers that ``scripts/bench`` measures ours against: they answer alike, and are what the report says."""

import inspect

import joblib
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from httpx import ASGITransport, AsyncClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.bench.bare import APPS
from tests.bench.site import BARE_KINDS

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FastAPI]:
    data = load_iris()
    path = tmp_path_factory.mktemp("bare") / "a.joblib"
    joblib.dump(LogisticRegression(max_iter=1_000).fit(data.data, data.target), path)
    return {kind: APPS[kind](str(path)) for kind in BARE_KINDS}


@pytest.mark.anyio
async def test_every_kind_answers_alike(apps: dict[str, FastAPI]) -> None:
    answers = {}
    for kind, app in apps.items():
        async with AsyncClient(transport=ASGITransport(app), base_url="http://bare") as client:
            answers[kind] = (await client.post("/predict", json={"inputs": ROWS})).json()
    for answer in answers.values():
        assert answer["labels"] == answers["sklearn"]["labels"] == [0, 2]
        for row, expected in zip(answer["probabilities"], answers["sklearn"]["probabilities"], strict=True):
            assert row == pytest.approx(expected, abs=1e-5)


def test_only_the_tuned_one_answers_on_the_event_loop(apps: dict[str, FastAPI]) -> None:
    on_the_loop = {
        kind: inspect.iscoroutinefunction(route.endpoint)
        for kind, app in apps.items()
        for route in app.routes
        if isinstance(route, APIRoute)
    }
    assert on_the_loop == {"sklearn": False, "onnx": False, "onnx-async": True}
