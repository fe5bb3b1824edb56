"""Pictures, videos, cameras, sources, drawing and the sample people."""
