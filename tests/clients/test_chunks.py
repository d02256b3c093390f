from vlmoe_client._chunks import chunked
from vlmoe_client._images import Picture


def test_chunks_are_cut_by_count_and_by_bytes():
    texts = [{"text": "x" * size} for size in (4, 4, 4, 20, 1, 1, 1, 1)]
    chunks = list(chunked(texts, max_inputs=3, max_bytes=10))
    assert [[len(item["text"]) for item in chunk] for chunk in chunks] == [[4, 4], [4], [20], [1, 1, 1], [1]]
    assert [item for chunk in chunks for item in chunk] == texts


def test_inputs_are_taken_only_as_they_are_needed():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield {"image": Picture(b"abc")}

    first = next(chunked(endless(), max_inputs=2))
    assert first == [{"image": b"abc"}, {"image": b"abc"}]
    assert len(taken) == 3


def test_nothing_makes_no_chunk():
    assert list(chunked([])) == []
