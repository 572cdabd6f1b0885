"""What is measured of the program itself: how fast it is, and that it runs at the published models' size."""
