# The reduced EDSR on the photographs that come with scikit-image: runs without any download.
_base_ = "./edsr_reduced_bsds500.py"
dataset = "skimage"
data = dict(benchmarks=("skimage", "Set5", "Set14", "B100", "Urban100"))
