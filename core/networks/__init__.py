"""Networks that several tasks share: ResNets classify images, and are the backbone of a tracker."""
