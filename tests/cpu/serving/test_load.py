"""The load generator notices what a server does wrong, and counts what it does right."""

from __future__ import annotations

import json
import threading

import pytest

from prorank_jax.serving.answers import make_answer
from prorank_jax.serving.load import LoadOptions, check_answer, make_request, run_load
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.request_format import parse_request
from tests.cpu.serving.live import FakeModel, live_server, wait_until
from tests.cpu.tiny_run import load_launcher

NO_SERVERS = (
    "x",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:x",
    "http://127.0.0.1:0",
    "http://127.0.0.1/prefix",
)
OPTIONS = LoadOptions(url="http://127.0.0.1:1", requests=4)


def right_answer(request):
    parsed = parse_request(json.dumps(request).encode(), ServerOptions(model="m"))
    return make_answer(parsed, FakeModel()(parsed.pairs, None), "m")


def results_of(answer):
    return answer if isinstance(answer, list) else answer["results"]


def swap_texts(results):
    for name in ("text", "document"):
        if name in results[0]:
            results[0][name], results[1][name] = results[1][name], results[0][name]


FAULTS = {
    "missing": lambda results: results.pop(),
    "twice": lambda results: results[0].update(index=results[1]["index"]),
    "order": lambda results: results.reverse(),
    "texts": swap_texts,
    "no index": lambda results: results[0].pop("index"),
}


@pytest.mark.parametrize("index", range(4))
def test_a_right_answer_passes_and_a_wrong_one_does_not(index):
    request = make_request(index, OPTIONS)
    assert check_answer(request, right_answer(request)) == ""
    for fault in FAULTS.values():
        answer = right_answer(request)
        fault(results_of(answer))
        assert check_answer(request, answer)
    assert check_answer(request, {"error": "x"})
    assert check_answer(request, [1])


def test_the_same_seed_sends_the_same_requests():
    assert make_request(3, OPTIONS) == make_request(3, OPTIONS)
    assert make_request(3, OPTIONS) != make_request(3, LoadOptions(url=OPTIONS.url, seed=1))


def test_load_is_counted():
    with live_server() as live:
        report = run_load(LoadOptions(url=live.address, clients=4, requests=60))
        assert (report["right"], report["wrong"], report["lost"], report["refused"]) == (60, 0, 0, 0)
        assert report["statuses"] == {"200": 60}
        assert 0 < report["p50_ms"] <= report["p95_ms"] <= report["longest_ms"]
        assert live.metric('prorank_requests_total{status="200"}') == 60


def test_refusals_are_counted_and_retried():
    model = FakeModel()
    with live_server(model, max_documents=4, max_queue_pairs=4, max_batch_pairs=4) as live:
        model.gate.clear()
        opener = threading.Thread(
            target=lambda: (
                wait_until(lambda: live.metric('prorank_requests_total{status="503"}')),
                model.gate.set(),
            )
        )
        opener.start()
        report = run_load(LoadOptions(url=live.address, clients=8, requests=8, retries=5))
        opener.join()
        assert report["right"] == 8
        assert report["refused"] == 0
        assert report["refused_attempts"] >= 1


def test_an_answer_that_does_not_come_is_a_lost_request():
    model = FakeModel()
    with live_server(model) as live:
        model.gate.clear()
        report = run_load(LoadOptions(url=live.address, clients=1, requests=1, timeout_s=0.2))
        assert (report["lost"], report["right"]) == (1, 0)
        assert "no answer" in next(iter(report["problems"]))
        model.gate.set()


def test_a_server_that_is_not_there_loses_everything():
    report = run_load(LoadOptions(url="http://127.0.0.1:1", clients=2, requests=4))
    assert (report["lost"], report["right"], report["p50_ms"]) == (4, 0, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"clients": 0},
        {"requests": 0},
        {"documents": 0},
        {"retries": -1},
        {"timeout_s": 0},
        *({"url": url} for url in NO_SERVERS),
    ],
)
def test_options_that_cannot_work_are_named(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))}="):
        LoadOptions(**({"url": "http://127.0.0.1:1"} | changes))


def test_the_launcher_reports_and_tells_success_by_its_exit_code(tmp_path, capsys):
    launcher, output = load_launcher("load_server"), tmp_path / "load.json"
    with live_server() as live:
        arguments = ["--url", live.address, "--clients", "2", "--requests", "6", "--output", str(output)]
        assert launcher.main(arguments) == 0
    assert json.loads(output.read_text())["right"] == 6
    assert "p95_ms" in capsys.readouterr().out
    assert launcher.main(["--url", "http://127.0.0.1:1", "--requests", "2"]) == 1
    assert launcher.main(["--url", "http://127.0.0.1:1", "--clients", "0"]) == 2
    assert capsys.readouterr().err == "error: clients=0: must be at least 1\n"


def test_a_report_without_a_place_is_refused_before_any_request(tmp_path, capsys):
    launcher, model = load_launcher("load_server"), FakeModel()
    (tmp_path / "there.json").write_text("an earlier report")
    with live_server(model) as live:
        for name, complaint in (("none/x.json", "there is no folder"), ("there.json", "is there already")):
            output = str(tmp_path / name)
            assert launcher.main(["--url", live.address, "--requests", "2", "--output", output]) == 2
            assert complaint in capsys.readouterr().err
    assert not model.batches


def test_a_report_that_cannot_be_written_after_all_was_shown_before(tmp_path, capsys, monkeypatch):
    launcher = load_launcher("load_server")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(launcher, "write_json", fail)
    with live_server() as live:
        arguments = ["--url", live.address, "--requests", "2", "--output", str(tmp_path / "load.json")]
        assert launcher.main(arguments) == 2
    shown = capsys.readouterr()
    assert "p95_ms" in shown.out
    assert "the disk is full" in shown.err
