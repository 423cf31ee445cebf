"""Registration infers the inputs, verifies what it wrote, and says what has to change where it refuses."""

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from backend.domain.models import FeatureType, ModelRef, OutputOptions, Task
from backend.model_service import ModelService, RegistrationError, load_pipeline_file, register
from backend.model_service.artifacts import dump_artifact
from backend.model_service.manifest import ArtifactFormat, Container
from backend.model_service.registration import Registered
from backend.model_service.repository import ModelRepository

WriteCsv = Callable[[pd.DataFrame], Path]


def columns(*, handle_unknown: str = "error") -> ColumnTransformer:
    return ColumnTransformer(
        [
            ("colour", OneHotEncoder(handle_unknown=handle_unknown), ["colour"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "height"]),
        ],
        remainder="passthrough",
    )


def fitted(people: pd.DataFrame, **options: Any) -> Pipeline:
    pipeline = make_pipeline(columns(**options), RandomForestRegressor(5, random_state=0))
    return pipeline.fit(people.drop(columns="spends"), people["spends"])


def served(root: Path, name: str, inputs: list[Any]) -> list[Any]:
    async def ask() -> list[Any]:
        service = await ModelService.open(root, allow_pickle=True)
        model = service.resolve(ModelRef.parse(name))
        rows = model.encode(inputs)
        answers = await model.run(rows, range(rows.count), OutputOptions(), share="a")
        await service.aclose()
        return [orjson.loads(answer) for answer in answers]

    return asyncio.run(ask())


def inputs_of(registered: Registered) -> dict[str, tuple[FeatureType, bool, tuple[str, ...] | None]]:
    return {each.name: (each.type, each.nullable, each.categories) for each in registered.manifest.inputs}


def test_a_pipeline_on_a_frame_is_served_with_its_types_and_categories(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    pipeline = fitted(people)
    registered = register(tmp_path / "m", pipeline, name="spending", sample=write_csv(people), target="spends")
    manifest = registered.manifest
    assert manifest.task is Task.REGRESSION
    assert manifest.container is Container.FRAME
    assert manifest.format is ArtifactFormat.SKOPS
    assert manifest.version == "1"
    assert inputs_of(registered) == {
        "colour": (FeatureType.STRING, False, ("blue", "green", "red")),
        "age": (FeatureType.INTEGER, False, None),
        "height": (FeatureType.FLOAT, False, None),
        "member": (FeatureType.BOOLEAN, False, None),
    }
    assert set(manifest.metrics) == {"r2", "mae", "held_out_rows"}
    assert manifest.metrics["r2"] > 0.9
    assert manifest.metrics["held_out_rows"] == 120
    assert manifest.runner.one_row_us > 1
    assert len(manifest.sample_rows) == 5
    assert manifest.outputs == ("value",)
    rows = people.drop(columns="spends")
    answers = served(tmp_path / "m", "spending", orjson.loads(rows.to_json(orient="records", double_precision=15)))
    assert [answer["value"] for answer in answers] == pytest.approx(pipeline.predict(rows).tolist(), abs=1e-9)


def test_a_classifier_on_arrays_takes_its_names_from_the_header(registered_root: Path) -> None:
    manifest = ModelRepository(registered_root).manifest("iris", "1")
    assert manifest.container is Container.ARRAY
    assert [each.name for each in manifest.inputs] == ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    assert manifest.labels == ("setosa", "versicolor", "virginica")
    assert manifest.outputs == ("label", "probabilities")
    assert set(manifest.metrics) == {"accuracy", "log_loss", "held_out_rows"}
    assert manifest.metrics["accuracy"] > 0.95
    assert all(isinstance(each.example, float) for each in manifest.inputs)


def test_versions_count_up_and_an_alias_follows(tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv) -> None:
    pipeline, sample = fitted(people), write_csv(people)
    versions = [
        register(tmp_path, pipeline, name="spending", sample=sample, version=version, alias=alias).manifest.version
        for version, alias in ((None, "stable"), ("9", None), (None, "stable"), ("beta", None), (None, None))
    ]
    assert versions == ["1", "9", "10", "beta", "11"]
    assert ModelRepository(tmp_path).aliases("spending")["stable"][0].version == "10"
    with pytest.raises(RegistrationError, match="has a version 9 already"):
        register(tmp_path, pipeline, name="spending", sample=sample, version="9")


def test_an_encoder_that_ignores_unknown_values_leaves_the_feature_open(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    pipeline = fitted(people, handle_unknown="ignore")
    registered = register(tmp_path, pipeline, name="spending", sample=write_csv(people))
    assert inputs_of(registered)["colour"] == (FeatureType.STRING, False, None)
    row = {"colour": "mauve", "age": 30, "height": 1.7, "member": True}
    assert served(tmp_path, "spending", [row])[0]["value"] == pytest.approx(
        pipeline.predict(pd.DataFrame([row]))[0], abs=1e-9
    )


@pytest.mark.parametrize(
    "chosen", [["colour"], "colour", [0], slice(0, 1), [True, False, False, False], make_column_selector("colour")]
)
def test_categories_are_found_however_their_columns_were_chosen(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv, chosen: Any
) -> None:
    if chosen == "colour":  # one name hands over a series, which encoders do not take
        chosen = ["colour"]
    encoder = make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder())
    pipeline = make_pipeline(
        ColumnTransformer([("colour", encoder, chosen)], remainder="passthrough"), LinearRegression()
    )
    pipeline.fit(people.drop(columns="spends"), people["spends"])
    registered = register(tmp_path, pipeline, name="spending", sample=write_csv(people))
    assert inputs_of(registered)["colour"][2] == ("blue", "green", "red")


def test_codes_that_look_like_numbers_stay_texts_if_the_pipeline_was_fitted_on_texts(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    people["colour"] = people["colour"].map({"blue": "010", "green": "020", "red": "030"})
    registered = register(tmp_path, fitted(people), name="spending", sample=write_csv(people))
    assert inputs_of(registered)["colour"] == (FeatureType.STRING, False, ("010", "020", "030"))


def test_categories_that_are_numbers_stay_numbers(tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv) -> None:
    people["colour"] = people["colour"].map({"blue": 1, "green": 2, "red": 3})
    registered = register(tmp_path, fitted(people), name="spending", sample=write_csv(people))
    assert inputs_of(registered)["colour"] == (FeatureType.INTEGER, False, ("1", "2", "3"))
    assert served(tmp_path, "spending", [[3, 40, 1.7, True]])[0]["value"] > 100


def test_a_feature_is_nullable_where_the_sample_has_gaps_and_the_pipeline_takes_them(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    pipeline = fitted(people)
    people["age"] = people["age"].astype("Int64")  # so that the file says 57 and not 57.0
    people.loc[3:6, "age"] = pd.NA  # imputed
    people.loc[5:9, "colour"] = None  # refused by the encoder
    registered = register(tmp_path, pipeline, name="spending", sample=write_csv(people), target="spends")
    assert inputs_of(registered)["age"] == (FeatureType.INTEGER, True, None)
    assert inputs_of(registered)["colour"][1] is False
    assert registered.manifest.metrics["held_out_rows"] == 115
    assert "5 sample rows with gaps that the pipeline does not take were left out" in registered.findings
    gap = pd.DataFrame({"colour": ["red"], "age": [np.nan], "height": [1.7], "member": [False]})
    assert served(tmp_path, "spending", [["red", None, 1.7, False]])[0]["value"] == pytest.approx(
        pipeline.predict(gap)[0], abs=1e-9
    )


def test_a_booster_takes_gaps_by_itself(tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv) -> None:
    numbers = people[["age", "height", "spends"]]
    model = HistGradientBoostingRegressor(max_iter=5).fit(numbers[["age", "height"]].to_numpy(), numbers["spends"])
    gaps = numbers.astype({"age": "float64"})
    gaps.loc[:2, "height"] = np.nan
    registered = register(tmp_path, model, name="spending", sample=write_csv(gaps), target="spends")
    assert {name: nullable for name, (_, nullable, _) in inputs_of(registered).items()} == {
        "age": False,
        "height": True,
    }


def test_a_search_is_served_as_its_best_estimator(tmp_path: Path, iris_sample: Path) -> None:
    data = load_iris()
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, cv=2).fit(data.data, data.target)
    labels = pd.read_csv(iris_sample)["species"]
    sample = tmp_path / "numbers.csv"
    numbers = {name: place for place, name in enumerate(data.target_names)}
    pd.read_csv(iris_sample).assign(species=labels.map(numbers)).to_csv(sample, index=False)
    registered = register(tmp_path / "m", search, name="iris", sample=sample, target="species")
    assert "the best estimator of the search is served, without the search" in registered.findings
    assert registered.manifest.labels == ("0", "1", "2")
    assert registered.manifest.metrics["accuracy"] > 0.9
    assert served(tmp_path / "m", "iris", [[5.1, 3.5, 1.4, 0.2]])[0]["label"] == 0


@pytest.mark.parametrize("kind", [bool, float, object])
def test_the_truth_is_compared_whatever_type_the_labels_have(tmp_path: Path, iris_sample: Path, kind: Any) -> None:
    data = load_iris()
    truth = (
        np.where(data.target == 0, "None", "NA").astype(object) if kind is object else (data.target == 0).astype(kind)
    )
    model = LogisticRegression().fit(data.data, truth)
    sample = tmp_path / "sample.csv"
    frame = pd.DataFrame(data.data, columns=list("abcd")).assign(truth=truth)
    frame.to_csv(sample, index=False)
    registered = register(tmp_path / "m", model, name="iris", sample=sample, target="truth")
    assert registered.manifest.metrics["accuracy"] == 1.0
    assert registered.manifest.metrics["held_out_rows"] == 150


def test_rows_without_the_truth_are_not_scored(tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv) -> None:
    pipeline = fitted(people)
    people.loc[:9, "spends"] = np.nan
    registered = register(tmp_path, pipeline, name="spending", sample=write_csv(people), target="spends")
    assert registered.manifest.metrics["held_out_rows"] == 110


def test_extra_columns_of_a_frame_are_left_out_and_told(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    sample = write_csv(people.assign(customer=range(len(people))))
    registered = register(tmp_path, fitted(people), name="spending", sample=sample, target="spends")
    assert "column customer is not an input and was left out" in registered.findings
    assert "customer" not in inputs_of(registered)


def test_a_pipeline_without_names_that_needs_a_frame_gets_one(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    pick = FunctionTransformer(pd.DataFrame.filter, kw_args={"items": ["age", "height"]})
    model = Pipeline([("pick", pick), ("model", LinearRegression())])
    model.fit(people[["age", "height"]], people["spends"])
    del pick.feature_names_in_
    sample = write_csv(people[["age", "height", "spends"]])
    registered = register(tmp_path, model, name="spending", sample=sample, target="spends", allow_pickle=True)
    assert registered.manifest.container is Container.FRAME
    assert registered.manifest.format is ArtifactFormat.JOBLIB
    assert "value" in served(tmp_path, "spending", [{"age": 30, "height": 1.7}])[0]


class Doubling(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A step of the author's own."""

    def fit(self, rows: Any, truth: Any = None) -> "Doubling":
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, rows: Any) -> Any:
        return rows * 2


def test_a_step_of_the_authors_own_is_refused_by_name_or_written_as_joblib(tmp_path: Path, iris_sample: Path) -> None:
    data = load_iris()
    pipeline = make_pipeline(Doubling(), LogisticRegression(max_iter=500)).fit(
        data.data, data.target_names[data.target]
    )
    with pytest.raises(RegistrationError, match="Doubling"):
        register(tmp_path, pipeline, name="iris", sample=iris_sample, target="species")
    assert ModelRepository(tmp_path).versions("iris") == ()
    registered = register(tmp_path, pipeline, name="iris", sample=iris_sample, target="species", allow_pickle=True)
    assert registered.manifest.format is ArtifactFormat.JOBLIB
    assert served(tmp_path, "iris", [[5.1, 3.5, 1.4, 0.2]])[0]["label"] == "setosa"


@pytest.mark.parametrize("suffix", [".skops", ".joblib", ".pkl"])
def test_a_pipeline_is_registered_from_its_file(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv, suffix: str
) -> None:
    path = tmp_path / f"pipeline{suffix}"
    pipeline = fitted(people)
    if suffix == ".skops":
        path.write_bytes(dump_artifact(pipeline, ArtifactFormat.SKOPS))
    elif suffix == ".joblib":
        joblib.dump(pipeline, path)
    else:
        path.write_bytes(pickle.dumps(pipeline))
    sample = write_csv(people)
    if suffix != ".skops":
        with pytest.raises(RegistrationError, match="pickle is not allowed"):
            register(tmp_path / "m", path, name="spending", sample=sample, target="spends")
    registered = register(
        tmp_path / "m", path, name="spending", sample=sample, target="spends", allow_pickle=suffix != ".skops"
    )
    assert registered.manifest.format is ArtifactFormat.SKOPS


@pytest.mark.parametrize(("name", "reason"), [("model.h5", "must be a .skops"), ("missing.skops", "cannot be read")])
def test_a_file_that_is_no_pipeline_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(RegistrationError, match=reason):
        load_pipeline_file(tmp_path / name, allow_pickle=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "Iris"}, "name must be"),
        ({"version": "../1"}, "version must be"),
        ({"alias": "7"}, "alias must be"),
        ({"target": "kind"}, "no column 'kind'"),
        ({"target": None}, "takes 4 inputs and the sample has 5 columns"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, iris_sample: Path, options: dict[str, Any], reason: str) -> None:
    data = load_iris()
    model = RandomForestClassifier(2).fit(data.data, data.target_names[data.target])
    given: dict[str, Any] = {"name": "iris", "sample": iris_sample, "target": "species"}
    with pytest.raises(RegistrationError, match=reason):
        register(tmp_path, model, **(given | options))
    assert ModelRepository(tmp_path).versions("iris") == ()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (LogisticRegression(), "has been fitted"),
        ("a text", "has been fitted"),
        (LogisticRegression, "has been fitted"),
        (KMeans(2).fit(load_iris().data), "neither a classifier nor a regressor"),
    ],
)
def test_what_is_not_a_fitted_predictor_is_refused(tmp_path: Path, iris_sample: Path, model: Any, reason: str) -> None:
    with pytest.raises(RegistrationError, match=reason):
        register(tmp_path, model, name="iris", sample=iris_sample, target="species")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda people: people.drop(columns="height"), "no column 'height'"),
        (lambda people: people.head(0), "no rows"),
        (lambda people: people.assign(age="unknown"), "fails on the sample: ValueError"),
        (lambda people: people.assign(colour="mauve"), "column 'colour': Is not one of the values"),
        (lambda people: people.assign(spends="much"), "not numbers"),
        (lambda people: people.assign(colour=None), "column 'colour'|No row of the sample"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_with_its_column(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv, spoil: Any, reason: str
) -> None:
    pipeline = fitted(people)
    with pytest.raises(RegistrationError, match=reason):
        register(tmp_path / "m", pipeline, name="spending", sample=write_csv(spoil(people)), target="spends")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must name every column"),
        ("a,,c\n1,2,3\n", "must name every column"),
        ("a,b,a\n1,2,3\n", "column 'a' twice"),
        ("a,b\n1,2,3,4\n1\n1,2,3\n", "cannot be read as CSV|takes 4 inputs"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text(text)
    model = LinearRegression().fit(load_iris().data, load_iris().target)
    with pytest.raises(RegistrationError, match=reason):
        register(tmp_path / "m", model, name="iris", sample=sample)


def test_a_label_that_the_model_does_not_know_is_refused(tmp_path: Path, iris_sample: Path) -> None:
    data = load_iris()
    model = LogisticRegression(max_iter=500).fit(data.data, np.where(data.target == 0, "setosa", "other"))
    with pytest.raises(RegistrationError, match="label that the model does not know"):
        register(tmp_path, model, name="iris", sample=iris_sample, target="species")


class Forgetful(LinearRegression):  # type: ignore[misc]  # scikit-learn has no types
    """Predicts something else after it was written and read."""

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"intercept_": state["intercept_"] + 1.0}


def test_what_does_not_predict_the_same_when_read_back_is_refused(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    numbers = people[["age", "height", "spends"]]
    model = Forgetful().fit(numbers[["age", "height"]], numbers["spends"])
    with pytest.raises(RegistrationError, match="does not predict the same"):
        register(tmp_path, model, name="spending", sample=write_csv(numbers), target="spends", allow_pickle=True)


def test_a_regressor_of_several_outputs_is_refused(tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv) -> None:
    numbers = people[["age", "height"]]
    model = LinearRegression().fit(numbers, numbers)
    with pytest.raises(RegistrationError, match="another shape than its rows"):
        register(tmp_path, model, name="copy", sample=write_csv(numbers))


def test_further_metrics_are_kept(tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv) -> None:
    registered = register(
        tmp_path, fitted(people), name="spending", sample=write_csv(people), metrics={"training_rows": 900.0}
    )
    assert registered.manifest.metrics == {"training_rows": 900.0}
    assert ModelRepository(tmp_path).manifest("spending", "1") == replace(registered.manifest)
