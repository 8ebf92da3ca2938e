"""The only place where the service and the library meet."""
