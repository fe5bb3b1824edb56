"""From a picture to names, things or classes; opening a session; enrolling again."""
