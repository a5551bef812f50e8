"""What runs inside a container. Standard library and cloudpickle only."""
