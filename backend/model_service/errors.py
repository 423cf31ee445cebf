"""What goes wrong between a file and a served model; callers over HTTP see the domain's errors instead.

ModelServiceError
├── ModelRefused         a version in the repository is not loaded
│   └── ModelUnreadable  … because a file of it could not be read; the next time it may be
├── RegistrationError    a pipeline cannot become a version
├── RunnerUnsuited       a faster runner cannot stand in for a pipeline
└── WrongAnswer          a runner returned what is not an answer
"""


class ModelServiceError(Exception):
    """What the model service itself refuses."""


class ModelRefused(ModelServiceError):
    """A version is not loaded, and why. ``reason`` is safe to show: it holds no path and no content."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ModelUnreadable(ModelRefused):
    """A version is not loaded because its store did not answer: nothing is known against the version."""


class RegistrationError(ModelServiceError):
    """A pipeline cannot be registered; the sentence names the column, field or option to change."""


class RunnerUnsuited(ModelServiceError):
    """A faster runner cannot stand in for a fitted pipeline; the text is the reason, for the operator."""


class WrongAnswer(ModelServiceError):
    """A runner returned what is not an answer: a wrong count, a wrong shape, NaN or infinity."""
