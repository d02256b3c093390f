from vlmoe_serve.http_door.head import head_of


def test_names_are_found_and_the_first_of_two_counts():
    scope = {"headers": [(b"x-a", b"1"), (b"x-b", b"caf\xe9"), (b"x-a", b"2")]}
    assert head_of(scope) == {"x-a": "1", "x-b": "caf\xe9"}


def test_it_is_read_once():
    scope = {"headers": [(b"x-a", b"1")]}
    first = head_of(scope)
    scope["headers"] = []
    assert head_of(scope) is first
