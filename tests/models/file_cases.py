"""What tests of model files share: refusals in one line, and edited files."""

import pytest
import torch

from sepdeploy.errors import BadInput
from sepdeploy.models import (
    load,
)


def refused(path, match, **options):
    """Load a file that must be refused by one line, and return the error."""
    with pytest.raises(BadInput, match=match) as caught:
        load(path, **options)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint
    assert len(caught.value.message) < 500
    return caught.value


def edited(path, edit):
    """Change the table of a model file."""
    data = torch.load(path, weights_only=True)
    edit(data)
    torch.save(data, path)
    return path
