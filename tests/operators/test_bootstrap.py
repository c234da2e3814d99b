from operators.bootstrap import permissions_of

BUILTIN = {"Viewer": [("can_read", "DAGs")]}


def test_role_has_its_own_permissions_after_those_it_extends():
    role = {"extends": "Viewer", "permissions": [["can_edit", "DAGs"]]}
    assert permissions_of(role, BUILTIN) == [("can_read", "DAGs"), ("can_edit", "DAGs")]


def test_role_that_extends_nothing_has_nothing_else():
    assert permissions_of({"permissions": [["can_read", "DAG:x"]]}, BUILTIN) == [("can_read", "DAG:x")]
