"""A file of backbones as a user may write it."""

SOURCE = """
from torch import nn

def conv(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())

class Stages(nn.Module):
    def __init__(self, last=2):
        super().__init__()
        self.stem = conv(3, 8)
        self.one, self.two, self.three = conv(8, 8), conv(8, 12), conv(12, 20)
        self.last = last

    def forward(self, x):
        fine = self.two(self.one(self.stem(x)))
        return {"layer2": fine, "layer3": self.three(fine), "extra": x}

class Deep(nn.Module):
    "A ResNet by timm's names, with a head that cannot take small images."
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.fc = nn.Conv2d(8, 8, 1), conv(8, 12), conv(12, 20), nn.Linear(9, 9)

    def forward(self, x):
        x = self.layer1(self.maxpool(self.act1(self.bn1(self.conv1(x)))))
        return self.fc(self.layer3(self.layer2(x)).flatten())

class Flat(Stages):
    def forward(self, x):
        return super().forward(x)["layer3"]

class Shallow(Stages):
    def forward(self, x):
        stages = super().forward(x)
        return {"layer2": stages["extra"], "layer3": stages["layer2"]}

class Half(Stages):
    def forward(self, x):
        return {"layer3": super().forward(x)["layer3"]}

def broken():
    return nn.Conv2d(7, 7, 1)
"""
