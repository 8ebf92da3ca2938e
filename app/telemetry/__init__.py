"""What the service tells about itself: ids in logs, spans, metrics. Never what people wrote."""
