"""What things are: manifolds, transforms, layers, flows, potentials, integrators and the plug-in registry."""
