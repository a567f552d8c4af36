"""What the SK units of trained networks attend to, and what following the image is worth."""
