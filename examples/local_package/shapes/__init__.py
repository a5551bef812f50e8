"""A package of your own; its source goes along with the functions that use it."""
