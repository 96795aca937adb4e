"""How the values of a configuration are taken and checked."""
