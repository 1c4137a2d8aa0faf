"""What differs is told by its path, and no secret is shown."""

from __future__ import annotations

import pytest

from gateway.objects.shown import differences, masked


@pytest.mark.parametrize(
    ("before", "after", "paths"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1.5, "b": None}, ["a"]),
        ({"labels": {"x": "1"}}, {"labels": {"x": "2", "y": "1"}}, ["labels.x", "labels.y"]),
        ({"groups": ["a"]}, {"groups": ["a", "b"]}, ["groups"]),
        ({"l": [{"name": "n", "p": 1}]}, {"l": [{"name": "m"}, {"name": "n", "p": 2}]},
         ["l.m", "l.n.p"]),
        ({"l": [{"p": 1}, {"p": 2}]}, {"l": [{"p": 1}]}, ["l.1"]),
        ({"password": {"sealed": "v1:a"}}, {"password": {"sealed": "v1:b"}}, ["password"]),
        ({"private_key": {"sealed": "v1:a"}}, {}, ["private_key"]),
    ],
)  # fmt: skip
def test_paths_say_what_differs(before: object, after: object, paths: list[str]) -> None:
    assert list(differences(before, after)) == paths


def test_secrets_are_hidden_where_they_stand() -> None:
    body = {
        "accounts": [{"name": "app", "password": {"sealed": "v1:x", "file": "/etc/app"}}],
        "password": None,
        "labels": {"private_key": {"value": "x"}},
    }
    assert masked(body) == {
        "accounts": [{"name": "app", "password": "(set) file /etc/app"}],
        "password": None,
        "labels": {"private_key": "(set)"},
    }
