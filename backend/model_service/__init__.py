"""The shared model service: models on disk, their typed inputs, and the lanes in which their rows are predicted.

It could be lifted out of this product: it knows no HTTP, no tenants (a share is any text) and no settings.

==================================================  ===============================================================
manifest, manifest_reading                          what is known of a version, and reading it strictly
aliases, signatures, repository                     the folder: verified reads, atomic writes
artifacts, trusted_types, fitted, tree_bounds       fitted pipelines as bytes, and what of them is trusted
values, encoding                                    from a request's rows to typed values, or to what is wrong where
batch, runners, answers                             from typed values to arrays, to columns of answers, to JSON
folded, plain_linear, treelite_runner, onnx_runner, faster runners for some pipelines
runner_kinds
comparison, timing, probes, gate, rebuilt           whether one answers as scikit-learn, at registration and at load
calls, lane, batching, lanes                        batch when busy, never wait when idle
served, shelf, loading, service                     one loaded version, all of a model, all models
pipelines, encoders, sample, evaluation,            from a fitted pipeline and a CSV sample to a published version
registration
schema                                              inputs and answers as JSON Schema
==================================================  ===============================================================
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from backend.model_service.errors import ModelRefused, RegistrationError
from backend.model_service.lane_limits import LaneLimits
from backend.model_service.schema import input_schema, prediction_schema
from backend.model_service.service import ModelService

if TYPE_CHECKING:
    from backend.model_service.pipelines import load_pipeline_file
    from backend.model_service.registration import Registered, register

__all__ = [
    "LaneLimits",
    "ModelRefused",
    "ModelService",
    "Registered",
    "RegistrationError",
    "input_schema",
    "load_pipeline_file",
    "prediction_schema",
    "register",
]

_LATE: Final = {
    "Registered": "backend.model_service.registration",
    "load_pipeline_file": "backend.model_service.pipelines",
    "register": "backend.model_service.registration",
}


def __getattr__(name: str) -> object:
    """Import what registration needs when it is first asked for (PEP 562): a server never is."""
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
