# The comparison of compare_small.py between several ways of finding widths and their controls (benchmarks.hypothesis).
# bfloat16: a step takes less time on a CPU that has it.
_base_ = "./compare_small.py"
train = dict(precision="bf16-mixed")
# Half of the regular width, as in super_resolution/edsr_reduced_bsds500_confirm.py: with the published floor all ways
# find nearly the same widths.
shrink = dict(floor=0.25)
