# The paper's comparison in tracking at a size that a CPU trains in minutes: dimp18_small with its regular backbone and
# with one of found widths, tried on the photographs of `demo` that are not trained on. Needs no download.
_base_ = "dimp18_small.py"
name = "dimp18-small-comparison"
# A widened ResNet-18 of a quarter of the width; floors as in the published command.
shrink = dict(budget=dict(flops=0.9), score="gradient", widen=2.0, floor=0.4, batches=4, batch_size=8)
evaluation = dict(dataset="demo", split="test")
train = dict(eval_every=1000)
