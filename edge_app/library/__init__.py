"""Many photos: sift a pile by steps, ask about the pictures that teach most, fetch more of them."""
