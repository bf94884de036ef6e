"""What tests of trainings compare: weights to the bit or nearly; and where they interrupt them."""

import torch


def state(model):
    return model.net.state_dict()


def same_bits(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def relative(first, second):
    """How far the weights of two models are apart, by the norm of the first's."""
    a, b = (dict(model.net.named_parameters()) for model in (first, second))
    assert a.keys() == b.keys()
    pairs = [(a[k].detach().double(), b[k].detach().double()) for k in a]
    difference = sum(((p - q) ** 2).sum() for p, q in pairs)
    return float((difference / sum((p**2).sum() for p, _ in pairs)) ** 0.5)


def stop_in(epoch, step):
    """What ``watch`` of a training presses Ctrl-C with, when it has taken this step."""

    def watch(event):
        if event.kind == "step" and (event.epoch, event.step) == (epoch, step):
            raise KeyboardInterrupt

    return watch
