"""What the scripts run: trainings, measurements, and what watches them."""
