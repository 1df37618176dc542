"""Data-parallel softmax regression on scikit-learn's handwritten digits: mpiexec -n 4 python examples/digits.py

Every rank has its share of the images.  The parameters are broadcast once, gradients are allreduced, loss and accuracy are
reduced, all over gloompi and after MPI has been finalized.  When ranks are lost, the others share the images anew and go on
from the last epoch, as far as the launcher lets them live (docs/shrink.md).
"""

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits

import gloompi

EPOCHS, RATE, MOMENTUM = 100, 0.5, 0.9
CLASSES = 10


def load():
    """Images with a column of ones, labels, and which are for the test."""
    images, labels = load_digits(return_X_y=True)
    return np.hstack([images / 16, np.ones((len(images), 1))]), labels, np.arange(len(images)) % 5 == 0


def probabilities(images, weights):
    """Softmax of the scores; shape (images, classes)."""
    scores = images @ weights
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    return scores / scores.sum(axis=1, keepdims=True)


def loss_and_hits(images, labels, weights):
    """Sum of the cross-entropy, number of right answers, number of images."""
    found = probabilities(images, weights)
    right = found[np.arange(len(labels)), labels]
    return np.array([-np.log(right).sum(), (found.argmax(axis=1) == labels).sum(), len(labels)])


def train(ctx, images, labels, count, state):
    """Train on this rank's share of the `count` images; `state` has epoch, weights and momentum after each epoch."""
    state[:] = ctx.broadcast_object(state, root=0)  # ranks may be an epoch apart when one is lost
    first, weights, step = state
    images, labels = images[ctx.rank :: ctx.size], labels[ctx.rank :: ctx.size]
    answers = np.eye(CLASSES)[labels]
    if ctx.rank == 0:
        print(f"{count} images on {ctx.size} ranks\nepoch      loss  train accuracy", flush=True)
    for epoch in range(first + 1, EPOCHS + 1):
        gradient = images.T @ (probabilities(images, weights) - answers)
        ctx.allreduce(gradient, out=gradient)
        step = MOMENTUM * step - RATE / count * gradient
        weights = weights + step
        state[:] = epoch, weights, step
        if epoch % 10 == 0:
            total = ctx.reduce(loss_and_hits(images, labels, weights), root=0)
            if ctx.rank == 0:
                print(f"{epoch:>5}  {total[0] / total[2]:>8.4f}  {total[1] / total[2]:>14.3f}", flush=True)


def test(ctx, images, labels, weights):
    """The test's accuracy, if all ranks have the same weights."""
    _, hits, tested = ctx.allreduce(loss_and_hits(images[ctx.rank :: ctx.size], labels[ctx.rank :: ctx.size], weights))
    if any(copy.tobytes() != weights.tobytes() for copy in ctx.allgather(weights)):
        raise SystemExit("the ranks' weights differ")
    if ctx.rank == 0:
        print(f"test accuracy {hits / tested:.3f}; weights identical on all {ctx.size} ranks")
    if hits / tested <= 0.9:
        raise SystemExit("test accuracy is not above 0.9")


def run(ctx, data, state):
    """Train and test, with fewer ranks if some are lost."""
    images, labels, for_test = data
    try:
        train(ctx, images[~for_test], labels[~for_test], np.count_nonzero(~for_test), state)
        test(ctx, images[for_test], labels[for_test], state[1])
    except gloompi.PeerLostError as loss:
        print(f"rank {ctx.rank} of {ctx.size} goes on without rank {loss.rank}", flush=True)
        with ctx.shrink() as fewer:
            run(fewer, data, state)


def main():
    with gloompi.Context.from_mpi(MPI.COMM_WORLD) as ctx:
        MPI.Finalize()  # from here on, nothing uses MPI
        data = load()
        weights = np.random.default_rng(1).normal(scale=0.01, size=(data[0].shape[1], CLASSES))
        run(ctx, data, [0, weights, np.zeros_like(weights)])


if __name__ == "__main__":
    main()
