"""Floor 3: one class makes one port real. Each folder knows one technology and none of the others."""
