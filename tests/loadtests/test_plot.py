from xml.etree import ElementTree

from vlmoe_loadtests.plot import latency_svg
from vlmoe_loadtests.records import Record

_SVG = "{http://www.w3.org/2000/svg}"


def test_the_plot_is_svg_with_a_dot_a_request_inside_its_frame():
    records = [
        Record("vqa", 1, 0.1 * i, 0.1 * i, 0.1 * i + 0.01 * 2**i, 200 if i % 3 else 429) for i in range(9)
    ]
    root = ElementTree.fromstring(latency_svg(records, "3 x <& more", 250.0))
    dots = [dot for dot in root.iter(f"{_SVG}circle") if dot.get("r") == "1.6"]
    assert len(dots) == 9
    assert all(0 <= float(dot.get("cx")) <= 900 and 0 <= float(dot.get("cy")) <= 420 for dot in dots)
    texts = [text.text for text in root.iter(f"{_SVG}text")]
    assert {"3 x <& more", "ok", "429"} <= set(texts)


def test_a_run_without_a_request_has_a_plot_too():
    ElementTree.fromstring(latency_svg([], "empty", 250.0))
