"""Crops and flips by sample, against slices of the padded image."""

import pytest
import torch
import torch.nn.functional as F
from compared_trainings import same_bits, state

from sepdeploy.errors import BadInput
from sepdeploy.training import load_recipe
from sepdeploy.training.augmentation import augment_images


def batch(n=40):
    torch.manual_seed(0)
    return torch.rand(n, 3, 8, 10), torch.arange(n) * 7


@pytest.mark.parametrize("kind", ["crop", "flip", "crop-flip"])
def test_every_image_is_a_crop_of_its_padded_self(kind):
    images, ids = batch()
    found = augment_images(images, ids, 5, kind)
    offsets, mirrored = set(), 0
    for image, result in zip(images, found, strict=True):
        padded = F.pad(image, (4, 4, 4, 4))
        crops = {
            (top, left): padded[:, top : top + 8, left : left + 10]
            for top in range(9)
            for left in range(9)
        }
        hits = [(*at, False) for at, crop in crops.items() if torch.equal(result, crop)]
        hits += [(*at, True) for at, crop in crops.items() if torch.equal(result, crop.flip(2))]
        assert len(hits) == 1
        offsets.add(hits[0][:2])
        mirrored += hits[0][2]
    assert (offsets == {(4, 4)}) == (kind == "flip")
    assert (10 < mirrored < 30) == ("flip" in kind)


def test_the_change_belongs_to_the_sample_and_the_epoch():
    images, ids = batch()
    whole = augment_images(images, ids, 5, "crop-flip")
    order = torch.randperm(40)
    assert torch.equal(augment_images(images[order], ids[order], 5, "crop-flip"), whole[order])
    assert torch.equal(augment_images(images[3:4], ids[3:4], 5, "crop-flip"), whole[3:4])
    assert not torch.equal(augment_images(images, ids, 6, "crop-flip"), whole)


def test_offsets_are_uniform():
    ids = torch.arange(9000)
    images = torch.zeros(9000, 1, 9, 9)
    images[:, :, 4, 4] = 1
    found = augment_images(images, ids, 1, "crop").nonzero()[:, 2]
    counts = torch.bincount(found, minlength=9)
    assert len(counts) == 9
    assert (counts - 1000).abs().max() < 150


def test_nothing_to_do_and_nothing_to_change():
    images, ids = batch()
    assert augment_images(images, ids, 5, "") is images
    with pytest.raises(BadInput, match="needs images"):
        augment_images(images.flatten(1), ids, 5, "flip")
    with pytest.raises(BadInput, match="unknown augment 'mirror'"):
        load_recipe(None, {"augment": "mirror"})


@pytest.mark.slow
def test_trained_and_resumed_to_the_same_bits(train, resumed_and_whole):
    _, whole = resumed_and_whole((2, 2), augment="crop-flip")
    assert not same_bits(state(train("plain").model), state(whole.model))
