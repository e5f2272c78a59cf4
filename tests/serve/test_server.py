"""The server as its clients meet it: Triton's client, images, sentences, errors, limits, and who may ask."""

import gzip
import json
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

import lamina
from lamina.infer.session import Session
from lamina.serve.guard import Limits
from lamina.serve.models import wanted

from .serving import SOON, Own, Twofold, own, serving, until

DIGITS = Path(lamina.__file__).parent / "data/digits"


@pytest.fixture(scope="module")
def net():
    return Twofold()


@pytest.fixture(scope="module")
def served(net):
    with serving(own(net), *wanted(["vit_mnist", "transformer_de_en"], threads=1)) as server:
        yield server


@pytest.fixture
def client(served):
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=8) as client:
        yield client


# ---- a client that no one here wrote -------------------------------------------------------------------------------------


def given(name: str, array: np.ndarray, binary: bool) -> triton.InferInput:
    kind = "BYTES" if array.dtype == object else "FP32"
    value = triton.InferInput(name, list(array.shape), kind)
    value.set_data_from_numpy(array, binary_data=binary)
    return value


def test_triton_reads_the_metadata(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("twofold", "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("twofold") == {
        "name": "twofold",
        "versions": ["1"],
        "platform": "lamina_torch",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [
            {"name": "output", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "output_1", "datatype": "FP32", "shape": [-1]},
        ],
    }
    states = {row["name"]: row["state"] for row in client.get_model_repository_index()}
    assert states == {"twofold": "READY", "vit_mnist": "READY", "transformer_de_en": "READY"}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("wanted_binary", [True, False, None])
def test_triton_infers_what_the_session_does(client, binary, wanted_binary):
    x = np.random.default_rng(0).standard_normal((3, 1, 28, 28), np.float32)
    outputs = None if wanted_binary is None else [triton.InferRequestedOutput("output", binary_data=wanted_binary)]
    answer = client.infer("vit_mnist", [given("x", x, binary)], outputs=outputs, request_id="mine")
    assert answer.get_response()["id"] == "mine"
    np.testing.assert_array_equal(answer.as_numpy("output"), Session("vit_mnist", threads=1).run(x)[0].numpy())


def test_triton_takes_several_outputs_and_sentences(client):
    x = np.array([[1, 2], [3, 4]], np.float32)
    outputs = [triton.InferRequestedOutput("output_1"), triton.InferRequestedOutput("output", binary_data=False)]
    answer = client.infer("twofold", [given("x", x, True)], outputs=outputs)
    assert answer.as_numpy("output").tolist() == [[2, 4], [6, 8]] and answer.as_numpy("output_1").tolist() == [3, 7]
    sentences = np.array(["Ich habe keine Zeit.", "Guten Morgen!"], object)
    answer = client.infer("transformer_de_en", [given("sentences", sentences, True)])
    assert [text.decode() for text in answer.as_numpy("translations")] == ["I don't have time.", "Good morning."]
    assert (answer.as_numpy("scores") < 0).all()


def test_triton_asks_at_once(client, net):
    inputs = [np.full((1, 2), i, np.float32) for i in range(32)]
    pending = [client.async_infer("twofold", [given("x", x, True)]) for x in inputs]
    for x, answer in zip(inputs, pending, strict=True):
        np.testing.assert_array_equal(answer.get_result().as_numpy("output"), 2 * x)


def test_nan_is_refused_and_what_was_beside_it_is_run_together():
    net = Twofold()
    head = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]})

    def ask(value: float) -> tuple:
        body = head.encode() + np.full(2, value, np.float32).tobytes()
        return server.ask("POST", "/v2/models/twofold/infer", body, {"inference-header-content-length": str(len(head))})

    with serving(own(net)) as server, ThreadPoolExecutor(4) as pool:
        net.entered.clear()
        net.gate.clear()
        first = pool.submit(ask, 0)
        assert net.entered.wait(SOON)
        pending = [pool.submit(ask, value) for value in (1, np.nan, 3)]
        until(lambda: server.models["twofold"].batcher.waiting == 3)
        net.batches.clear()
        net.gate.set()
        good, bad, other = [call.result() for call in pending]
        assert (bad[0], bad[1]["error"]) == (400, "input x holds NaN")
        sums = [answer[1]["outputs"][1]["data"] for answer in (first.result(), good, other)]
        assert sums == [[0], [2], [6]] and net.batches == [1, 2]


def test_triton_is_told_what_is_wrong(client):
    with pytest.raises(InferenceServerException, match="input x has the shape anyx2, not 1x3"):
        client.infer("twofold", [given("x", np.ones((1, 3), np.float32), True)])
    with pytest.raises(InferenceServerException, match="no model 'resnet'"):
        client.infer("resnet", [given("x", np.ones((1, 2), np.float32), True)])
    assert not client.is_model_ready("resnet") and not client.is_model_ready("twofold", "2")


# ---- images and sentences ------------------------------------------------------------------------------------------------


def form(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in files
    ]
    return b"".join(parts) + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


def test_an_image_is_labelled_as_the_command_does(served):
    content = (DIGITS / "7_00.png").read_bytes()
    status, answer, _ = served.ask("POST", "/images/vit_mnist?top=3", content)
    expected = lamina.run("vit_mnist", DIGITS / "7_00.png", top=3, threads=1)[0]["predictions"]
    assert (status, answer) == (200, [{"input": "image", "predictions": expected}])


def test_a_bad_image_fails_alone(served):
    files = [(name, (DIGITS / name).read_bytes()) for name in ("1_02.png", "7_00.png")]
    body, headers = form(files[0], ("note.txt", b"no image"), files[1])
    status, answer, _ = served.ask("POST", "/images/vit_mnist", body, headers)
    assert status == 200 and [row["input"] for row in answer] == ["1_02.png", "note.txt", "7_00.png"]
    assert [row["predictions"][0]["label"] for row in answer[::2]] == ["1", "7"]
    assert answer[1]["error"].startswith("note.txt is not an image")


def bomb(side: int) -> bytes:
    """A PNG that says it is `side` pixels wide and high, and holds nothing."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    rows = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(rows)


@pytest.mark.parametrize(
    ("path", "body", "headers", "message"),
    [
        ("/images/vit_mnist", b"", {}, "image is not an image"),
        ("/images/vit_mnist", bomb(20_000), {}, "image has more than 25,000,000 pixels"),
        ("/images/vit_mnist", bomb(60_000), {}, "image has more than 25,000,000 pixels"),
        ("/images/vit_mnist", bomb(3_000), {}, "image is damaged or cut short"),
        ("/images/vit_mnist?top=0", b"", {}, "top is a number from 1 to 1000, not '0'"),
        ("/images/vit_mnist", *form(*[("a", b"")] * 5), "one request has 1 to 4 images, not 5"),
        ("/images/vit_mnist", *form(), "one request has 1 to 4 images, not 0"),
        ("/images/vit_mnist", b"--edge\r\n", {"content-type": "multipart/form-data; boundary=edge"}, "not 0"),
        ("/images/vit_mnist", b"x", {"content-type": "multipart/form-data"}, "boundary"),
        ("/images/twofold", b"", {}, "Twofold does not say how images are prepared"),
        ("/images/transformer_de_en", b"", {}, "transformer_de_en takes text, not images"),
        ("/translate/vit_mnist", b"", {}, "vit_mnist takes arrays, not sentences"),
        ("/translate/transformer_de_en", b"{}", {}, "missing required field `sentences`"),
        ("/translate/transformer_de_en", b"[" * 10_000, {}, "the sentences do not read"),
        ("/translate/transformer_de_en", b'{"sentences": []}', {}, "one request has 1 to 4 sentences, not 0"),
        ("/translate/transformer_de_en", b'{"sentences": [" "]}', {}, "sentence 1 is empty"),
        ("/translate/transformer_de_en", b"\xff", {"content-type": "text/plain"}, "do not read"),
        ("/translate/transformer_de_en", b"Wort " * 3000, {"content-type": "text/plain"}, "cut it"),
    ],
)
def test_bad_images_and_sentences(served, path, body, headers, message):
    status, answer, _ = served.ask("POST", path, body, headers)
    assert (status, set(answer)) == (400, {"error"}) and message in answer["error"] and "\n" not in answer["error"]


def test_sentences_in_both_forms(served):
    path, texts = "/translate/transformer_de_en", ["Ich habe keine Zeit.", "Guten Morgen!"]
    plain = served.ask("POST", path, "\n".join(texts).encode(), {"content-type": "text/plain; charset=utf-8"})[1]
    assert [row["target"] for row in plain] == ["I don't have time.", "Good morning."]
    assert served.ask("POST", path, json.dumps({"sentences": texts}))[1] == plain


# ---- isolation, deadlines, loading ---------------------------------------------------------------------------------------


@pytest.fixture
def shut(net):
    """The network waits inside a run until this is set."""
    net.entered.clear()
    net.gate.clear()
    yield net.gate
    net.gate.set()


def test_a_bad_request_among_good_ones_fails_alone(served, net, shut):
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(served.infer, [[0, 0]])
        net.entered.wait(30)
        others = [pool.submit(served.infer, [[value, 0]]) for value in (1, -13, 2)]
        until(lambda: served.models["twofold"].batcher.waiting == 3)
        shut.set()
        statuses = [call.result()[0] for call in (first, *others)]
    assert statuses == [200, 200, 500, 200]
    assert others[1].result()[1]["error"] == "twofold failed on this input: thirteen is not for me"
    assert net.batches[-3:] == [1, 1, 1]  # each of the three was run again alone


def test_what_waits_goes_in_one_batch(served, net, shut):
    before = served.metric('lamina_batch_rows_count{model="twofold"}')
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(served.infer, [[0, 0]])]
        net.entered.wait(30)
        calls += [pool.submit(served.infer, [[value, 0]]) for value in (1, 2, 3)]
        waiting = served.models["twofold"].batcher
        until(lambda: waiting.waiting == 3)
        waiting.size = 4  # a network as small as this has no use for more than one row
        shut.set()
        assert [call.result()[1]["outputs"][1]["data"] for call in calls] == [[0], [1], [2], [3]]
    assert net.batches[-1] == 3
    assert served.metric('lamina_batch_rows_count{model="twofold"}') == before + 2


def test_a_full_queue_refuses_before_it_reads(served, net, shut):
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(served.infer, [[0, 0]])]
        net.entered.wait(30)
        batcher = served.models["twofold"].batcher
        batcher.seconds = served.models.latency  # a row that takes so long leaves room for one batch
        calls += [pool.submit(served.infer, [[0, 0]] * batcher.room)]
        until(lambda: batcher.full)
        status, answer, headers = served.ask("POST", "/v2/models/twofold/infer", b"no JSON")
        assert status == 429 and answer["error"].startswith("busy: ") and int(headers["retry-after"]) >= 1
        shut.set()
        assert [call.result()[0] for call in calls] == [200, 200]


def test_a_deadline_of_the_request(served, net, shut):
    status, answer, headers = served.infer([[0, 0]], timeout=50_000)  # microseconds
    assert (status, answer["error"]) == (503, "no answer before the deadline") and int(headers["retry-after"]) >= 1


def test_a_client_that_goes_is_forgotten(served, net, shut):
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(served.infer, [[0, 0]])
        net.entered.wait(30)
        body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [5, 5]}]}'
        with served.connect() as gone:
            head = f"POST /v2/models/twofold/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            gone.sendall(head.encode() + body)
            batcher = served.models["twofold"].batcher
            until(lambda: batcher.waiting == 1)
        until(lambda: batcher.waiting == 0)
        shut.set()
        assert running.result()[0] == 200
    until(lambda: served.metric('lamina_clients_gone_total{model="twofold"}') == 1)


def test_a_network_that_loads_and_one_that_cannot(net):
    class Broken(Own):
        def load(self):
            raise lamina.errors.LaminaError("no weights")

    loading = threading.Event()
    with serving(own(net, open=loading), Broken("broken", "broken"), ready=False) as server:
        assert server.ask("GET", "/v2/health/live")[0] == 200
        status, answer, headers = server.infer([[1, 2]])
        assert (status, answer["error"], headers["retry-after"]) == (503, "twofold is loading: try again", "2")
        assert server.ask("GET", "/v2/models/twofold")[0] == server.ask("GET", "/v2/models/twofold/ready")[0] == 503
        loading.set()
        until(lambda: server.models["broken"].state == "failed")
        assert server.infer([[1, 2]])[0] == 200
        status, answer, headers = server.infer([[1, 2]], "broken")
        assert (status, answer["error"]) == (503, "broken cannot be served: no weights") and "retry-after" not in headers
        assert server.ask("GET", "/v2/health/ready")[0] == 503
        rows = server.ask("POST", "/v2/repository/index")[1]
        assert [(row["state"], row["reason"]) for row in rows] == [("READY", ""), ("UNAVAILABLE", "no weights")]


def test_the_explorer_is_beside_the_protocol(net):
    from lamina.cli.serve import explored

    with serving(own(net), routes=explored(["vit_mnist"], None, Limits())) as server:
        status, page, headers = server.ask("GET", "/explore/")
        assert status == 200 and b'"name":"vit_mnist"' in page and "unsafe" not in headers["content-security-policy"]
        status, answer, _ = server.ask("GET", "/explore/network?model=/etc/passwd.onnx")
        assert status == 403 and "a page may open" in answer["error"]
        assert server.ask("GET", "/")[1]["models"][0]["name"] == "twofold" and server.infer([[1, 2]])[0] == 200


# ---- limits and who may ask ----------------------------------------------------------------------------------------------


def test_a_body_has_a_limit_said_or_not(net):
    with serving(own(net), limits=Limits(body=1000)) as server:
        path = "/v2/models/twofold/infer"
        status, answer, _ = server.ask("POST", path, b" " * 1001)
        assert (status, answer["error"]) == (413, "the body is larger than 1.00 kB")
        chunks = (b" " * 300 for _ in range(4))  # sent in chunks, without a length
        assert server.ask("POST", path, chunks)[0] == 413
        status, answer, _ = server.ask("POST", path, gzip.compress(b"{}"), {"content-encoding": "gzip"})
        assert status == 415 and "Content-Encoding" in answer["error"]
        assert server.infer([[1, 2]])[0] == 200


def test_bodies_share_a_budget(net):
    with serving(own(net), limits=Limits(memory=500)) as server:
        status, answer, headers = server.ask("POST", "/v2/models/twofold/infer", b" " * 501)
        assert (status, headers["retry-after"]) == (503, "2") and "too many" in answer["error"]
        assert [server.infer([[1, 2]])[0] for _ in range(10)] == [200] * 10  # what is taken is given back


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:1"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"host": "Models.Example"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "[::"}, 403),
        ({"host": "localhost", "origin": "http://localhost"}, 200),
        ({"host": "localhost", "origin": "https://page.example"}, 200),
        ({"host": "localhost", "origin": "http://localhost:1234"}, 403),
        ({"host": "localhost", "origin": "http://evil.example"}, 403),
        ({"host": "localhost", "origin": "http://evil.localhost"}, 403),
        ({"host": "localhost", "origin": "https://localhost"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
    ],
)
def test_hosts_and_origins(guarded, headers, status):
    found, answer, _ = guarded.ask("GET", "/v2", headers={"authorization": "Bearer secret", **headers})
    assert found == status and ("error" in answer) == (status != 200)


def test_a_page_of_an_allowed_site_can_read_the_answer(guarded):
    page = {"origin": "https://page.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    status, _, headers = guarded.ask("OPTIONS", "/v2/models/twofold/infer", headers=page | asked)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://page.example")
    assert "authorization" in headers["access-control-allow-headers"]
    _, _, headers = guarded.ask("GET", "/v2", headers=page | {"authorization": "Bearer secret"})
    assert headers["access-control-allow-origin"] == "https://page.example"
    status, _, headers = guarded.ask("OPTIONS", "/v2", headers={"origin": "https://evil.example"} | asked)
    assert status == 400 and "access-control-allow-origin" not in headers


@pytest.fixture(scope="module")
def guarded(net):
    options = {"hosts": ["models.example"], "origins": ["https://page.example"], "token": "secret"}
    with serving(own(net), **options) as server:
        yield server


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}])
def test_a_token_is_asked_for(guarded, given):
    for method, path in (("GET", "/v2"), ("GET", "/metrics"), ("POST", "/v2/models/twofold/infer")):
        status, answer, headers = guarded.ask(method, path, headers=given)
        assert (status, headers["www-authenticate"]) == (401, "Bearer") and "secret" not in str(answer)
    assert guarded.ask("GET", "/v2/health/ready", headers=given)[0] == 200  # a probe needs none


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/twofold/versions/2", 404),
        ("GET", "/v2/models/twofold/versions/1", 200),
        ("GET", "/v2/models/twofold/infer", 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/models/none/infer", 404),
    ],
)
def test_addresses(served, method, path, status):
    found, answer, headers = served.ask(method, path)
    assert found == status and ("error" in answer) == (status != 200)
    assert headers["x-content-type-options"] == "nosniff"


def test_a_photograph_is_prepared_as_the_command_does(served, tmp_path):
    """A JPEG in another mode and size than the network's."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.jpg")
    answer = served.ask("POST", "/images/vit_mnist", (tmp_path / "x.jpg").read_bytes())[1]
    assert answer[0]["predictions"] == lamina.run("vit_mnist", tmp_path / "x.jpg", threads=1)[0]["predictions"]
