"""Activations between layers: page-locked memory in pieces, and a batch that changes its form."""

import pytest
import torch

from workflow_scripts.compress import decoder
from workflow_scripts.compress.decoder import Batches
from workflow_scripts.compress.settings import CompressionError


def test_page_locked_memory_is_cut_from_pieces_and_shared_by_none(monkeypatch):
    monkeypatch.setattr(decoder, "LOCKED", 4 * 6 * 5)  # bytes of five windows of six float32 numbers
    batches = Batches(11, float("inf"), None)
    places = [batches._lock(torch.zeros(count, 3, 2)) for count in (2, 2, 2, 2, 2, 1)]
    for number, place in enumerate(places):
        place.fill_(number)
    assert [place.shape[0] for place in places] == [2, 2, 2, 2, 2, 1]
    assert all((place == number).all() for number, place in enumerate(places))
    pieces = {place.untyped_storage().data_ptr(): place.untyped_storage().nbytes() for place in places}
    # The last one is as large as what was left.
    assert list(pieces.values()) == [4 * 6 * 5, 4 * 6 * 5, 4 * 6 * 3]


@pytest.mark.parametrize("memory", [float("inf"), 0], ids=["memory", "file"])
@pytest.mark.parametrize("batch", [torch.ones(2, 3, 4), torch.ones(2, 3, 2).double()], ids=["shape", "type"])
def test_a_layer_that_changes_the_form_of_its_states_is_refused(batch, memory, tmp_path):
    batches = Batches(4, memory, tmp_path)
    for number in (1, 2):
        batches.append(torch.full((2, 3, 2), float(number)))
    with pytest.raises(CompressionError, match=r"turns hidden states torch.float32 \(2, 3, 2\) into"):
        batches[0] = batch
    assert (batches[1] == 2).all()
