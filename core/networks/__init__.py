"""Networks that several tasks share: ResNets classify images, and a tracker looks through their stages."""
