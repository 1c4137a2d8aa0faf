"""Names that lead nowhere, and where they are written."""

from __future__ import annotations

import pytest

from gateway import objects
from gateway.contracts import Document
from gateway.objects.references import Bodies

TEXT = """\
resources:
  - name: orders
    protocol: postgresql
    targets: [{address: h:1}]
    accounts: [{name: app_ro, password: {env: P}}, {name: app_rw, password: {env: P}}]
  - name: stock
    protocol: postgresql
    targets: [{address: h:1}]
    accounts: [{name: app_ro, password: {env: P}}]
users: [{name: alice}]
roles:
  - name: reader
    allow:
      - {resources: {names: [orders, stock]}, accounts: [app_ro, app_rw]}
      - {resources: {labels: {env: prod}}, accounts: [anything]}
bindings:
  - {name: b, role: reader, subjects: [user:alice, group:nobody-yet]}
"""


def after(documents: list[Document]) -> Bodies:
    bodies: dict[str, dict[str, object]] = {}
    for document in documents:
        bodies.setdefault(document.kind, {})[document.name] = document.body
    return bodies  # type: ignore[return-value]


def told(text: str) -> list[str]:
    documents = objects.parse(text, "f")
    return [str(problem) for problem in objects.dangling(after(documents), documents)]


def test_all_lead_somewhere() -> None:
    assert told(TEXT) == []
    assert told("") == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[orders, stock]", "[orders, shop]",
         ["f:14:38: roles.reader.allow.0.resources.names.1: there is no resource 'shop'"]),
        ("accounts: [app_ro, app_rw]", "accounts: [app_ro, root]",
         ["f:14:66: roles.reader.allow.0.accounts.1: "
          "no resource named here has an account 'root'"]),
        ("role: reader", "role: writer",
         ["f:17:21: bindings.b.role: there is no role 'writer' (binding b)"]),
        ("user:alice, ", "group:a, user:bob, ",
         ["f:17:49: bindings.b.subjects.1: there is no user 'bob' (binding b)"]),
    ],
)  # fmt: skip
def test_one_does_not(old: str, new: str, expected: list[str]) -> None:
    assert TEXT.count(old) == 1
    assert told(TEXT.replace(old, new)) == expected


def test_all_of_them_in_the_order_of_the_file() -> None:
    text = TEXT.replace("stock]", "shop]").replace("reader,", "writer,").replace("alice,", "bob,")
    assert [each.split(":")[1] for each in told(text)] == ["14", "17", "17"]


def test_what_another_file_or_a_hand_made_is_blamed_on_the_change_as_a_whole() -> None:
    documents = objects.parse(TEXT, "f")
    remaining = {kind: dict(named) for kind, named in after(documents).items()}
    del remaining["users"]["alice"]
    change = objects.parse("users: [{name: bob}]\n", "g")
    (problem,) = objects.dangling(remaining, change)
    assert str(problem) == ("g:1:1: bindings.b.subjects.0: there is no user 'alice' (binding b)")
    (problem,) = objects.dangling(remaining, ())
    assert problem.message == "there is no user 'alice' (binding b)"


def test_where_the_place_itself_has_no_mark() -> None:
    documents = [
        Document(each.kind, each.name, each.body, each.file, {"": each.marks[""]})
        for each in objects.parse(TEXT.replace("reader,", "writer,"), "f")
    ]
    (problem,) = objects.dangling(after(documents), documents)
    assert (problem.line, problem.column) == (17, 5)
