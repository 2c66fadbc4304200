"""What a model costs: multiply-accumulates, parameters, bytes and measured latency."""
