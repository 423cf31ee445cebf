"""The baseline: what a tutorial on serving a model builds, and what many a team has in production.

FastAPI, a pydantic body, the model loaded once, uvicorn as it comes. No credential, no limit, no metering. It answers
what ours answers: the label, and the probability of each. ``python -m tests.bench.bare KIND MODEL PORT``, with one of

==============  =============================================================================================
``sklearn``     the fitted pipeline, in a ``def`` route, which FastAPI runs in a thread
``onnx``        the same server with nothing but the model exchanged: the pipeline, converted for onnxruntime
``onnx-async``  that, tuned: in an ``async def`` route, as the converted model is too fast to be worth a thread
==============  =============================================================================================
"""

import sys
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pandas as pd
import skl2onnx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Rows(BaseModel):
    inputs: list[list[float]]


class NamedRows(BaseModel):
    inputs: list[dict[str, float | str]]


class Answer(BaseModel):
    labels: list[int]
    probabilities: list[list[float]]


def sklearn_app(path: str) -> FastAPI:
    """The pipeline itself."""
    app = FastAPI()
    model = joblib.load(path)

    def answer(data: Any) -> Answer:
        return Answer(labels=model.predict(data).tolist(), probabilities=model.predict_proba(data).tolist())

    if path.endswith("c.joblib"):

        @app.post("/predict")
        def predict_named(body: NamedRows) -> Answer:
            return answer(pd.DataFrame(body.inputs))

    else:

        @app.post("/predict")
        def predict(body: Rows) -> Answer:
            return answer(np.array(body.inputs))

    return app


def onnx_app(path: str) -> FastAPI:
    """The pipeline under onnxruntime."""
    app = FastAPI()
    answer = _converted(path)

    @app.post("/predict")
    def predict(body: Rows) -> Answer:
        return answer(body)

    return app


def onnx_async_app(path: str) -> FastAPI:
    """The pipeline under onnxruntime, on the event loop."""
    app = FastAPI()
    answer = _converted(path)

    @app.post("/predict")
    async def predict(body: Rows) -> Answer:
        return answer(body)

    return app


def _converted(path: str) -> Callable[[Rows], Answer]:
    """Convert a pipeline, and return what runs it on one thread of onnxruntime's own: the server has one core."""
    model = joblib.load(path)
    sample = np.zeros((1, model.n_features_in_), dtype=np.float32)
    converted = skl2onnx.to_onnx(model, sample, options={"zipmap": False})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(converted.SerializeToString(), options, ["CPUExecutionProvider"])
    [source] = [each.name for each in session.get_inputs()]

    def answer(body: Rows) -> Answer:
        labels, probabilities = session.run(None, {source: np.array(body.inputs, dtype=np.float32)})
        return Answer(labels=labels.tolist(), probabilities=probabilities.tolist())

    return answer


APPS: dict[str, Callable[[str], FastAPI]] = {"sklearn": sklearn_app, "onnx": onnx_app, "onnx-async": onnx_async_app}

if __name__ == "__main__":
    kind, path, port = sys.argv[1:]
    uvicorn.run(APPS[kind](path), host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
