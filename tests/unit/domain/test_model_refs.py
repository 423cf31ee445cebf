"""What may name a model, a version or an alias."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import ModelNotFound
from backend.domain.models import ModelRef, is_model_name

LONGEST = "a" * 64

good_names = pytest.mark.parametrize(
    "name", ["iris", "i", "7", "0day", "credit-risk", "credit_risk", "resnet.50", "a-._b", LONGEST]
)
bad_names = pytest.mark.parametrize(
    "name",
    [
        "", " ", "Iris", "iris ", " iris", "iris\n", "iris/2", "iris:2", "-iris", "iris-", ".iris", "iris.",
        "_iris", "iris_", "..", "../iris", "ir is", "ïris", "iris\x00", "iris%2f", LONGEST + "a",
    ],
)  # fmt: skip
good_selectors = pytest.mark.parametrize("selector", ["2", "stable", "Canary", "2026-03-01", "1.0.0", "v1_2", "b" * 64])
bad_selectors = pytest.mark.parametrize(
    "selector",
    ["", " ", "@2", "2@3", "-1", ".1", "_x", "..", "../2", "a/b", "a b", "2\n", "٢", "b" * 65],
)


@good_names
def test_a_good_name_alone_is_a_reference_without_a_selector(name: str) -> None:
    assert ModelRef.parse(name) == ModelRef(name, None)


@good_selectors
def test_a_selector_follows_the_at_sign(selector: str) -> None:
    assert ModelRef.parse(f"iris@{selector}") == ModelRef("iris", selector)


def test_the_longest_name_takes_the_longest_selector() -> None:
    assert ModelRef.parse(f"{LONGEST}@{'b' * 64}") == ModelRef(LONGEST, "b" * 64)


@bad_names
def test_a_bad_name_names_no_model(name: str) -> None:
    with pytest.raises(ModelNotFound):
        ModelRef.parse(name)
    with pytest.raises(ModelNotFound):
        ModelRef.parse(f"{name}@2")


@bad_selectors
def test_a_bad_selector_names_no_model(selector: str) -> None:
    with pytest.raises(ModelNotFound):
        ModelRef.parse(f"iris@{selector}")


def test_the_refusal_does_not_repeat_what_the_caller_sent() -> None:
    with pytest.raises(ModelNotFound) as refused:
        ModelRef.parse("../etc/passwd")
    assert "passwd" not in str(refused.value)


@given(st.text("az09AZ._-@/ \n"))
def test_a_text_is_taken_apart_without_loss_or_refused(text: str) -> None:
    try:
        reference = ModelRef.parse(text)
    except ModelNotFound:
        return
    selector = "" if reference.selector is None else f"@{reference.selector}"
    assert reference.name + selector == text


@good_names
def test_a_good_name_is_a_model_name(name: str) -> None:
    assert is_model_name(name)


@bad_names
def test_a_bad_name_is_not_a_model_name(name: str) -> None:
    assert not is_model_name(name)


@good_selectors
def test_a_reference_with_a_selector_is_not_a_model_name(selector: str) -> None:
    assert not is_model_name(f"iris@{selector}")
