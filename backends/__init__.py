"""Built-in plug-ins, reached by name through the registry."""
