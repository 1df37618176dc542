"""Data-parallel softmax regression on scikit-learn's handwritten digits: mpiexec -n 4 python examples/digits.py

Every rank has its share of the images.  The parameters are broadcast once, gradients are allreduced, loss and accuracy are
reduced, all over gloompi and after MPI has been finalized.
"""

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits

import gloompi

EPOCHS, RATE, MOMENTUM = 100, 0.5, 0.9
CLASSES = 10


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


def main():
    with gloompi.Context.from_mpi(MPI.COMM_WORLD) as ctx:
        MPI.Finalize()  # from here on, nothing uses MPI
        images, labels = load_digits(return_X_y=True)
        images = np.hstack([images / 16, np.ones((len(images), 1))])
        for_test = np.arange(len(images)) % 5 == 0
        count = np.count_nonzero(~for_test)
        mine, my_labels = images[~for_test][ctx.rank :: ctx.size], labels[~for_test][ctx.rank :: ctx.size]
        test, test_labels = images[for_test][ctx.rank :: ctx.size], labels[for_test][ctx.rank :: ctx.size]
        answers = np.eye(CLASSES)[my_labels]

        weights = np.empty((images.shape[1], CLASSES))
        if ctx.rank == 0:
            weights[:] = np.random.default_rng(1).normal(scale=0.01, size=weights.shape)
        ctx.broadcast(weights, root=0)

        if ctx.rank == 0:
            print(f"{count} images on {ctx.size} ranks\nepoch      loss  train accuracy", flush=True)
        step = np.zeros_like(weights)
        for epoch in range(1, EPOCHS + 1):
            gradient = mine.T @ (probabilities(mine, weights) - answers)
            ctx.allreduce(gradient, out=gradient)
            step = MOMENTUM * step - RATE / count * gradient
            weights += step
            if epoch % 10 == 0:
                total = ctx.reduce(loss_and_hits(mine, my_labels, weights), root=0)
                if ctx.rank == 0:
                    print(f"{epoch:>5}  {total[0] / total[2]:>8.4f}  {total[1] / total[2]:>14.3f}", flush=True)

        _, hits, tested = ctx.allreduce(loss_and_hits(test, test_labels, weights))
        copies = ctx.allgather(weights)
        if any(copy.tobytes() != weights.tobytes() for copy in copies):
            raise SystemExit("the ranks' weights differ")
        if ctx.rank == 0:
            print(f"test accuracy {hits / tested:.3f}; weights identical on all {ctx.size} ranks")
        if hits / tested <= 0.9:
            raise SystemExit("test accuracy is not above 0.9")


if __name__ == "__main__":
    main()
