"""What those who watch a node are told: the access log, metrics, live events, spans."""
