"""The work of a run: generate assets, evaluate them, and the flow, placement and devices of the workers that do it."""
