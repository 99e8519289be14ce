# The inverted bottleneck network of the table of 32,768 trained networks (docs/results/channel_bench.md),
# at its own size, on the exploration's images: does what the table says of CIFAR-10 hold for other images
# and another recipe?
_base_ = "./mobilenetv2_small_tiny_imagenet_explore.py"
model = "benchmarks.channel_bench_networks:regular_mobilenet"
train = dict(epochs=20, eval_every=20)
