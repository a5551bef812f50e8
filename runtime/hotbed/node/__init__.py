"""The node agent: backends that isolate, containers, pools, logs and the GPU inventory of one machine."""
