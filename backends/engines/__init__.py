"""Other programs: energies and forces from them, and our potentials in them; each file is a plug-in."""
