"""An answer as a configuration that another tool accepts: one file a tool, ``emit`` in `advisor.emit.tools`."""
