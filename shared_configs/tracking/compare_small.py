# The paper's comparison in tracking at a size that a CPU trains in minutes: dimp18_small with its regular backbone and
# with one of found widths, tried on sixty random scenes of the photographs of `demo` that are not trained on. Needs no
# download: without OTB, so that everybody trains on the same sequences.
_base_ = "dimp18_small.py"
name = "dimp18-small-comparison"
# A widened ResNet-18 of a quarter of the width; floors as in the published command.
shrink = dict(budget=dict(flops=0.9), score="gradient", widen=2.0, floor=0.4, batches=4, batch_size=8)
data = dict(
    sources=(
        dict(dataset="demo", split="train", weight=0.5),
        dict(dataset="demo", split="random", weight=0.5),
    ),
)
# One lost sequence of the six of `test` is ten points of AUC.
evaluation = dict(dataset="demo", split="random_test")
# Shorter than the protocol that it goes by: several backbones and seeds are many trainings.
train = dict(eval_every=1000, epochs=24)
