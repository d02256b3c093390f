from vlmoe_loadtests.records import Record, read_csv, write_csv


def test_records_come_back_from_a_file(tmp_path):
    records = [
        Record("vqa", 1, 0.5, 0.501, 0.75, 200, "", 1.5, 2.5, 3.5, 64),
        Record("batch", 16, 0.6, 0.601, 10.6, 0, "timeout"),
    ]
    write_csv(tmp_path / "run.csv", records)
    assert list(read_csv(tmp_path / "run.csv")) == records


def test_latency_counts_from_when_it_was_due():
    late = Record("vqa", 1, 1.0, 1.5, 2.0, 200)
    assert late.latency_ms == 1000.0


def test_every_record_has_an_outcome():
    outcomes = [Record("vqa", 1, 0, 0, 1, status, error).outcome for status, error in _ENDS]
    assert outcomes == ["ok", "429", "connection"]


_ENDS = [(200, ""), (429, ""), (0, "connection")]
