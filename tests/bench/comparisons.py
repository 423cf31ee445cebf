"""What is measured against what, and what it has to reach."""

from collections.abc import Iterator

from tests.bench.site import BARE_KINDS, Ours, Site, answer_of
from tests.bench.table import Comparison, Contender, Figure, Goal

BARE, ONNX, ONNX_ASYNC = BARE_KINDS["sklearn"], BARE_KINDS["onnx"], BARE_KINDS["onnx-async"]
OURS = "ours"
SERVERS = {
    BARE: "FastAPI, a pydantic body, a `def` route, scikit-learn; no credential, no limit, no metering",
    ONNX: f"{BARE}, with nothing exchanged but the model: converted, and run by onnxruntime",
    ONNX_ASYNC: f"{ONNX}, tuned: an `async def` route, so without FastAPI's thread pool",
}
"""What the other servers are, as the report says it."""

EMBEDDED = "ours, embedded"
HITS = "ours, cache hits"


def comparisons(site: Site) -> Iterator[Comparison]:
    """Yield every comparison of the table; what one needs is started when it comes up."""
    server, embedded = site.ours("server"), site.ours("embedded")
    for model in ("a", "b", "c", "f"):
        _require_same_answer(site, server, model)
    yield Comparison(
        name="A",
        connections=16,
        contenders=(site.bare("sklearn", "a"), server.asked("a")),
        goals=(_faster(OURS, BARE, 6, 12),),
    )
    yield Comparison(
        name="B",
        connections=16,
        contenders=(site.bare("sklearn", "b"), server.asked("b")),
        goals=(_faster(OURS, BARE, 30, 60),),
    )
    for model in ("a", "b"):
        yield Comparison(
            name=f"Embedded {model.upper()}",
            connections=16,
            contenders=(server.asked(model), embedded.asked(model)),
            goals=(_faster(EMBEDDED, OURS, 0.85),),
            times=10,
            shorter=8,
        )
    yield Comparison(
        name="A",
        connections=1,
        contenders=(site.bare("sklearn", "a"), server.asked("a")),
        goals=(Goal(figure=Figure.P50, of=OURS, against=BARE, must=0.8, aim=0.5),),
    )
    for model, aim in (("a", 4), ("b", 3)):
        yield Comparison(
            name=model.upper(),
            connections=64,
            contenders=(*(site.bare(kind, model) for kind in BARE_KINDS), server.asked(model)),
            goals=(
                Goal(figure=Figure.P99, of=OURS, against=BARE, must=0.5, aim=0.2),
                _faster(OURS, ONNX, 1.5, aim),
                # No tutorial's server: told, and nothing is demanded of it.
                _faster(OURS, ONNX_ASYNC),
            ),
        )
    yield Comparison(
        name="F: B without an accelerator",
        connections=64,
        contenders=(site.bare("sklearn", "f"), server.asked("f")),
        goals=(_faster(OURS, BARE, 8, 13),),
    )
    yield Comparison(name="C", connections=16, contenders=(site.bare("sklearn", "c"), server.asked("c")))
    yield Comparison(
        name="Hits of A",
        connections=16,
        contenders=(server.asked("a"), _warm(server.asked_again("a"))),
        goals=(_faster(HITS, OURS, 1.2),),
        times=30,
        shorter=8,
    )


def _faster(of: str, against: str, must: float | None = None, aim: float | None = None) -> Goal:
    return Goal(figure=Figure.THROUGHPUT, of=of, against=against, must=must, aim=aim)


def _require_same_answer(site: Site, ours: Ours, model: str) -> None:
    """Refuse to compare servers that do not do the same."""
    _, bare = answer_of(site.bare("sklearn", model))
    _, own = answer_of(ours.asked(model))
    label = str(own["predictions"][0]["label"])
    if label != str(bare["labels"][0]):
        raise RuntimeError(f"model {model}: ours answers {label}, the bare server {bare['labels']}")


def _warm(contender: Contender) -> Contender:
    """Check that what is asked for the second time comes from the cache."""
    answer_of(contender)
    headers, _ = answer_of(contender)
    if headers["cache-status"] != "forecourt; hit":
        raise RuntimeError("the same row again was no cache hit")
    return contender
