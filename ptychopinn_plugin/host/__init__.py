"""The plugin inside Ptychodus; nothing here imports a framework, and only `view` imports Qt."""
