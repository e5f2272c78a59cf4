"""The Open Inference Protocol's bytes: what reads, what is refused and how, and that an answer says what was computed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lamina.errors import InputError
from lamina.serve.protocol import DTYPES, FREE, Port, datatype, read_request, write_response

X, TEXT, FLAG = Port("x", "FP32", (FREE, 2)), Port("t", "BYTES", (FREE,)), Port("b", "BOOL", (FREE,))
Y = Port("y", "FP32", (FREE, 2))


def request(*inputs, **fields) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def tensor(data=None, name="x", shape=(1, 2), datatype="FP32", **parameters):
    row = {"name": name, "shape": list(shape), "datatype": datatype, "parameters": parameters}
    return row if data is None else row | {"data": data}


def read(body, header=None, inputs=(X,), outputs=(Y,), rows=4):
    return read_request(body, header, inputs, outputs, rows)


@pytest.mark.parametrize("data", [[1, 2.5, -3e-2, 4], [[1, 2.5], [-3e-2, 4]]])
def test_numbers_flat_and_nested(data):
    found = read(request(tensor(data, shape=(2, 2)), id="7"))
    np.testing.assert_array_equal(found.arrays[0], np.array([[1, 2.5], [-3e-2, 4]], np.float32))
    assert (found.id, found.outputs, found.timeout) == ("7", [(0, False)], None)


def test_binary_tensors_follow_in_the_order_of_the_request():
    texts = b"\x02\0\0\0ab\x03\0\0\0\xe2\x82\xac"  # each length in four bytes, the lowest first
    numbers = np.array([[1, 2], [3, 4]], "<f4").tobytes()
    head = request(
        tensor(name="t", shape=[2], datatype="BYTES", binary_data_size=len(texts)),
        tensor(shape=[2, 2], binary_data_size=16),
        tensor([True, False], "b", [2], "BOOL"),
        outputs=[{"name": "y", "parameters": {"binary_data": True}}],
        parameters={"timeout": 1_500_000},
    )
    found = read(head + texts + numbers, str(len(head)), (X, TEXT, FLAG))
    assert found.arrays[0].tolist() == [[1, 2], [3, 4]]
    assert found.arrays[1].tolist() == ["ab", "€"]
    assert found.arrays[2].tolist() == [True, False]
    assert found.outputs == [(0, True)] and found.timeout == 1.5


def test_every_output_as_binary():
    assert read(request(tensor([1, 2]), parameters={"binary_data_output": True})).outputs == [(0, True)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "does not read"),
        (b"{", "does not read"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"inputs": 1}', r"Expected `array`, got `int` - at `\$.inputs`"),
        (b'{"inputs": []}', "the inputs are x, not none"),
        (b"\xff\xfe", "does not read"),
        (b'{"inputs":' + b"[" * 1000 + b"]" * 1000 + b"}", "does not read|too deep"),
        (b'{"id": "", "other":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (request(tensor([1, 2]), parameters={"a": 1}).replace(b"1}", b"[" * 1000 + b"]" * 1000 + b"}"), "nested too deep"),
        (request(tensor([1, 2], "z")), "the inputs are x, not z"),
        (request(tensor([1, 2]), tensor([1, 2])), "the inputs are x, not x, x"),
        (request(tensor([1, 2], datatype="FP64")), "input x is FP32, not FP64"),
        (request(tensor([1, 2], shape=[2])), "input x has the shape anyx2, not 2"),
        (request(tensor([1, 2, 3], shape=[1, 3])), "input x has the shape anyx2, not 1x3"),
        (request(tensor([], shape=[0, 2])), "input x has the shape anyx2, not 0x2"),
        (request(tensor([1, 2], shape=[-1, 2])), "input x has the shape anyx2, not -1x2"),
        (request(tensor([1, 2], shape=[1.5, 2])), "Expected `int`, got `float`"),
        (request(tensor([0] * 10, shape=[5, 2])), "a batch of 5, and at most 4 are taken"),
        (request(tensor([1, 2, 3])), "1x2 are 2 numbers, and the data have 3"),
        (request(tensor([[1], [2]])), "the shape is 1x2, and 2x1 are given"),
        (request(tensor([[1, 2], []], shape=[2, 2])), "2x2 are 4 numbers, and the data have 3"),
        (request(tensor([[1, 2, 3], [4]], shape=[2, 2])), "the data do not read"),
        (request(tensor([[[[1, 2]]]])), "the data do not read"),
        (request(tensor()), "input x has no data"),
        (request(tensor(["a", "b"])), "the data do not read: Expected `float`, got `str`"),
        (request(tensor([1, None])), "the data do not read: Expected `float`, got `null`"),
        (request(tensor("1,2")), "the data do not read: Expected `array`, got `str`"),
        (request(tensor([1, float("nan")])), "does not read"),  # JSON has no NaN
        (request(tensor([1, 2])).replace(b"[1, 2]}", b"[" * 1000 + b"1,2" + b"]" * 1000 + b"}"), "too deep|do not read"),
        (request(tensor([1, 2], shared_memory_region="r")), "this server shares no memory"),
        (request(tensor([1, 2]), outputs=[{"name": "z"}]), "the outputs are y, not z"),
        (request(tensor([1, 2]), outputs=[{"name": "y", "parameters": {"classification": 3}}]), "has no classification"),
        (request(tensor([1, 2]), parameters={"timeout": -1}), "timeout is a number of microseconds, not -1"),
        (request(tensor(binary_data_size=8)), "binary_data_size is 8, and 0 bytes are left"),
        (request(tensor(binary_data_size=-8)), "binary_data_size is -8"),
        (request(tensor(binary_data_size="8")), "binary_data_size is 8, and"),
    ],
)
def test_bad_requests(body, message):
    with pytest.raises(InputError, match=message) as error:
        read(body)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "data", "port", "message"),
    [
        (tensor(binary_data_size=4), b"\0" * 4, X, "1x2 of FP32 are 8 bytes, not 4"),
        (tensor(binary_data_size=8), b"\0" * 12, X, "4 bytes of the body belong to no input"),
        (tensor([1, 2], binary_data_size=8), b"\0" * 8, X, "both in JSON and in binary"),
        (tensor(None, "b", [2], "BOOL", binary_data_size=2), b"\0\2", FLAG, "a byte of 0 or 1"),
        (tensor(None, "t", [1], "BYTES", binary_data_size=3), b"\1\0\0", TEXT, "string 0 ends after the data do"),
        (tensor(None, "t", [1], "BYTES", binary_data_size=6), b"\3\0\0\0ab", TEXT, "string 0 ends after the data do"),
        (tensor(None, "t", [1], "BYTES", binary_data_size=5), b"\1\0\0\0\xff", TEXT, "string 0 is not UTF-8"),
        (tensor(None, "t", [2], "BYTES", binary_data_size=5), b"\1\0\0\0a", TEXT, "2 are 2 strings, not 1"),
    ],
)
def test_bad_binary(row, data, port, message):
    head = request(row)
    with pytest.raises(InputError, match=message):
        read(head + data, str(len(head)), (port,))


@pytest.mark.parametrize("header", ["", "-1", "1e3", "99999", "²"])
def test_bad_lengths_of_the_head(header):
    with pytest.raises(InputError, match="inference-header-content-length is"):
        read(request(tensor([1, 2])), header)


def test_inputs_that_disagree_on_the_batch():
    with pytest.raises(InputError, match="share their first size, the batch; here it is 1, 2"):
        read(request(tensor([1, 2]), tensor([True, True], "b", [2], "BOOL")), inputs=(X, FLAG))


@pytest.mark.parametrize(("kind", "value"), [("INT8", 128), ("UINT8", -1), ("INT64", 2**63)])
def test_whole_numbers_out_of_range(kind, value):
    port = Port("x", kind, (FREE,))
    with pytest.raises(InputError, match="the data do not read"):
        read(request(tensor([value], shape=[1], datatype=kind)), inputs=(port,))


def test_an_answer_that_json_cannot_say():
    asked = read(request(tensor([1, 2])))
    with pytest.raises(InputError, match="output y is not finite"):
        write_response("m", asked, (Y,), [np.array([[np.inf, 1]], np.float32)])


NUMERIC = [name for name in DTYPES if name != "BYTES"]


@given(st.data())
def test_what_is_written_reads_back(data):
    """Whatever array an answer holds, a request of the same rows reads as that array: in JSON and in binary, bit by bit."""
    name = data.draw(st.sampled_from([*NUMERIC, "BYTES"]))
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=4))
    if name == "BYTES":
        texts = st.text(st.characters(exclude_categories=["Cs"]))
        array = data.draw(arrays.arrays(object, shape, elements=texts))
    else:
        dtype = DTYPES[name]
        elements = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
        array = data.draw(arrays.arrays(dtype, shape, elements=elements))
    assert datatype(array.dtype) == name
    port, binary = Port("x", name, (FREE, *shape[1:])), data.draw(st.booleans())
    kind = tensor([], shape=shape, datatype=name)
    asked = read_request(_asking(port, binary, array), None, (port,), (port,), 4)
    body, headers = write_response("m", asked, (port,), [array])
    length = headers.get("inference-header-content-length")
    answer = json.loads(body[: int(length)] if length else body)
    assert (answer["model_name"], answer["outputs"][0]["datatype"]) == ("m", kind["datatype"])
    again = json.dumps({"inputs": answer["outputs"]}).encode()
    rest = body[int(length) :] if length else b""
    found = read_request(again + rest, str(len(again)), (port,), (port,), 4).arrays[0]
    assert found.dtype == array.dtype and found.tolist() == array.tolist()


def _asking(port: Port, binary: bool, array: np.ndarray) -> bytes:
    row = {"name": "x", "datatype": port.datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
    return request(row, outputs=[{"name": "x", "parameters": {"binary_data": binary}}])
