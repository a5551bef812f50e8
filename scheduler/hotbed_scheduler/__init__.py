"""The control plane: a pure scheduling core (events in, actions out) and the thin I/O shell around it."""
