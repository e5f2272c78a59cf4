"""The torch front end: a module becomes a `Workload`."""
