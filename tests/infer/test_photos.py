"""GoogLeNet with its Caffe weights on real photos: every engine gives torch's answers."""

import pytest
import torch

from lamina.data import folder
from lamina.data.image import prepare
from lamina.infer import auto, engines
from lamina.infer.session import Session

COUNT = 24


@pytest.mark.slow
def test_every_engine_sees_the_same(data):
    """With the paper's 89.9 % (top-5, one crop) fewer than 17 of 24 photos have a chance of 0.2 % (binomial)."""
    weights = data / "weights/googlenet/googlenet_bvlc_state_dict.pt"
    paths, labels = folder.load(data / "photos")
    paths, labels = paths[:: len(paths) // COUNT][:COUNT], torch.tensor(labels[:: len(labels) // COUNT][:COUNT])
    plain = Session("googlenet", weights, threads=1)
    x = torch.stack([prepare(path, plain.image) for path in paths])
    expected = plain.scores(x)
    assert int((expected.topk(5, 1).indices == labels[:, None]).any(1).sum()) >= 17
    for engine in [name for name in engines.installed() if name != "compile"]:
        session = Session("googlenet", weights, engine=engine, rewrite=True, batch=8, threads=1)
        found = session.scores(x)
        assert auto.difference([found], [expected]) < 1e-5, engine
        assert torch.equal(found.argmax(1), expected.argmax(1)), engine
