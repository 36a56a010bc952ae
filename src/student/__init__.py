"""Stage (b): the student, with or without compensation."""
