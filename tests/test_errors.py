"""Errors say what they have to say."""

from __future__ import annotations

from atmo.errors import RequestError, UserError, leaf_error


def test_a_user_error_is_its_message_and_its_hint() -> None:
    assert str(UserError("No mesh.", "Create one.")) == "No mesh. Create one."
    assert str(UserError("No mesh.")) == "No mesh."


def test_a_request_error_has_the_shape_of_openai() -> None:
    error = RequestError(404, "no such model", code="model_not_found", param="model")
    assert error.body() == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_the_leaf_of_groups_of_one() -> None:
    leaf = UserError("x")
    pair = ExceptionGroup("pair", [leaf, ValueError()])
    assert leaf_error(leaf) is leaf
    assert leaf_error(ExceptionGroup("outer", [ExceptionGroup("inner", [leaf])])) is leaf
    assert leaf_error(pair) is pair
    outer = ExceptionGroup("outer", [pair])
    assert leaf_error(outer) is outer
