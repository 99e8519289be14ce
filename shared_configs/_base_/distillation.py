# As in LW-DNA's reference implementation: 0.6 cross-entropy + 0.4 T^2 KL(teacher, student). The teacher is the
# baseline, widened.
distillation = dict(temperature=4.0, hard_weight=0.6, soft_weight=0.4)
