"""A tiny network and two tasks, for tests of deep immunization; apart, for other processes."""

import torch

nn = torch.nn


class Net(nn.Module):
    """A trunk, a glue of functions, two last blocks and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.block1 = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 12), nn.ReLU())
        self.block2 = nn.Sequential(nn.Linear(12, 8), nn.Tanh())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x, scale=None):
        x = torch.relu(self.norm(self.stem(x)))
        x = self.block1(x) + 0.1
        x = self.block2(x)
        if scale is not None:
            x = x * scale[:, None]
        return self.head(self.drop(x))


def data(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 6, 6, generator=generator)
    y = (x[:, 0, 0, 0] > 0).long() + (x[:, 0, 1, 1] > 0).long()
    return torch.utils.data.TensorDataset(x, y)


def loaders(count=64, size=32, **options):
    return {
        name: torch.utils.data.DataLoader(
            data(count, seed), batch_size=size, shuffle=True, **options
        )
        for name, seed in (("primary", 1), ("harmful", 2))
    }


def net(kind=Net):
    torch.manual_seed(0)
    return kind().eval()


def states_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
