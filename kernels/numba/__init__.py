"""CPU kernels: one network on one core, every sum in a fixed order, so that no result depends on its neighbours."""
